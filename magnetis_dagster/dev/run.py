"""Run `magnetis dev`: start the programs, load days, serve and stop."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import httpx
from rich.console import Console
from rich.markup import escape

from magnetis_dagster.connections import Connection, load_connections
from magnetis_dagster.dagster_support.orphaned_runs import any_orphans
from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.database import embedded
from magnetis_dagster.database.connection import without_password
from magnetis_dagster.defs.job_names import JOB_NAMES
from magnetis_dagster.dev.children import Children
from magnetis_dagster.dev.console import LoadProgress, Steps, print_summary
from magnetis_dagster.dev.home import (
    bind_error,
    check_port,
    claim_home,
    claim_sandbox_port,
    dagster_home,
    free_port,
    project_files,
)
from magnetis_dagster.dev.load import (
    LANE,
    LoadResult,
    batches,
    load,
    missing_days,
    requested_days,
)
from magnetis_dagster.dev.signals import Interrupted, StopSignals
from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.privacy.key_file import load_or_create_key
from magnetis_dagster.running_dev import RunningDev, publish
from magnetis_dagster.sandbox import SANDBOX_KEY, SANDBOX_KEYS
from magnetis_dagster.settings import Settings, SettingsError
from magnetis_dagster.warehouse.first_days import first_day
from magnetis_dagster.warehouse.source import adopt
from magnetis_dagster.warehouse.summary import keys_used, summary
from magnetis_dagster.wiring import (
    database_url,
    declare_connections,
    ledger_of,
    open_engine,
    uses_sandbox,
    warehouse_of,
)

LOAD_DAYS = 30
"""Days to load from the sandbox by default. From the real API, load none by default."""

SANDBOX_PORT = 8250
SANDBOX_URL = f"http://127.0.0.1:{SANDBOX_PORT}"
"""The same port at every start if it is free, so that exported variables stay valid."""

START_SECONDS = 300
"""The first start compiles Dagster's 3,000 modules; that took 60 s on a slow laptop under load."""


class LoadFailed(TransientError):
    """Some requested days were not loaded, for the reasons in the text."""


class LoadRefused(PermanentError):
    """Some days cannot be loaded without a change, for the reasons in the text."""


