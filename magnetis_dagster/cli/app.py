"""`magnetis`: what Dagster has no command for. Arguments in, words and exit codes out; the work is done elsewhere.

Exit codes: 0 done, 1 a defect, 2 something must be changed first, 3 try again, 130 interrupted. Everything is imported late: then
`magnetis --help` answers at once.
"""

import re
import sys
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from magnetis_dagster.cli.sandbox import app as sandbox_app
from magnetis_dagster.cli.settings import app as settings_app

if TYPE_CHECKING:
    from magnetis_dagster.settings import Settings

app = typer.Typer(
    name="magnetis",
    help="Magnetis call tracking in your own PostgreSQL, through Dagster. Settings are read from the environment and from .env.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, and those hold the key
    rich_markup_mode=None,
)
app.add_typer(settings_app)
app.add_typer(sandbox_app)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"magnetis_dagster {version('magnetis_dagster')}, dagster {version('dagster')}")
        raise typer.Exit


@app.callback()
def _magnetis(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the versions of this program and of Dagster.",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; our errors become a sentence on stderr and an exit code."""
    from magnetis_dagster.errors import MagnetisError, PermanentError

    try:
        app()
    except MagnetisError as error:
        print(f"magnetis: {error}", file=sys.stderr)  # noqa: T201 - the command line speaks here
        sys.exit(2 if isinstance(error, PermanentError) else 3)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def dev(
    load: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="Load the last DAYS complete days of every events collection, and today's snapshots. Days already loaded are "
            "skipped; 0 loads nothing. [default: 30 with the sandbox, 0 with a real key, because a load spends calls]",
            show_default=False,
        ),
    ] = None,
    exit_: Annotated[
        bool,
        typer.Option(
            "--exit", help="Stop after the load; exit code 0 only if everything was loaded."
        ),
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address for Dagster's UI. It has no login: keep it local.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for Dagster's UI.")] = 3000,
    database_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the embedded database on 127.0.0.1, for `magnetis db-url --tcp`; 0 for none. Later starts keep it. "
            "[default: a free one]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start everything on this machine: database, sandbox API (without a key), Dagster; load recent days; serve until Ctrl-C."""
    from magnetis_dagster.dev.signals import Interrupted, StopSignals

    with StopSignals() as signals:
        try:
            with signals.defer():  # an exception out of an import may be swallowed there
                from rich.console import Console

                from magnetis_dagster.dev.run import DevOptions
                from magnetis_dagster.dev.run import dev as run
                from magnetis_dagster.settings import Settings

            options = DevOptions(
                load_days=load,
                exit_after_load=exit_,
                host=host,
                port=port,
                database_port=database_port,
            )
            run(options, Settings.load(), signals, Console(stderr=True))
        except Interrupted as interrupted:
            raise typer.Exit(128 + interrupted.signum) from None


@app.command("db-url")
def db_url(
    tcp: Annotated[
        bool,
        typer.Option(
            "--tcp",
            help="The address on 127.0.0.1, with a password, for programs that cannot use a Unix socket.",
        ),
    ] = False,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only",
            help="The address of the role magnetis_reader, which can only read the data.",
        ),
    ] = False,
) -> None:
    """Print the database's address for psql and BI tools: psql "$(magnetis db-url)". It contains the password, if there is one.

    With --tcp or --read-only, the embedded server must run; a password is generated once and kept in MAGNETIS_HOME.
    """
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.wiring import shown_address

    url, runs = shown_address(Settings.load(), tcp=tcp, read_only=read_only)
    if not runs:
        typer.echo(
            "The embedded server is not running. It runs while `magnetis dev` or a Dagster command does: start one first.",
            err=True,
        )
    typer.echo(
        re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
    )  # psql knows no SQLAlchemy drivers


