"""`magnetis dev` from start to end: claim the folder, start database, sandbox and Dagster, load, serve, stop."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.dagster_support.orphaned_runs import any_orphans
from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.database import embedded
from magnetis_dagster.database.connection import without_password
from magnetis_dagster.dev import home as claims
from magnetis_dagster.dev.children import Children
from magnetis_dagster.dev.console import LoadProgress, Steps, print_summary
from magnetis_dagster.dev.load import (
    LANE,
    Outcome,
    asked_days,
    batches,
    jobs_of,
    load,
    missing_days,
)
from magnetis_dagster.dev.signals import Interrupted, StopSignals
from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.running_dev import RunningDev, announced
from magnetis_dagster.sandbox import SANDBOX_KEY, SANDBOX_KEYS
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.first_days import first_day
from magnetis_dagster.warehouse.source import adopt
from magnetis_dagster.warehouse.summary import keys_used, summary
from magnetis_dagster.wiring import database_url, ledger_of, open_engine, uses_sandbox, warehouse_of

LOAD_DAYS = 30
"""Days that are loaded from the sandbox by default. From the real API, none: its calls are the user's to spend."""

SANDBOX_PORT = 8250
SANDBOX_URL = f"http://127.0.0.1:{SANDBOX_PORT}"
"""The same at every start if it is free, so variables that other terminals export stay right."""

START_SECONDS = 300
"""A first start compiles Dagster's 3,000 modules; a slow laptop under load took a minute."""


class LoadFailed(TransientError):
    """Some requested days were not loaded; the text lists them with the reasons."""


class LoadRefused(PermanentError):
    """Some requested days cannot be loaded until somebody changes something; the text lists them with the reasons."""


class StartFailed(TransientError):
    """A program did not get ready in time; the text names its log."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What the user asked for."""

    load_days: int | None = None
    """Closed days to load of each events collection, with today's snapshots; 0 loads nothing, None: LOAD_DAYS with the sandbox."""
    exit_after_load: bool = False
    host: str = "127.0.0.1"
    port: int = 3000
    database_port: int | None = None
    """Port of the embedded server on 127.0.0.1, as in `embedded.start`."""


class MixedData(PermanentError):
    """The database holds rows of the sandbox and rows of the real API would join them, or the other way round."""


