"""`magnetis connections`: the API keys, their quota and their missing days."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnetis_dagster.cli.connection_option import by_database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from sqlalchemy import Engine

    from magnetis_dagster.connections import Connection
    from magnetis_dagster.warehouse.connections import ConnectionStatus


@dataclass(slots=True)
class ConnectionLine:
    """One connection, or one that is no longer declared and still has rows."""

    name: str
    scope: str | None
    declared: bool
    last_load: datetime | None
    """Commit of its newest window, in its time zone (UTC if it is not declared); None: none."""
    calls_today: int | None
    """API calls of its key, by all connections with this key; None if it is not declared."""
    daily_quota: int | None
    """API calls per quota day; None if it is not declared."""
    missing_days: int | None
    """Days from the start date to yesterday that are not complete, over its events collections."""
    rows: int
    """Rows that are recorded for its days and its newest snapshots."""
    key_expires: date | None
    problems: list[str] = field(default_factory=list)


def connections(
    json: Annotated[bool, typer.Option("--json", help="Print the connections as JSON.")] = False,
) -> None:
    """List the connections: scope, last load, API calls today, missing days, expiry.

    Also lists removed connections whose rows are still stored. Sends no API call.
    """
    from rich.console import Console

    from magnetis_dagster.connections import load_connections
    from magnetis_dagster.wiring import open_engine, require_home

    declared = load_connections()
    for each in declared:
        require_home(each.settings)
    lines = []
    for group in by_database(declared):
        with open_engine(group[0].settings, create=False) as engine:
            lines += read_lines(engine, group)
    if json:
        content = [asdict(line) for line in lines]
        typer.echo(dumps(content, default=lambda value: value.isoformat()))
    else:
        Console().print(format_lines(lines))


def read_lines(engine: "Engine", declared: "Sequence[Connection]") -> list[ConnectionLine]:
    """Return a line per declared connection, then one per removed connection with rows.

    All of them use the database of `engine`. Sends no API call.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    from magnetis_dagster.warehouse.connections import status
    from magnetis_dagster.warehouse.connections_report import ExpectedDays, missing_days

    known = {each.name: each for each in status(engine)}
    expected = [
        ExpectedDays(each.name, collection.name, each.settings.start_date, each.settings.timezone)
        for each in declared
        for collection in each.catalogue.enabled
        if collection.is_events
    ]
    missing = missing_days(engine, expected)
    used = _calls_today(engine, declared)
    lines = [
        _declared_line(
            each, known.pop(each.name, None), missing.get(each.name, 0), used[each.name], declared
        )
        for each in declared
    ]
    return lines + [_removed_line(each) for each in known.values() if each.rows]


def _calls_today(engine: "Engine", declared: "Sequence[Connection]") -> dict[str, int]:
    from magnetis_dagster.database import guarded, has_table
    from magnetis_dagster.wiring import ledger_of

    with guarded(engine, "read the quota"), engine.connect() as session:
        prepared = has_table(session, "magnetis_ops.quota_keys")
    return {
        each.name: ledger_of(engine, each.settings).usage().used
        if prepared and each.settings.api_key
        else 0
        for each in declared
    }


def _declared_line(
    connection: "Connection",
    status: "ConnectionStatus | None",
    missing: int,
    used: int,
    declared: "Sequence[Connection]",
) -> ConnectionLine:
    from magnetis_dagster.doctor.keys import expiry_sentence, key_problem, twins, twins_sentence

    settings = connection.settings
    last_load = status.last_load if status else None
    expires = connection.key_expires or (status.key_expires if status else None)
    same_key = twins(connection, declared)
    today = datetime.now(settings.timezone).date()
    problems = [
        key_problem(connection),
        twins_sentence(same_key) if same_key else None,
        expiry_sentence(expires, today),
    ]
    return ConnectionLine(
        connection.name,
        connection.scope.value if connection.scope else None,
        declared=True,
        last_load=last_load and last_load.astimezone(settings.timezone),
        calls_today=used,
        daily_quota=settings.daily_quota,
        missing_days=missing,
        rows=status.rows if status else 0,
        key_expires=expires,
        problems=[each for each in problems if each],
    )


def _removed_line(status: "ConnectionStatus") -> ConnectionLine:
    when = f"removed on {status.removed_at:%Y-%m-%d}" if status.removed_at else "not declared"
    problem = (
        f"It is {when}; {status.rows:,} rows are still stored. docs/connections.md describes how "
        "to delete them."
    )
    return ConnectionLine(
        status.name,
        status.scope,
        declared=False,
        last_load=status.last_load and status.last_load.astimezone(UTC),
        calls_today=None,
        daily_quota=None,
        missing_days=None,
        rows=status.rows,
        key_expires=status.key_expires,
        problems=[problem],
    )


def format_lines(lines: "Sequence[ConnectionLine]") -> "RenderableType":
    """Return a table, and a sentence for each problem, for a console."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("connection", "scope", "last load"):
        table.add_column(heading, overflow="fold")
    for heading in ("calls today", "missing days"):
        table.add_column(heading, justify="right")
    table.add_column("key expires")
    for line in lines:
        calls = "" if line.calls_today is None else f"{line.calls_today:,} / {line.daily_quota:,}"
        table.add_row(
            line.name,
            line.scope or "",
            _shown(line.last_load),
            calls,
            "" if line.missing_days is None else f"{line.missing_days:,}",
            _shown(line.key_expires),
        )
    problems = [Text(f"{line.name}: {each}") for line in lines for each in line.problems]
    return Group(table, *([Text(), *problems] if problems else []))


def _shown(moment: Any) -> str:
    if moment is None:
        return ""
    return f"{moment:%Y-%m-%d %H:%M}" if isinstance(moment, datetime) else str(moment)