@app.command()
def migrate(
    wait: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="Wait this long for a server that does not answer yet."
        ),
    ] = 0.0,
    drop: Annotated[
        bool,
        typer.Option(
            "--drop-columns",
            help="List the columns that the catalogue no longer declares; drop them with --yes.",
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="With --drop-columns: drop the columns. `payload` keeps its members."
        ),
    ] = False,
    adopt_key: Annotated[
        bool,
        typer.Option(
            "--adopt-key",
            help="Let MAGNETIS_API_KEY and MAGNETIS_API_URL load the tables that another key has filled.",
        ),
    ] = False,
) -> None:
    """Bring this program's tables to this version, as each load does. For Dagster's own: `dagster instance migrate`.

    Lists the columns that the catalogue no longer declares, and those that it declares with another type than the database has.
    """
    from functools import partial
    from time import monotonic, sleep

    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.database import DatabaseUnavailable
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.warehouse.migrate import compare, drop_columns
    from magnetis_dagster.warehouse.migrate import migrate as bring_up_to_date
    from magnetis_dagster.warehouse.source import adopt
    from magnetis_dagster.wiring import open_engine, require_home

    if yes and not drop:
        raise PermanentError("--yes belongs to --drop-columns: give both, or neither.")
    settings = Settings.load()
    require_home(settings)
    catalogue = load_catalogue(settings.config)
    end = monotonic() + wait
    with open_engine(settings) as engine:
        done: bool | None = None
        while done is None:
            try:
                done = bring_up_to_date(
                    engine, catalogue, partial(typer.echo, err=True), settings.timezone
                )
            except DatabaseUnavailable:
                if monotonic() >= end:
                    raise
                sleep(1.0)
        typer.echo("Brought up to date." if done else "Up to date already.")
        if adopt_key:
            adopted = adopt(
                engine, key_fingerprint=settings.key_fingerprint, origin=settings.api_url
            )
            typer.echo(
                f"Adopted: {', '.join(adopted)}."
                if adopted
                else "The tables are those of this key already."
            )
        if yes:
            for column in drop_columns(
                engine, catalogue, partial(typer.echo, err=True), settings.timezone
            ):
                typer.echo(f"Dropped {column}.")
        compared = compare(engine, catalogue)
    for sentence in compared.disagreements:
        typer.echo(f"{sentence} Its collection cannot be loaded until then; the others can.")
    for column in compared.undeclared:
        typer.echo(
            f"{column} is no longer declared. A row whose payload changes loses its value there."
        )
    if compared.undeclared:
        typer.echo(
            "`magnetis migrate --drop-columns --yes` drops these columns; `payload` keeps what the API returned."
        )
    elif drop and not yes:
        typer.echo("Every column is declared: there is nothing to drop.")


