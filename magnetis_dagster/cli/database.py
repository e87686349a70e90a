"""`magnetis db-url`, `migrate` and `reparse`: the database and its tables."""

import re
from enum import StrEnum
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from magnetis_dagster.cli.connection_option import (
    ConnectionName,
    by_database,
    load_any_connection,
    load_connection,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from magnetis_dagster.connections import Connection
    from magnetis_dagster.warehouse.roles import LoginRole


class RoleName(StrEnum):
    """A role that reads all rows."""

    ANALYST = "analyst"
    READER = "reader"


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
            help="The same as --role reader.",
        ),
    ] = False,
    role: Annotated[
        RoleName | None,
        typer.Option(
            "--role",
            help="Print the address for a role that can only read: magnetis_analyst without "
            "personal data, or magnetis_reader with it.",
        ),
    ] = None,
    customer: Annotated[
        str | None,
        typer.Option(
            "--customer",
            metavar="NAME",
            help="Print the address for the role NAME, which reads only the rows of --connection, "
            "without personal data.",
        ),
    ] = None,
    connection: Annotated[
        list[str] | None,
        typer.Option(
            "--connection",
            metavar="NAME",
            help="With --customer: let the role read the rows of this connection. Repeat it for "
            "several.",
        ),
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option(
            "--account",
            metavar="ID",
            help="With --customer and one --connection: only the rows of this account. Repeat it "
            "for several. [default: all accounts]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the database's address for psql and BI tools.

    Use it as in psql "$(magnetis db-url)". It contains the password, if there is one. Roles are
    created at their first use. --tcp and roles need the embedded server to run; passwords are
    generated once and stored in MAGNETIS_HOME. For a server of your own, roles are printed as SQL.
    """
    from magnetis_dagster.wiring import shown_address

    if read_only and role is RoleName.ANALYST:
        raise _contradiction("--read-only is the role reader: omit it, or --role.")
    role = RoleName.READER if read_only else role
    chosen = _choose_role(role, customer, connection or [], account or [])
    settings = load_any_connection().settings
    url, runs = shown_address(settings, tcp=tcp, role=chosen)
    if not runs:
        typer.echo(
            "The embedded server is not running. It runs while `magnetis dev` or a Dagster command "
            "does: start one first.",
            err=True,
        )
    # psql does not accept the driver in SQLAlchemy's addresses
    typer.echo(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url))


def _choose_role(
    role: RoleName | None, customer: str | None, connections: list[str], accounts: list[str]
) -> "LoginRole | None":
    from magnetis_dagster.warehouse.roles import ANALYST_ROLE, READER_ROLE, CustomerRole

    if customer is None:
        if connections or accounts:
            raise _contradiction("--connection and --account belong to --customer.")
        if role is None:
            return None
        return ANALYST_ROLE if role is RoleName.ANALYST else READER_ROLE
    if role is not None:
        raise _contradiction("--customer is a role of its own: omit --role and --read-only.")
    if accounts and len(connections) != 1:
        raise _contradiction("--account needs exactly one --connection, which has the account.")
    return CustomerRole(customer, dict.fromkeys(connections, accounts))


def _contradiction(message: str) -> Exception:
    from magnetis_dagster.errors import PermanentError

    return PermanentError(message)


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
            help="Let the connection's key and API address load tables that another key filled.",
        ),
    ] = False,
    connection: Annotated[
        str | None,
        typer.Option(
            "--connection",
            metavar="NAME",
            help="Use this connection of MAGNETIS_CONFIG. [default: all, in turn; with "
            "--adopt-key: the only one]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Migrate this program's tables, as each load does.

    Lists the columns that the catalogue no longer declares, and those whose declared type differs
    from the database. For Dagster's own tables: `dagster instance migrate`.
    """
    from functools import partial
    from time import monotonic

    from magnetis_dagster.connections import choose, load_connections
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.wiring import require_home

    if yes and not drop:
        raise PermanentError("--yes belongs to --drop-columns: give both, or neither.")
    declared = load_connections()
    chosen = [choose(declared, connection)] if connection or adopt_key else declared
    for each in chosen:
        require_home(each.settings)
    log, end = partial(typer.echo, err=True), monotonic() + wait
    changed = [_migrate(each, log, end) for each in chosen]
    typer.echo("Brought up to date." if any(changed) else "Up to date already.")
    if adopt_key:
        _adopt_key(chosen[0])
    undeclared = False
    for group in by_database(declared):
        if any(each in chosen for each in group):
            _declare(group)
            undeclared |= _compare(group, log, drop=yes)
    if drop and not yes and not undeclared:
        typer.echo("Every column is declared: there is nothing to drop.")


def _migrate(connection: "Connection", log: "Callable[[str], None]", end: float) -> bool:
    """Migrate the tables; wait until `end`, by the monotonic clock, for a database that is down."""
    from time import monotonic, sleep

    from magnetis_dagster.database import DatabaseUnavailable
    from magnetis_dagster.privacy.plan import load_plan
    from magnetis_dagster.warehouse.migrate import migrate as bring_up_to_date
    from magnetis_dagster.wiring import open_engine

    settings = connection.settings
    with open_engine(settings) as engine:
        while True:
            try:
                return bring_up_to_date(
                    engine,
                    connection.catalogue,
                    log,
                    settings.view_timezone,
                    connection_name=connection.name,
                    plan=load_plan(settings.config, connection.catalogue),
                )
            except DatabaseUnavailable:
                if monotonic() >= end:
                    raise
                sleep(1.0)


def _adopt_key(connection: "Connection") -> None:
    from magnetis_dagster.warehouse.source import adopt
    from magnetis_dagster.wiring import open_engine

    settings = connection.settings
    fingerprint, origin = settings.key_fingerprint, settings.api_url
    with open_engine(settings) as engine:
        adopted = ", ".join(
            adopt(
                engine,
                key_fingerprint=fingerprint,
                origin=origin,
                connection_name=connection.name,
            )
        )
    typer.echo(f"Adopted: {adopted}." if adopted else "The tables belong to this key.")


def _declare(connections: "Sequence[Connection]") -> None:
    """Record the connections of one database, so that the views _distinct can rank them."""
    from magnetis_dagster.wiring import declare_connections, open_engine

    with open_engine(connections[0].settings) as engine:
        declare_connections(engine, connections, complete=True)


def _compare(
    connections: "Sequence[Connection]", log: "Callable[[str], None]", *, drop: bool
) -> bool:
    """Print how the tables differ from the declarations; return whether columns are undeclared.

    A column is undeclared if no connection declares it. `drop`: drop these columns before.
    """
    from magnetis_dagster.catalog.union import union
    from magnetis_dagster.warehouse.migrate import compare, drop_columns
    from magnetis_dagster.wiring import open_engine

    catalogues = [each.catalogue for each in connections]
    declared, settings = union(catalogues), connections[0].settings
    with open_engine(settings) as engine:
        if drop:
            _require_known_columns(engine)
            for column in drop_columns(engine, declared, log, settings.view_timezone):
                typer.echo(f"Dropped {column}.")
        undeclared = compare(engine, declared).undeclared
        distinct = [each for i, each in enumerate(catalogues) if each not in catalogues[:i]]
        disagreements = dict.fromkeys(
            sentence for each in distinct for sentence in compare(engine, each).disagreements
        )
    for sentence in disagreements:
        typer.echo(f"{sentence} Its collection cannot be loaded until then; the others can.")
    for column in undeclared:
        typer.echo(
            f"{column} is no longer declared. A row whose payload changes loses its value there."
        )
    if undeclared:
        typer.echo(
            "`magnetis migrate --drop-columns --yes` drops these columns; `payload` keeps the "
            "values that the API returned."
        )
    return bool(undeclared)


def _require_known_columns(engine: "Engine") -> None:
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.warehouse.connections import of_components

    if names := of_components(engine):
        raise PermanentError(
            f"Components declare the connections {', '.join(names)}, and this command does not "
            "know the columns of their overlays. No column was dropped. Drop columns by ALTER "
            "TABLE … DROP COLUMN instead."
        )


def reparse(
    collections: Annotated[
        list[str],
        typer.Argument(metavar="COLLECTION...", help="Names of collections, such as calls."),
    ],
    connection: ConnectionName = None,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Refill the typed columns from `payload`, without API calls.

    Run it after a change of the catalogue.
    """
    from dataclasses import asdict

    from rich.console import Console

    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.warehouse.reparse import reparse as run
    from magnetis_dagster.wiring import open_engine, warehouse_of

    chosen = load_connection(connection)
    settings, catalogue = chosen.settings, chosen.catalogue
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
