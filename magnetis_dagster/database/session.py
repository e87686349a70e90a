"""What a session relies on, set in one place: defaults of the server, the database or the role reach no statement of ours.

Sent after the connection is made, as startup options are ignored or refused by connection poolers. A pooler that gives each
transaction another session of the server is refused here: settings, temporary tables and prepared statements would be lost.
"""

from collections.abc import Callable
from typing import Any, Protocol

from magnetis_dagster.database.refusals import DatabaseRefused

LOCK_SECONDS = 30
"""How long a statement waits for a lock, unless its transaction sets another limit."""

_SETTINGS = {
    # first, and without a plan to make: a time-out of a millisecond must not end the session before it is lifted
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    # a process that is stopped, or whose machine is gone, must not keep its locks for hours
    "idle_in_transaction_session_timeout": "'5min'",
    "lock_timeout": f"'{LOCK_SECONDS}s'",
    "default_transaction_isolation": "'read committed'",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "TimeZone": "'UTC'",
    "DateStyle": "'ISO, YMD'",
    "IntervalStyle": "'postgres'",
    "bytea_output": "'hex'",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "row_security": "off",  # an error, instead of fewer rows than there are
    "plan_cache_mode": "auto",
    "default_table_access_method": "heap",
    "client_min_messages": "warning",
}
_SINCE = {"transaction_timeout": 170000, "idle_session_timeout": 140000}
"""Server version that brought a setting."""
_STATE = "SELECT pg_backend_pid(), current_setting('synchronous_commit'), current_schema()"


class DriverConnection(Protocol):
    """What psycopg and psycopg2 have in common."""

    autocommit: bool

    @property
    def info(self) -> Any: ...  # noqa: D102
    def cursor(self) -> Any: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


_checked: set[str] = set()
"""Addresses of poolers that were found to keep sessions."""


def set_up(
    connection: DriverConnection,
    where: str,
    reconnect: Callable[[], DriverConnection],
    search_path: str,
    *,
    in_use: bool = False,
) -> None:
    """Give a new session its settings; `where` is its address in messages, `reconnect` opens a second connection there.

    `search_path` names one schema; with `in_use` it must exist.

    Raises: DatabaseRefused if texts are not kept in UTF-8, if a pooler does not keep sessions, or if the schema is not usable. The
    driver's errors pass.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseRefused(
            f"The database at {where} has the encoding {encoding}; expected UTF8. Create one with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and set MAGNETIS_DATABASE_URL to it."
        )
    transactional, connection.autocommit = connection.autocommit, True
    version = connection.info.server_version
    statements = [
        f"SET {name} = {value}"
        for name, value in _SETTINGS.items()
        if version >= _SINCE.get(name, 0)
    ]
    with connection.cursor() as cursor:
        cursor.execute("; ".join([*statements, f"SET search_path = {search_path}"]))
        cursor.execute(_STATE)
        pid, synchronous_commit, schema = cursor.fetchone()
        if synchronous_commit == "off":
            # a charge that a crash forgets is spent twice; stronger settings stay
            cursor.execute("SET synchronous_commit = on")
    if pid != connection.info.backend_pid and where not in _checked:
        _require_sessions(connection, reconnect, where, pid)
        _checked.add(where)
    if in_use and schema != search_path:
        raise DatabaseRefused(
            f"The role of {where} cannot use the schema {search_path}: it does not exist, or USAGE on it is missing. As its owner: "
            f"GRANT USAGE ON SCHEMA {search_path} TO the role."
        )
    connection.autocommit = transactional


def _require_sessions(
    connection: DriverConnection, reconnect: Callable[[], DriverConnection], where: str, first: int
) -> None:
    """Raise DatabaseRefused if the pooler gives the connection's session of the server to others between two transactions."""
    other = reconnect()
    try:
        other.autocommit = True
        with other.cursor() as cursor:
            try:
                cursor.execute("BEGIN")
                kept = _pid(other) != first and _pid(connection) == first
                cursor.execute("COMMIT")
            except Exception as error:
                if getattr(error, "sqlstate", None) != "08P01":
                    raise
                kept = False  # in statement mode PgBouncer refuses transactions
        # servers may be handed out in turn
        kept = kept and all(_pid(connection) == first for _ in range(3))
    finally:
        other.close()
    if not kept:
        raise DatabaseRefused(
            f"The connection pooler at {where} hands out sessions of the server by transaction or statement, and this program "
            "needs one for each connection, for temporary tables and settings. Set its mode to session (PgBouncer: "
            "pool_mode = session, for this database alone if need be), or set MAGNETIS_DATABASE_URL to the server itself."
        )


def _pid(connection: DriverConnection) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])