@app.command()
def probe(
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Save findings and proposals to the file that MAGNETIS_CONFIG names."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show what this key can read: routes that answer, members of their rows, window parameters that have an effect.

    One request for each collection, and one for each other route if the first does not answer; three more for each events
    collection, and one more for a snapshot without an id or with members like those of events. With the catalogue as shipped: 18
    requests for routes and 15 for events. All are charged to the quota.
    """
    from rich.console import Console

    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.cli.probe_report import render
    from magnetis_dagster.errors import PermanentError, TransientError
    from magnetis_dagster.probe.overlay import write_overlay
    from magnetis_dagster.probe.probe import run_probe
    from magnetis_dagster.quota.guard import LedgerGuard, RunIdentity
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.wiring import (
        ledger_of,
        open_engine,
        require_home,
        uses_sandbox,
        warehouse_of,
        zones_of,
    )

    settings = Settings.load()
    key = settings.require_key()
    if write and settings.config is None:
        raise PermanentError(
            "--write saves to the YAML file that MAGNETIS_CONFIG names, and it is not set. Set it, such as "
            "MAGNETIS_CONFIG=config/magnetis.yaml."
        )
    require_home(settings)
    words = Console(stderr=True)
    if uses_sandbox(settings):
        words.print(
            f"Using the sandbox at {settings.api_url}: its data is invented.",
            markup=False,
            highlight=False,
        )
    # the file that --write makes need not exist before
    exists = settings.config is not None and settings.config.exists()
    if settings.config and not exists:
        words.print(
            f"{settings.config} does not exist yet: probing the catalogue as shipped.",
            markup=False,
            highlight=False,
        )
    catalogue = load_catalogue(settings.config if exists else None)
    words.print(
        f"Probing {len(catalogue.enabled)} collections: one request each, three more for each events collection; more if a "
        "first route does not answer or a row has no id."
    )
    with open_engine(settings) as engine:
        warehouse_of(engine, settings, catalogue).prepare()
        gate = LedgerGuard(
            ledger_of(engine, settings), RunIdentity(run_id="magnetis probe", lane="manual")
        )
        report = run_probe(
            catalogue,
            zones_of(settings),
            gate,
            origin=settings.api_url,
            key=key,
            progress=lambda line: words.print(line, markup=False, highlight=False),
        )
    if json:
        typer.echo(dumps(report.as_dict()))
    else:
        Console().print(render(report))
    if write and settings.config is not None:
        changed = write_overlay(settings.config, report.overlay(), report.reasons())
        words.print(
            f"{settings.config}: {'written' if changed else 'nothing to change'}.", markup=False
        )
    if report.stopped:
        kind = PermanentError if report.stopped_for_good else TransientError
        raise kind(f"The probe ended early: {report.stopped}")


@app.command()
def plan(
    collections: Annotated[
        list[str] | None,
        typer.Argument(metavar="COLLECTION...", help="Names of events collections, such as calls."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every enabled events collection.")] = False,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DAY",
            help="First day, such as 2024-01-31. [default: MAGNETIS_START_DATE]",
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option("--to", metavar="DAY", help="Last day, inclusive. [default: yesterday]"),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only days that are not done yet.")
    ] = False,
    launch: Annotated[
        bool, typer.Option("--launch", help="Start this backfill in the running Dagster.")
    ] = False,
    dagster_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of Dagster's webserver, for --launch. [default: MAGNETIS_DAGSTER_URL]",
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="BACKFILL",
            help="Show forecast and calls spent of a backfill, by its id in Dagster; no API call.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the plan or the report as JSON.")
    ] = False,
) -> None:
    """Price a backfill before it starts: rows, API calls, quota days and when it is done. Costs one API call a collection.

    Days are those of MAGNETIS_TIMEZONE.
    """
    from magnetis_dagster.errors import PermanentError

    if report is not None:
        if collections or every or first or last or missing or launch:
            raise PermanentError("--report takes the id of a backfill and nothing else but --json.")
        _report_backfill(report, json=json)
        return

    from contextlib import ExitStack
    from datetime import timedelta

    from rich.console import Console

    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.cli.plan_report import render
    from magnetis_dagster.dev.backfill import launch_plan, open_dagster
    from magnetis_dagster.planning.plan import asked_window, chosen, day_of, make_plan
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.wiring import (
        ledger_of,
        open_engine,
        require_home,
        uses_sandbox,
        warehouse_of,
        zones_of,
    )

    settings = Settings.load()
    key = settings.require_key()
    catalogue = load_catalogue(settings.config)
    asked = chosen(catalogue, collections or [], every=every)
    days = [
        day_of(text, option) if text else None
        for text, option in ((first, "--from"), (last, "--to"))
    ]
    require_home(settings)
    words = Console(stderr=True)
    if uses_sandbox(settings):
        words.print(
            f"Using the sandbox at {settings.api_url}: its data is invented.",
            markup=False,
            highlight=False,
        )
    with open_engine(settings) as engine, ExitStack() as opened:
        warehouse = warehouse_of(engine, settings, catalogue)
        warehouse.prepare()
        today = warehouse.now().astimezone(settings.timezone).date()
        window = asked_window(
            days[0] or settings.start_date,
            days[1] or today - timedelta(days=1),
            start=settings.start_date,
            today=today,
        )
        # before a call is spent
        dagster = (
            opened.enter_context(open_dagster(dagster_url or settings.dagster_url))
            if launch
            else None
        )
        words.print(
            f"Counting the rows costs one API call for each collection: at most {len(asked)}."
        )
        planned = make_plan(
            asked,
            window,
            warehouse,
            ledger_of(engine, settings),
            key_fingerprint=settings.key_fingerprint,
            zones=zones_of(settings),
            origin=settings.api_url,
            key=key,
            missing=missing,
            progress=lambda line: words.print(line, markup=False, highlight=False),
        )
        if not json:
            screen = Console()
            screen.print(render(planned, ascii_only=screen.options.ascii_only))
        launched = (
            launch_plan(planned, dagster, engine, ui_url=settings.ui_url) if dagster else None
        )
    if json:
        typer.echo(
            dumps(planned.as_dict() | {"launched": launched.as_dict() if launched else None})
        )
    elif launched:
        typer.echo(f"Launched backfill {launched.backfill}: {launched.page}")
        typer.echo(f"Forecast and spent, at any time: magnetis plan --report {launched.backfill}")


def _report_backfill(work: str, *, json: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from magnetis_dagster.cli.plan_report import render_report, report_total
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.warehouse.forecasts import report
    from magnetis_dagster.wiring import open_engine

    with open_engine(Settings.load(), create=False) as engine:
        lines = report(engine, work)
    if json:
        found = [asdict(line) | {"error_percent": line.error_percent} for line in lines]
        typer.echo(
            dumps(
                {"backfill": work, "collections": found, "total": report_total(lines)}, default=str
            )
        )
    else:
        Console().print(render_report(work, lines))


@app.command()
def reparse(
    collections: Annotated[
        list[str],
        typer.Argument(metavar="COLLECTION...", help="Names of collections, such as calls."),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Fill the typed columns again from `payload` after the catalogue changed. Spends no API call."""
    from dataclasses import asdict

    from rich.console import Console

    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.warehouse.reparse import reparse as run
    from magnetis_dagster.wiring import open_engine, warehouse_of

    settings = Settings.load()
    catalogue = load_catalogue(settings.config)
    if unknown := [name for name in collections if name not in catalogue.collections]:
        raise PermanentError(
            f"No collection {', '.join(unknown)}. There are: {', '.join(catalogue.collections)}."
        )
    words = Console(stderr=True)
    counts = {}
    with open_engine(settings, create=False) as engine, words.status("") as status:
        warehouse = warehouse_of(engine, settings, catalogue)
        for name in collections:

            def progress(read: int, name: str = name) -> None:
                status.update(f"{name}: {read:,} rows")

            progress(0)
            counts[name] = run(warehouse, catalogue[name], progress)
    if json:
        typer.echo(dumps({name: asdict(count) for name, count in counts.items()}))
        return
    for name, count in counts.items():
        typer.echo(
            f"{name}: {count.read:,} rows read, {count.updated:,} updated, {count.misfits:,} values do not fit their column, "
            f"{count.untimed:,} rows without a readable time keep theirs"
        )


@app.command()
def quota(
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    reopen: Annotated[
        bool,
        typer.Option(
            "--reopen",
            help="If the API closed the key, spend one API call now to learn whether it is open again.",
        ),
    ] = False,
) -> None:
    """Show the key's calls: today by lane, with the calls still available and when more return; the last 30 days.

    Reads the database only, unless --reopen is given; without MAGNETIS_API_KEY it shows the sandbox's key, as `magnetis dev`
    uses it.
    """
    from rich.console import Console

    from magnetis_dagster.cli.quota_report import render
    from magnetis_dagster.quota.report import read_report
    from magnetis_dagster.sandbox import SANDBOX_KEY
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.wiring import open_engine, uses_sandbox

    settings = Settings.load()
    if reopen:
        _reopen(settings)
    invented = uses_sandbox(settings)
    if settings.api_key is None and invented:
        settings = Settings.load(api_key=SANDBOX_KEY)
    settings.require_key()  # a `magnetis dev` with a real key runs here, and this terminal has none
    with open_engine(settings, create=False) as engine:
        report = read_report(
            engine, key_fingerprint=settings.key_fingerprint, policy=settings.quota_policy
        )
    if json:
        typer.echo(report.as_json())
        return
    screen = Console()
    screen.print(
        render(report, whose="sandbox" if invented else "", ascii_only=screen.options.ascii_only)
    )


def _reopen(settings: "Settings") -> None:
    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.ingest.key_reopening import reopen
    from magnetis_dagster.wiring import ledger_of, open_engine, warehouse_of

    key = settings.require_key()
    catalogue = load_catalogue(settings.config)
    with open_engine(settings, create=False) as engine:
        warehouse_of(engine, settings, catalogue).prepare()
        result = reopen(
            ledger_of(engine, settings), catalogue["email_alerts"], origin=settings.api_url, key=key
        )
    typer.echo(result, err=True)