def dev(options: DevOptions, settings: Settings, signals: StopSignals, console: Console) -> None:
    """Run until the load is over (`exit_after_load`) or somebody stops it. Raises MagnetisError; Interrupted before it serves."""
    os.umask(0o077)  # what it and its children write is for their owner only
    session = _Session(options, settings, signals, console)
    try:
        with claims.claimed(session.home):
            try:
                with Steps(console) as session.steps:
                    session.start()
                with announced(session.home, session.running):
                    session.load()
                    if not options.exit_after_load:
                        session.serve()
            finally:
                signals.hold()
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
        self.catalogue = load_catalogue(settings.config)
        self.children = Children(self.home)
        # the variables that are shown for other terminals may be set in this one too
        own = uses_sandbox(settings) and settings.api_url == SANDBOX_URL and _free(SANDBOX_PORT)
        self.sandbox = settings.api_key is None or own
        self.settings = settings
        self.own_database = settings.database_address
        self.serving = False
        self.steps: Steps | None = None
        shown = "127.0.0.1" if options.host in {"0.0.0.0", "::"} else options.host  # noqa: S104 - compared, not bound
        self.ui = (
            f"http://[{shown}]:{options.port}" if ":" in shown else f"http://{shown}:{options.port}"
        )

    def start(self) -> None:
        self._begin("Starting PostgreSQL")
        # a Dagster that a killed predecessor left: two daemons on one database would launch every schedule twice
        if number := self.children.stop_leftovers(lambda: self.signals.count > 1):
            self._say(f"Stopped {number} processes of a magnetis dev that was killed.")
        claims.check_port(self.options.host, self.options.port, option="--port")
        dagster_yaml, workspace_yaml = claims.project_files()
        with self.signals.held():  # interrupted half way, a server would stay behind
            url = database_url(self.settings, port=self.options.database_port)
        self.database = (
            without_password(url) if self.settings.database_url else url
        )  # the embedded server has none
        changes: dict[str, object] = {"home": self.home, "database_url": url}
        if self.sandbox:
            port = SANDBOX_PORT if _free(SANDBOX_PORT) else claims.free_port()
            changes |= {"api_key": SANDBOX_KEY, "api_url": f"http://127.0.0.1:{port}"}
            if "start_date" not in self.settings.model_fields_set:
                changes["start_date"] = self._first_sandbox_day(url)
        self.settings = Settings.load(**changes)
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(claims.dagster_home(self.home, dagster_yaml)),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            **{f"MAGNETIS_{name.upper()}": str(value) for name, value in changes.items()},
        }
        self._end_orphans(environment)
        self._begin("Preparing the tables")
        with self.signals.held():
            if self.sandbox:
                self.children.start("sandbox", self._sandbox_command(), environment)
            self.children.start("dagster", self._dagster_command(workspace_yaml), environment)
        self._prepare_database()
        if self.sandbox:
            url = self.settings.api_url
            self._say(
                f"No MAGNETIS_API_KEY: using the local sandbox at {url}. Its data is invented."
            )
            self._say(
                "After two minutes an alert is edited, and the sensors report it at their next tick (docs/sandbox.md)."
            )
            self._say(
                "Commands in this folder use it too. In another folder: export "
                f"MAGNETIS_API_URL={url} MAGNETIS_API_KEY={SANDBOX_KEY}"
            )
        else:
            self._say(f"MAGNETIS_API_KEY is set: using {self.settings.api_url}.")
        self._begin("Starting Dagster")
        if self.sandbox:
            self._until(lambda: _answers(self.settings.api_url), "sandbox")
        with DagsterApi(self.ui) as api:
            self._until(api.loaded, "dagster")
        if not self.options.exit_after_load:
            self._addresses()

    @property
    def running(self) -> RunningDev:
        """What commands in other terminals need to know of it."""
        settings = self.settings
        if settings.api_key is None or not uses_sandbox(settings):
            return RunningDev(settings.api_url, None, self.own_database)
        key, start = settings.api_key.get_secret_value(), settings.start_date.isoformat()
        return RunningDev(settings.api_url, key, self.own_database, start)

    def load(self) -> None:
        days = self.options.load_days
        if days is None and not self.sandbox:
            self._say(
                "Nothing is loaded at the start with a real key, because that spends calls. Schedules and settings sensors are on. "
                "To load a week: magnetis dev --load 7"
            )
            if "start_date" not in self.settings.model_fields_set:
                start, example = (
                    self.settings.start_date,
                    datetime.now(self.settings.timezone).date().replace(month=1, day=1),
                )
                self._say(
                    f"MAGNETIS_START_DATE is not set, so events have a partition for each day since {start}. Put the day on which "
                    f"your history begins into .env, such as MAGNETIS_START_DATE={example}. `magnetis plan calls` shows the rows "
                    "since then and their price."
                )
        days = days if days is not None else LOAD_DAYS if self.sandbox else 0
        if days == 0:
            return
        today = datetime.now(self.settings.timezone).date()
        asked = asked_days(
            self.catalogue.enabled, days, today=today, start=self.settings.start_date
        )
        with DagsterApi(self.ui) as api:
            if not self.sandbox:
                self._price(api, asked)
            # the sensors load what they watch in their first ticks, which began before this: so it comes last, if at all
            watched = {
                collection.name for collection in self.catalogue.enabled if collection.sensor
            }
            outcome, jobs = Outcome(), jobs_of(self.catalogue.enabled)
            with self._loading() as progress:
                for part in (asked.keys() - watched, asked.keys() & watched):
                    outcome.add(
                        load(
                            api,
                            {name: asked[name] for name in asked if name in part},
                            progress,
                            self._check,
                            jobs,
                        )
                    )
        with open_engine(self.settings) as engine:
            first = min(day for days in asked.values() for day in days)
            print_summary(
                self.console,
                f"{first} to {today}",
                summary(engine, self.catalogue, first, today, outcome.runs),
            )
        if not self.options.exit_after_load:
            self._addresses()
        self._judge(outcome)

    @contextmanager
    def _loading(self) -> Iterator[LoadProgress]:
        with ExitStack() as shown:
            if not self.console.is_terminal:  # which shows bars
                self.steps = shown.enter_context(Steps(self.console))
                self._begin("Loading")
            yield shown.enter_context(
                LoadProgress(self.console, self.steps.printed if self.steps else lambda: None)
            )

    def serve(self) -> None:
        self.signals.check()
        self.serving = True
        self._say("Serving until Ctrl-C.")
        while True:
            time.sleep(1)
            self._check()

    def stop(self) -> None:
        before = self.signals.count
        if self.children.started:
            self._say(
                "Stopping; unfinished runs resume at the next start. Press Ctrl-C again to stop immediately."
            )
        with Steps(self.console) as self.steps:
            self._begin("Stopping")
            self.children.stop(lambda: self.signals.count > before)
            embedded.stop(self.home)

    def _first_sandbox_day(self, url: str) -> date:
        """Return the first day that this start loads or an earlier one has loaded: no invented day before it is missing."""
        first = datetime.now(self.settings.timezone).date() - timedelta(
            days=self.options.load_days or LOAD_DAYS
        )
        with open_engine(Settings.load(home=self.home, database_url=url)) as engine:
            loaded = first_day(
                engine,
                [collection.name for collection in self.catalogue.enabled if collection.is_events],
            )
        return min(first, loaded or first)

    def _sandbox_command(self) -> list[str]:
        port = self.settings.api_url.rpartition(":")[2]
        quota = str(self.settings.daily_quota)
        return [
            sys.executable,
            "-m",
            "magnetis_dagster.cli",
            "sandbox",
            "--port",
            port,
            "--daily-quota",
            quota,
        ]

    def _dagster_command(self, workspace_yaml: Path) -> list[str]:
        address = ["--host", self.options.host, "--port", str(self.options.port)]
        return [
            sys.executable,
            "-m",
            "magnetis_dagster.dagster_support.dev_processes",
            "--workspace",
            str(workspace_yaml),
            *address,
        ]

    def _end_orphans(self, environment: dict[str, str]) -> None:
        with open_engine(self.settings) as engine:
            if not any_orphans(engine):
                return
        command = [sys.executable, "-m", "magnetis_dagster.dagster_support.orphaned_runs"]
        ended = subprocess.run(  # noqa: S603
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if ended.returncode:
            raise StartFailed(
                f"Runs that the last magnetis dev left unfinished could not be ended:\n{ended.stderr[-2000:]}"
            )
        self._say(f"Runs that the last magnetis dev left unfinished: {ended.stdout.strip()}.")

    def _prepare_database(self) -> None:
        with open_engine(self.settings) as engine:
            warehouse_of(engine, self.settings, self.catalogue).prepare()
            self._require_one_source(keys_used(engine))
            if self.sandbox:
                # the sandbox invents the same rows under any port
                adopt(
                    engine,
                    key_fingerprint=self.settings.key_fingerprint,
                    origin=self.settings.api_url,
                )

    def _require_one_source(self, used: set[str]) -> None:
        """Raise MixedData unless the keys that filled the database are of the same kind as ours."""
        invented = {Settings.load(api_key=key).key_fingerprint for key in SANDBOX_KEYS}
        if uses_sandbox(self.settings) and used - invented:
            raise MixedData(
                "This database holds rows of the real API, and no MAGNETIS_API_KEY is set: rows invented by the sandbox would join "
                "them. Set the key, or give the sandbox a folder (MAGNETIS_HOME) or a database (MAGNETIS_DATABASE_URL) of its own."
            )
        if not uses_sandbox(self.settings) and invented & used:
            raise MixedData(
                "This database holds rows invented by the sandbox, and rows of the real API would join them. Remove the folder "
                f"{self.home}, or give the real data a folder (MAGNETIS_HOME) or a database (MAGNETIS_DATABASE_URL) of its own."
            )

    def _until(self, ready: Callable[[], bool], name: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not ready():
            self._check()
            if time.monotonic() > end:
                raise StartFailed(
                    f"{name} was not ready after {START_SECONDS} s. Read its log, {self.children.logs / name}.log, and start again."
                )
            time.sleep(0.2)

    def _check(self) -> None:
        self.signals.check()
        self.children.check()

    def _price(self, api: DagsterApi, asked: dict[str, list[date]]) -> None:
        least = sum(len(batch.collections) for batch in batches(missing_days(api, asked)))
        with open_engine(self.settings) as engine:
            left = ledger_of(engine, self.settings).left(LANE)
        self._say(
            f"This load costs at least {least:,} API calls, and one more for every further 250 rows of a collection. "
            f"{left:,} of {self.settings.daily_quota:,} calls a day are available to it now; the others are spent or reserved for "
            "schedules."
        )

    def _judge(self, outcome: Outcome) -> None:
        if not outcome.failures:
            return
        reasons = "\n".join(f"  {line}" for line in outcome.reasons())
        text = f"Not everything was loaded:\n{reasons}\nStart again to load the missing days; loaded days are kept."
        if self.options.exit_after_load:
            raise LoadRefused(text) if outcome.needs_change() else LoadFailed(text)
        self._say(text)

    def _addresses(self) -> None:
        self._say(f"  Dagster UI  {self.ui}")
        self._say(f"  Database    {self.database}")
        self._say(f"  Logs        {self.children.logs}")

    def _say(self, line: str) -> None:
        self.console.print(escape(line), highlight=False, soft_wrap=True)
        if self.steps:
            self.steps.printed()

    def _begin(self, step: str) -> None:
        if self.steps:
            self.steps.begin(step)


def _free(port: int) -> bool:
    try:
        claims.check_port("127.0.0.1", port, option="--port")
    except claims.PortTaken:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=2, trust_env=False)
    except httpx.HTTPError:
        return False
    return True