class StartFailed(TransientError):
    """A program was not ready in time; the text names its log."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """Options of the command."""

    load_days: int | None = None
    """Complete days to load of each events collection, together with today's snapshots.

    0 loads nothing. None loads LOAD_DAYS from the sandbox, and nothing from the real API.
    """
    exit_after_load: bool = False
    host: str = "127.0.0.1"
    port: int = 3000
    database_port: int | None = None
    """TCP port of the embedded server, as in `embedded.start`."""


class MixedData(PermanentError):
    """The database would mix rows of the sandbox with rows of the real API."""


def dev(options: DevOptions, settings: Settings, signals: StopSignals, console: Console) -> None:
    """Start, load and serve until a signal, or until the load ends.

    Raises: MagnetisError if a step fails. Interrupted if a signal arrives before it serves.
    """
    os.umask(0o077)  # files of this process and its children are private
    session = _Session(options, settings, signals, console)
    try:
        with claim_home(session.home):
            try:
                with Steps(console) as session.steps:
                    session.start()
                with publish(session.home, session.running):
                    session.load()
                    if not options.exit_after_load:
                        session.serve()
            finally:
                signals.ignore()
                session.stop()
    except Interrupted:
        if not session.serving:
            raise


class _Session:
    def __init__(
        self, options: DevOptions, settings: Settings, signals: StopSignals, console: Console
    ) -> None:
        self.options = options
        self.signals = signals
        self.console = console
        self.home = settings.home.resolve()
        self.connections = [
            replace(each, settings=settings) if each.is_unnamed else each
            for each in load_connections()
        ]
        self.children = Children(self.home)
        # this terminal may have the variables that the sandbox prints for other terminals
        own = uses_sandbox(settings) and settings.api_url == SANDBOX_URL and _is_sandbox_port_free()
        named = [each for each in self.connections if not each.is_unnamed]
        # never with declared connections: they would load the sandbox or, unasked, the real API
        self.sandbox = not named and (own or settings.api_key is None)
        self.settings = settings
        self.own_database = settings.database_address
        self.serving = False
        self.steps = Steps(console)
        host = "127.0.0.1" if options.host in {"0.0.0.0", "::"} else options.host  # noqa: S104 - compared, not bound
        self.ui = f"http://{f'[{host}]' if ':' in host else host}:{options.port}"

    def start(self) -> None:
        self.steps.begin("Starting PostgreSQL")
        # two Dagster daemons on one database would launch every schedule twice
        if number := self.children.stop_leftovers(lambda: self.signals.count > 1):
            self._say(f"Stopped {number} processes of a killed magnetis dev.")
        check_port(self.options.host, self.options.port)
        dagster_yaml, workspace_yaml = project_files()
        changes = self._start_database()
        self.settings = Settings.load(**changes)
        self.connections = [
            replace(each, settings=self.settings) if each.is_unnamed else each
            for each in self.connections
        ]
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(dagster_home(self.home, dagster_yaml)),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            **{f"MAGNETIS_{name.upper()}": str(value) for name, value in changes.items()},
        }
        self._end_orphans(environment)
        self.steps.begin("Preparing the tables")
        quota, port = str(self.settings.daily_quota), self.settings.api_url.rpartition(":")[2]
        sandbox = _python("cli", "sandbox", "--port", port, "--daily-quota", quota)
        workspace = ("--workspace", str(workspace_yaml))
        address = ("--host", self.options.host, "--port", str(self.options.port))
        dagster = _python("dagster_support.dev_processes", *workspace, *address)
        with self.signals.defer():
            if self.sandbox:
                self.children.start("sandbox", sandbox, environment)
            self.children.start("dagster", dagster, environment)
        self._prepare_database()
        self._print_source()
        self.steps.begin("Starting Dagster")
        if self.sandbox:
            self._wait_until(lambda: _is_reachable(self.settings.api_url), "sandbox")
        with DagsterApi(self.ui) as api:
            self._wait_until(api.loaded, "dagster")
        if not self.options.exit_after_load:
            self._print_addresses()

    def _start_database(self) -> dict[str, object]:
        """Start the database; return the settings that differ from the user's."""
        with self.signals.defer():  # an interrupted start would leave a server running
            url = database_url(self.settings, port=self.options.database_port)
        if self.settings.database_url is None and self.settings.privacy_key is None:
            # the processes of Dagster know the server by its address, and read the file
            load_or_create_key(self.home)
        # the embedded server has no password
        self.database = without_password(url) if self.settings.database_url else url
        changes: dict[str, object] = {"home": self.home, "database_url": url}
        if self.sandbox:
            claim = claim_sandbox_port(SANDBOX_PORT) if _is_sandbox_port_free() else None
            port = free_port() if claim is None else SANDBOX_PORT
            changes |= {"api_key": SANDBOX_KEY, "api_url": f"http://127.0.0.1:{port}"}
            if "start_date" not in self.settings.model_fields_set:
                changes["start_date"] = self._first_sandbox_day(url)
        return changes

    def _print_source(self) -> None:
        url = self.settings.api_url
        if not self.sandbox:
            for each in self.connections:
                name = "MAGNETIS_API_KEY is set" if each.is_unnamed else f"Connection {each.name}"
                self._say(f"{name}: using {each.settings.api_url}.")
            return
        self._say(f"No MAGNETIS_API_KEY: using the local sandbox at {url}. Its data is invented.")
        self._say(
            "The sandbox edits an alert after 2 minutes, and the sensors report it at their next "
            "tick (docs/sandbox.md)."
        )
        self._say(
            "Commands in this folder use the sandbox too. In another folder: export "
            f"MAGNETIS_API_URL={url} MAGNETIS_API_KEY={SANDBOX_KEY}"
        )

    @property
    def running(self) -> RunningDev:
        """State that commands in other terminals use."""
        settings = self.settings
        if settings.api_key is None or not uses_sandbox(settings):
            return RunningDev(settings.api_url, None, self.own_database, ui=self.ui)
        key, start = settings.api_key.get_secret_value(), settings.start_date.isoformat()
        return RunningDev(settings.api_url, key, self.own_database, start, self.ui)

    def load(self) -> None:
        days = self.options.load_days
        if days is None and not self.sandbox:
            self._print_load_hints()
            return
        days = LOAD_DAYS if days is None else days
        if days == 0:
            return
        result = LoadResult()
        for each in self.connections:
            try:
                each.settings.require_key()
            except SettingsError as missing:
                result.add(LoadResult([], {each.name: str(missing)}, {each.name: "SettingsError"}))
                continue
            result.add(self._load_connection(each, days))
        if not self.options.exit_after_load:
            self._print_addresses()
        self._report_failures(result)

    def _load_connection(self, connection: Connection, days: int) -> LoadResult:
        settings, catalogue = connection.settings, connection.catalogue
        today = datetime.now(settings.timezone).date()
        requested = requested_days(catalogue.enabled, days, today=today, start=settings.start_date)
        with DagsterApi(self.ui, prefix=connection.key_prefix) as api:
            api.loaded()  # finds the name of the repository
            if not self.sandbox:
                self._print_price(api, connection, requested)
            result = self._load_days(api, connection, requested)
        first = min((day for days in requested.values() for day in days), default=today)
        with open_engine(settings) as engine:
            lines = summary(
                engine, catalogue, first, today, result.runs, connection_name=connection.name
            )
        named = "" if connection.is_unnamed else f"{connection.name}: "
        print_summary(self.console, f"{named}{first} to {today}", lines)
        return result.of(named)

    def _print_load_hints(self) -> None:
        self._say(
            "With an API key, the start loads nothing, because that spends API calls. Schedules "
            "and settings sensors are on. To load a week: magnetis dev --load 7"
        )
        if "start_date" not in self.settings.model_fields_set:
            example = datetime.now(self.settings.timezone).date().replace(month=1, day=1)
            self._say(
                "MAGNETIS_START_DATE is not set, so events have a partition for each day since "
                f"{self.settings.start_date}. Set it in .env to the first day of your history, "
                f"such as MAGNETIS_START_DATE={example}. `magnetis plan calls` shows the rows "
                "since then and their price."
            )

    def _load_days(
        self, api: DagsterApi, connection: Connection, requested: dict[str, list[date]]
    ) -> LoadResult:
        # The sensors load their collections in their first ticks, which started before. So load
        # these collections last, if they are still missing.
        collections, result = connection.catalogue.enabled, LoadResult()
        in_sensors = {each.name for each in collections if each.sensor}
        jobs = {each.name: connection.scoped(JOB_NAMES[each.kind]) for each in collections}
        with ExitStack() as stack:
            if not self.console.is_terminal:  # a terminal shows bars instead of steps
                self.steps = stack.enter_context(Steps(self.console))
                self.steps.begin("Loading")
            progress = stack.enter_context(LoadProgress(self.console, self.steps.restart_timer))
            for names in (requested.keys() - in_sensors, requested.keys() & in_sensors):
                part = {name: days for name, days in requested.items() if name in names}
                result.add(load(api, part, progress, self._check, jobs))
        return result

    def serve(self) -> None:
        self.signals.check()
        self.serving = True
        self._say("Serving until Ctrl-C.")
        while True:
            time.sleep(1)
            self._check()

    def stop(self) -> None:
        before = self.signals.count
        if self.children.any_started:
            self._say(
                "Stopping; unfinished runs resume at the next start. "
                "Press Ctrl-C again to stop immediately."
            )
        with Steps(self.console) as self.steps:
            self.steps.begin("Stopping")
            self.children.stop(lambda: self.signals.count > before)
            embedded.stop(self.home)

    def _first_sandbox_day(self, url: str) -> date:
        """Return the first day to load now or loaded earlier."""
        today = datetime.now(self.settings.timezone).date()
        first = today - timedelta(days=self.options.load_days or LOAD_DAYS)
        with open_engine(Settings.load(home=self.home, database_url=url)) as engine:
            [connection] = self.connections  # the sandbox has one
            events = [each.name for each in connection.catalogue.enabled if each.is_events]
            loaded = first_day(engine, events)
        return min(first, loaded or first)

    def _end_orphans(self, environment: dict[str, str]) -> None:
        with open_engine(self.settings) as engine:
            if not any_orphans(engine):
                return
        completed = subprocess.run(  # noqa: S603
            _python("dagster_support.orphaned_runs"),
            env=environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if completed.returncode:
            raise StartFailed(
                "Could not end the unfinished runs of the previous magnetis dev:\n"
                f"{completed.stderr[-2000:]}"
            )
        self._say(f"Unfinished runs of the previous magnetis dev: {completed.stdout.strip()}.")

    def _prepare_database(self) -> None:
        for each in self.connections:
            settings = each.settings
            with open_engine(settings) as engine:
                warehouse_of(engine, settings, each.catalogue).prepare()
                if each.is_unnamed:
                    self._require_one_source(keys_used(engine, connection_name=each.name))
                if self.sandbox:
                    # the sandbox generates the same rows on any port
                    key, origin = settings.key_fingerprint, settings.api_url
                    adopt(engine, key_fingerprint=key, origin=origin)
        with open_engine(self.connections[0].settings) as engine:
            declare_connections(engine, self.connections, complete=True)

    def _require_one_source(self, used: set[str]) -> None:
        """Raise MixedData if the unnamed connection would mix sandbox and real rows.

        `used` contains the fingerprints of its past keys.
        """
        sandbox = {Settings.load(api_key=key).key_fingerprint for key in SANDBOX_KEYS}
        if uses_sandbox(self.settings) and used - sandbox:
            raise MixedData(
                "This database contains rows of the real API, and MAGNETIS_API_KEY is not set: "
                "the sandbox would add invented rows. Set the key, or use a separate folder "
                "(MAGNETIS_HOME) or database (MAGNETIS_DATABASE_URL) for the sandbox."
            )
        if not uses_sandbox(self.settings) and sandbox & used:
            raise MixedData(
                "This database contains rows invented by the sandbox; rows of the real API would "
                f"be added to them. Remove the folder {self.home}, or use a separate folder "
                "(MAGNETIS_HOME) or database (MAGNETIS_DATABASE_URL) for the real data."
            )

    def _wait_until(self, ready: Callable[[], bool], name: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not ready():
            self._check()
            if time.monotonic() > end:
                raise StartFailed(
                    f"{name} was not ready after {START_SECONDS} s. Read its log, "
                    f"{self.children.logs / name}.log, and start again."
                )
            time.sleep(0.2)

    def _check(self) -> None:
        self.signals.check()
        self.children.check()

    def _print_price(
        self, api: DagsterApi, connection: Connection, requested: dict[str, list[date]]
    ) -> None:
        settings = connection.settings
        least = sum(len(batch.collections) for batch in batches(missing_days(api, requested)))
        with open_engine(settings) as engine:
            available = ledger_of(engine, settings).left(LANE)
        load = "This load" if connection.is_unnamed else f"The load of {connection.name}"
        self._say(
            f"{load} costs at least {least:,} API calls, plus one per further 250 rows of a "
            f"collection. {available:,} of {settings.daily_quota:,} calls a day are available "
            "to it now; the others are spent or reserved for schedules."
        )

    def _report_failures(self, result: LoadResult) -> None:
        if not result.failures:
            return
        reasons = "\n".join(f"  {line}" for line in result.reasons())
        text = (
            f"Some days were not loaded:\n{reasons}\n"
            "Start again to load the missing days; loaded days are kept."
        )
        if self.options.exit_after_load:
            raise LoadRefused(text) if result.needs_change() else LoadFailed(text)
        self._say(text)

    def _print_addresses(self) -> None:
        self._say(f"  Dagster UI  {self.ui}")
        self._say(f"  Database    {self.database}")
        self._say(f"  Logs        {self.children.logs}")

    def _say(self, line: str) -> None:
        self.console.print(escape(line), highlight=False, soft_wrap=True)
        self.steps.restart_timer()


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"magnetis_dagster.{module}", *arguments]


def _is_sandbox_port_free() -> bool:
    return bind_error("127.0.0.1", SANDBOX_PORT) is None


def _is_reachable(url: str) -> bool:
    try:
        httpx.get(url, timeout=2, trust_env=False)
    except httpx.HTTPError:
        return False
    return True
