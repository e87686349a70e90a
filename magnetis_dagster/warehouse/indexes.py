"""Changes keys and indexes to the declared ones without blocking readers and writers.

An index of a table with rows is built by CREATE INDEX CONCURRENTLY. A primary key is replaced in
two steps: build a unique index concurrently; then, in one short transaction, drop the old key and
turn the index into the new one. A process that dies before the second step leaves an index: the
next run uses a valid one and rebuilds an invalid one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy import Index as DeclaredIndex
from sqlalchemy.schema import CreateIndex

from magnetis_dagster.database.locks import blockers, exclusive_session, polling
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, DIALECT, OPS_SCHEMA

_QUERIES = Queries("indexes")
_PROGRESS_SECONDS = 10.0
"""Seconds between two progress lines of a long build."""


class KeyInUse(PermanentError):
    """An object depends on a primary key that must change; the text names both."""


class ReservedColumn(PermanentError):
    """A table has a column `connection` of an earlier overlay; the text contains the remedy."""


@dataclass(frozen=True, slots=True)
class TableState:
    """Key and indexes of a table in the database."""

    name: str
    """With its schema."""
    is_empty: bool
    """Whether it has no rows; a table whose rows were all deleted counts as one with rows."""
    key_name: str | None
    key: list[str]
    """Columns of the primary key, in order; empty if there is none."""
    valid: list[str]
    """Names of usable indexes."""
    invalid: list[str]
    """Names of indexes of interrupted builds."""
    has_declared_connection: bool
    """Whether an overlay of an earlier version created the column `connection`."""


def table_states(connection: Connection) -> dict[str, TableState]:
    """Return the state of every table of the program's schemas, by name with schema."""
    found = connection.execute(_QUERIES["tables"], {"schemas": [DATA_SCHEMA, OPS_SCHEMA]})
    return {row.name: TableState(*row) for row in found}


def qualified(table: Table) -> str:
    """Return schema and name of a declared table."""
    return f"{table.schema}.{table.name}"


def wanted_key(table: Table) -> list[str]:
    """Return the columns of the declared primary key."""
    return [column.name for column in table.primary_key.columns]


def require_replaceable_keys(connection: Connection, tables: Iterable[Table]) -> None:
    """Raise an error if a key must change and cannot; change nothing.

    Raises: KeyInUse if an object depends on it; ReservedColumn if an overlay created the column
    `connection`.
    """
    states = table_states(connection)
    for table in tables:
        state = states.get(qualified(table))
        if state is None or not state.key or state.key == wanted_key(table):
            continue
        if state.has_declared_connection:
            raise ReservedColumn(
                f"The column {state.name}.connection was created for an earlier declaration in "
                "MAGNETIS_CONFIG. This version needs the name. Declare the column under another "
                f"name, drop it by ALTER TABLE {state.name} DROP COLUMN connection CASCADE, and "
                "fill the new one with `magnetis reparse`. Nothing was changed."
            )
        if users := connection.scalars(_QUERIES["key_users"], {"table": state.name}).all():
            raise KeyInUse(
                f"The primary key of {state.name} must change from ({', '.join(state.key)}) to "
                f"({', '.join(wanted_key(table))}), but it is used by {', '.join(users)}. The key "
                "was not changed. Drop the dependent objects, run `magnetis migrate`, then "
                "recreate them with the new key."
            )


def replaces_key(table: Table, state: TableState) -> bool:
    """Return whether the table has another primary key than the declared one."""
    return state.key != wanted_key(table)


def missing_indexes(table: Table, state: TableState) -> list[DeclaredIndex]:
    """Return the declared indexes that are missing or invalid, by name."""
    missing = (index for index in table.indexes if str(index.name) not in state.valid)
    return sorted(missing, key=lambda index: str(index.name))


