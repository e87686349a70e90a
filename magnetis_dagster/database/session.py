"""Configure each database session, independent of the server's defaults.

The settings are sent after the connection is open, because connection poolers ignore or refuse
startup options. A pooler that assigns server sessions per transaction is refused: settings,
temporary tables and prepared statements would be lost.
"""

from collections.abc import Callable
from typing import Any

from magnetis_dagster.database.refusals import DatabaseRefused

LOCK_SECONDS = 30
"""Default lock time-out of a statement; a transaction may set another."""

_SETTINGS = {
    # set these first: a time-out of 1 ms must not end the session before it is disabled
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    # a suspended process or a lost machine must not keep its locks for hours
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
    "row_security": "off",  # raise an error instead of silently hiding rows
    "plan_cache_mode": "auto",
    "default_table_access_method": "heap",
    "client_min_messages": "warning",
}
_SINCE = {"transaction_timeout": 170000, "idle_session_timeout": 140000}
"""First server version that has a setting."""
_STATE = "SELECT pg_backend_pid(), current_setting('synchronous_commit'), current_schema()"


DriverConnection = Any
"""A connection of psycopg, or of psycopg2 in Dagster's storage."""

_checked: set[str] = set()
"""Addresses of poolers that are known to keep sessions."""


def set_up(
    connection: DriverConnection,
    address: str,
    reconnect: Callable[[], DriverConnection],
    search_path: str,
    *,
    in_use: bool = False,
) -> None:
    """Apply the settings to a new session.

    `address` is for messages. `reconnect` opens a second connection. `search_path` names one
    schema; with `in_use`, it must exist.

    Raises: DatabaseRefused if the database's encoding is not UTF-8, if a pooler does not keep
    sessions, or if the schema is not usable. The driver's errors.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseRefused(
            f"The database at {address} has the encoding {encoding}; expected UTF8. Create one "
            "with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and set "
            "MAGNETIS_DATABASE_URL to it."
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
            # a crash must not lose a charge in the ledger; a stronger setting is kept
            cursor.execute("SET synchronous_commit = on")
    if pid != connection.info.backend_pid and address not in _checked:
        _require_sessions(connection, reconnect, address, pid)
        _checked.add(address)
    if in_use and schema != search_path:
        raise DatabaseRefused(
            f"The role of {address} cannot use the schema {search_path}: it does not exist, or the "
            f"role lacks USAGE on it. As its owner, run: GRANT USAGE ON SCHEMA {search_path} TO "
            "the role."
        )
    connection.autocommit = transactional


def _require_sessions(
    connection: DriverConnection,
    reconnect: Callable[[], DriverConnection],
    address: str,
    first: int,
) -> None:
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
                kept = False  # PgBouncer in statement mode refuses transactions
        # the pooler may rotate through its server sessions
        kept = kept and all(_pid(connection) == first for _ in range(3))
    finally:
        other.close()
    if not kept:
        raise DatabaseRefused(
            f"The connection pooler at {address} assigns server sessions per transaction or "
            "statement. This program needs one per connection, for temporary tables and settings. "
            "Set the pooler's mode to session (PgBouncer: pool_mode = session, possibly for this "
            "database only), or set MAGNETIS_DATABASE_URL to the server itself."
        )


def _pid(connection: DriverConnection) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])
