"""The role for BI tools: reads the tables of the data, with limits, and nothing else of the database."""

import re

from sqlalchemy import Connection, Engine, text

from magnetis_dagster.database import guarded
from magnetis_dagster.database.address import engine_url, parameters_of, shown
from magnetis_dagster.errors import PermanentError

ROLE = "magnetis_reader"
SCHEMAS = ("magnetis", "magnetis_marts")
"""Not magnetis_ops, whose kept pages are raw answers of the API, and not Dagster's own."""

_DEFAULTS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "5min",
    "lock_timeout": "10s",
    # a BI tool that leaves a transaction open would make migrations wait
    "idle_in_transaction_session_timeout": "5min",
    "search_path": "magnetis, magnetis_marts",
}
_CREATE = f"CREATE ROLE {ROLE} LOGIN CONNECTION LIMIT 20"
"""The server has 100 connections, and loads need them."""
_LOCK = 0x6D61_6772_6561_6431
"""Of the advisory lock that makes creations wait for one another."""


class ReaderUnknown(PermanentError):
    """The server is the user's own, so its administrator creates the role; the text says how."""


def create(engine: Engine) -> None:
    """Create the role if it is missing, and let it read what there is and what this user adds to the schemas later.

    Raises: DatabaseUnavailable; DatabaseRefused if this user may not create roles.
    """
    with guarded(engine, f"create the role {ROLE}"), engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if not _exists(connection):
            connection.execute(text(_CREATE))
        for statement in _limits():
            connection.execute(text(statement))
        grant(connection)


def grant(connection: Connection) -> None:
    """Let the role, if it exists, read the schemas that exist, now and as this user adds to them.

    Leaves out what belongs to others: only an owner may grant.
    """
    if not _exists(connection):
        return
    for schema in SCHEMAS:
        owned = connection.execute(
            text("SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = :schema"),
            {"schema": schema},
        ).scalar()
        if not owned:
            continue
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {ROLE}"))
        connection.execute(
            text(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {ROLE}")
        )
        unread = connection.execute(
            text(
                "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = CAST(:schema AS regnamespace) "
                "AND relkind IN ('r', 'p', 'v', 'm') AND pg_has_role(relowner, 'USAGE') "
                "AND NOT has_table_privilege(:role, oid, 'SELECT')"
            ),
            {"schema": schema, "role": ROLE},
        )
        for (table,) in unread.all():
            connection.execute(text(f"GRANT SELECT ON {table} TO {ROLE}"))


def instructions(url: str) -> str:
    """Return what the administrator of the server at `url` runs to create the role, with no password in it."""
    parameters = parameters_of(url)
    owner = _identifier(parameters.get("user", "magnetis"))
    address = shown(engine_url("postgresql", parameters | {"user": ROLE, "password": "given"}))
    statements = [_CREATE, *_limits()]
    statements += [
        f"GRANT USAGE ON SCHEMA {SCHEMAS[0]} TO {ROLE}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMAS[0]} TO {ROLE}",
    ]
    statements += [
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {SCHEMAS[0]} GRANT SELECT ON TABLES TO {ROLE}"
    ]
    lines = "".join(f"  {statement};\n" for statement in statements)
    return (
        f"MAGNETIS_DATABASE_URL names a server of your own, so its administrator must create the role {ROLE}. In psql, in that "
        f"database:\n{lines}  \\password {ROLE}\n"
        f"The address of the role, with its password in place of ***: {address}"
    )


def _identifier(name: str) -> str:
    doubled = name.replace('"', '""')
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else f'"{doubled}"'


def _limits() -> list[str]:
    return [
        f"ALTER ROLE {ROLE} SET {name} = {_quoted(name, value)}"
        for name, value in _DEFAULTS.items()
    ]


def _quoted(name: str, value: str) -> str:
    return value if name == "search_path" else f"'{value}'"


def _exists(connection: Connection) -> bool:
    return bool(
        connection.execute(
            text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": ROLE}
        ).scalar()
    )
