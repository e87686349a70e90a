"""Records the declared connections, and summarizes the rows of each.

A connection is one API key with a name. All connections share the tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Engine

from magnetis_dagster.database import guarded, has_table, write
from magnetis_dagster.warehouse.queries import Queries

_QUERIES = Queries("connections")
CONFIG, COMPONENT = "MAGNETIS_CONFIG", "component"
"""Where connections are declared. Only the first are known completely."""
_LOCK = 0x6D61_676E_636F_6E6E
"""Advisory lock: one process at a time writes declarations."""


@dataclass(frozen=True, slots=True)
class DeclaredConnection:
    """One declared connection."""

    name: str
    scope: str | None
    """Scope of the key, such as `network`; None: not declared."""
    key_expires: date | None
    """Last day on which the key is valid."""
    rank: int | None = None
    """1 for the widest scope. None: the position in the list of declarations."""
    declared_in: str = CONFIG
    """CONFIG or COMPONENT."""


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One connection and the rows that it loaded."""

    name: str
    scope: str | None
    last_load: datetime | None
    """Commit of its newest window; None if there is none."""
    rows: int
    """Rows that are recorded for its days and its newest snapshots."""
    key_expires: date | None
    removed_at: datetime | None
    """When its declaration was removed; None if it is declared, or nothing was ever declared."""


def register(engine: Engine, connection_name: str) -> None:
    """Insert the connection without a declaration, unless it exists.

    The views `_distinct` then rank every connection that has rows.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    write(
        engine,
        "register the connection",
        _QUERIES["register"],
        {"connection": connection_name},
    )


def declare(
    engine: Engine, connections: Sequence[DeclaredConnection], *, complete: bool = True
) -> None:
    """Record the declared connections, widest first.

    `complete`: these are all connections of MAGNETIS_CONFIG, so mark its others as removed. Those
    of components stay, because only their code location knows them.

    Writes nothing if the database has the same declarations. Call `migrate` before.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    names = {"names": [each.name for each in connections]}
    ranked = [
        (each.name, each.scope, each.rank or position, each.key_expires, each.declared_in)
        for position, each in enumerate(connections, 1)
    ]
    with guarded(engine, "record the connections"), engine.begin() as connection:

        def is_current() -> bool:
            found = {tuple(row) for row in connection.execute(_QUERIES["declared"])}
            others = connection.execute(_QUERIES["undeclared"], names).scalar_one()
            return {*ranked} <= found and not (complete and others)

        if is_current():
            return
        connection.execute(_QUERIES["lock"], {"lock": _LOCK})
        if is_current():
            return
        columns = [list(column) for column in zip(*ranked, strict=True)] or [[]] * 5
        keys = ("names", "scopes", "ranks", "expiries", "places")
        connection.execute(_QUERIES["upsert"], dict(zip(keys, columns, strict=True)))
        if complete:
            connection.execute(_QUERIES["remove"], names)


def of_components(engine: Engine) -> list[str]:
    """Return the names of the connections that components declare, sorted. Creates no tables.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "read the connections"), engine.connect() as connection:
        if not has_table(connection, "magnetis_ops.connections"):
            return []
        return list(connection.scalars(_QUERIES["of_components"]))


def status(engine: Engine) -> list[ConnectionStatus]:
    """Return every connection, declared ones first, widest scope first. Creates no tables.

    Reads recorded counts only; data tables are not scanned.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "read the connections"), engine.connect() as connection:
        if not has_table(connection, "magnetis_ops.connections"):
            return []
        return [ConnectionStatus(*row) for row in connection.execute(_QUERIES["status"])]
