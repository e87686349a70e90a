"""`magnetis db-url`, `migrate` and `reparse`: the database and its tables."""

import re
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from magnetis_dagster.warehouse.columns import Comparison


def db_url(
    tcp: Annotated[
        bool,
        typer.Option(
            "--tcp",
            help="Print the address on 127.0.0.1, with a password, for programs that cannot use a "
            "Unix socket.",
        ),
    ] = False,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only",
            help="Print the address for the role magnetis_reader, which can only read the data.",
        ),
    ] = False,
) -> None:
    """Print the database's address for psql and BI tools.

    Use it as in psql "$(magnetis db-url)". It contains the password, if there is one. --tcp and
    --read-only need the embedded server to run; their password is generated once and stored in
    MAGNETIS_HOME.
    """
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.wiring import shown_address

    url, runs = shown_address(Settings.load(), tcp=tcp, read_only=read_only)
    if not runs:
        typer.echo(
            "The embedded server is not running. It runs while `magnetis dev` or a Dagster command "
            "does: start one first.",
            err=True,
        )
    # psql does not accept the driver in SQLAlchemy's addresses
    typer.echo(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url))


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
            help="List the columns that the catalogue no longer declares; --yes drops them.",
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="With --drop-columns: drop the columns. `payload` keeps their values."
        ),
    ] = False,
    adopt_key: Annotated[
        bool,
        typer.Option(
            "--adopt-key",
            help="Let MAGNETIS_API_KEY and MAGNETIS_API_URL load tables that another key filled.",
        ),
    ] = False,
) -> None:
    """Migrate this program's tables, as each load does.

    Lists the columns that the catalogue no longer declares, and those whose declared type differs
    from the database. For Dagster's own tables: `dagster instance migrate`.
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
    log = partial(typer.echo, err=True)
    with open_engine(settings) as engine:
        changed: bool | None = None
        while changed is None:
            try:
                changed = bring_up_to_date(engine, catalogue, log, settings.timezone)
            except DatabaseUnavailable:
                if monotonic() >= end:
                    raise
                sleep(1.0)
        typer.echo("Brought up to date." if changed else "Up to date already.")
        if adopt_key:
            fingerprint, origin = settings.key_fingerprint, settings.api_url
            adopted = ", ".join(adopt(engine, key_fingerprint=fingerprint, origin=origin))
            typer.echo(f"Adopted: {adopted}." if adopted else "The tables belong to this key.")
        if yes:
            for column in drop_columns(engine, catalogue, log, settings.timezone):
                typer.echo(f"Dropped {column}.")
        compared = compare(engine, catalogue)
    _print_comparison(compared)
    if drop and not yes and not compared.undeclared:
        typer.echo("Every column is declared: there is nothing to drop.")


def _print_comparison(compared: "Comparison") -> None:
    for sentence in compared.disagreements:
        typer.echo(f"{sentence} Its collection cannot be loaded until then; the others can.")
    for column in compared.undeclared:
        typer.echo(
            f"{column} is no longer declared. A row whose payload changes loses its value there."
        )
    if compared.undeclared:
        typer.echo(
            "`magnetis migrate --drop-columns --yes` drops these columns; `payload` keeps the "
            "values that the API returned."
        )


def reparse(
    collections: Annotated[
        list[str],
        typer.Argument(metavar="COLLECTION...", help="Names of collections, such as calls."),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Refill the typed columns from `payload`, without API calls.

    Run it after a change of the catalogue.
    """
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
    screen = Console(stderr=True)
    counts = {}
    with open_engine(settings, create=False) as engine, screen.status("") as status:
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
            f"{name}: {count.read:,} rows read, {count.updated:,} updated, "
            f"{count.misfits:,} values do not fit their column, "
            f"{count.untimed:,} rows without a readable time keep theirs"
        )