def complete_empty_table(
    connection: Connection, table: Table, state: TableState, replaced: Mapping[str, str]
) -> None:
    """Change key and indexes of a table without rows to the declared ones, in the transaction."""
    if replaces_key(table, state):
        if state.key_name:
            connection.execute(text(_drop_key(state)))
        key = ", ".join(wanted_key(table))
        connection.execute(
            text(f"ALTER TABLE {state.name} ADD CONSTRAINT {_key_name(table)} PRIMARY KEY ({key})")
        )
    superfluous = {*replaced, _build_name(table)}
    surplus = [*state.invalid, *(name for name in state.valid if name in superfluous)]
    for name in surplus:
        connection.execute(text(f'DROP INDEX IF EXISTS {table.schema}."{name}"'))
    for index in missing_indexes(table, state):
        connection.execute(CreateIndex(index))


def build_index(
    engine: Engine, action: str, index: DeclaredIndex, progress: Callable[[str], None]
) -> None:
    """Build a declared index of a table with rows, unless it exists."""
    assert index.table is not None
    statement = str(CreateIndex(index).compile(dialect=DIALECT))
    _build(engine, action, index.table, str(index.name), statement, progress)


def build_key(engine: Engine, action: str, table: Table, progress: Callable[[str], None]) -> None:
    """Build the unique index that `replace_key` turns into the primary key, unless it exists."""
    name = _build_name(table)
    columns = ", ".join(wanted_key(table))
    statement = f"CREATE UNIQUE INDEX {name} ON {qualified(table)} ({columns})"
    _build(engine, action, table, name, statement, progress, unless_key=True)


def replace_key(connection: Connection, table: Table) -> None:
    """Turn the index of `build_key` into the primary key, in the caller's transaction.

    Locks the table exclusively for milliseconds.

    Raises: KeyInUse if an object depends on the old key.
    """
    state = table_states(connection)[qualified(table)]
    if not replaces_key(table, state):
        return
    require_replaceable_keys(connection, [table])
    if state.key_name:
        connection.execute(text(_drop_key(state)))
    connection.execute(
        text(
            f"ALTER TABLE {state.name} ADD CONSTRAINT {_key_name(table)} "
            f"PRIMARY KEY USING INDEX {_build_name(table)}"
        )
    )


def drop_index(engine: Engine, action: str, schema: str, name: str) -> None:
    """Drop an index without blocking readers and writers of its table."""
    with exclusive_session(engine, action) as connection:
        connection.execute(text(f'DROP INDEX CONCURRENTLY IF EXISTS {schema}."{name}"'))


def _key_name(table: Table) -> str:
    return f"{table.name}_pkey"


def _build_name(table: Table) -> str:
    return f"{table.name}_pkey_new"


def _drop_key(state: TableState) -> str:
    return f'ALTER TABLE {state.name} DROP CONSTRAINT "{state.key_name}"'


def _build(
    engine: Engine,
    action: str,
    table: Table,
    name: str,
    statement: str,
    progress: Callable[[str], None],
    *,
    unless_key: bool = False,
) -> None:
    with exclusive_session(engine, action) as connection:
        state = table_states(connection)[qualified(table)]
        if name in state.valid or (unless_key and not replaces_key(table, state)):
            return
        if name in state.invalid:
            connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {table.schema}.{name}"))
        pid: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()

        def report() -> None:
            progress(_progress_line(engine, pid, f"{table.schema}.{name}"))

        with polling(_PROGRESS_SECONDS, report):
            connection.execute(text(statement.replace("INDEX ", "INDEX CONCURRENTLY ", 1)))


def _progress_line(engine: Engine, pid: int, name: str) -> str:
    """Return a line about the build of an index by the session `pid`."""
    with engine.connect() as connection:
        found = connection.execute(_QUERIES["progress"], {"pid": pid}).first()
    percent = "" if found is None or found.percent is None else f", {found.percent} %"
    phase = found.phase if found else "starting"
    waits = blockers(engine, pid)
    waiting = f" It waits for {waits[0]} to end its transaction." if waits else ""
    return f"Building the index {name} ({phase}{percent}). Loads and queries continue.{waiting}"
