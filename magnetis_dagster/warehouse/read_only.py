"""Creates the role for BI tools. It reads the data tables, within limits, and nothing else."""

import re

from sqlalchemy import Connection, Engine, text

from magnetis_dagster.database import guarded
from magnetis_dagster.database.address import mask_passwords, parameters_of
from magnetis_dagster.errors import PermanentError

ROLE = "magnetis_reader"
SCHEMAS = ("magnetis", "magnetis_marts")
"""Not magnetis_ops, which caches raw pages of the API, and not Dagster's schema."""

_DEFAULTS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "5min",
    "lock_timeout": "10s",
    # an open transaction of a BI tool blocks migrations
    "idle_in_transaction_session_timeout": "5min",
    "search_path": "magnetis, magnetis_marts",
}
_CREATE = f"CREATE ROLE {ROLE} LOGIN CONNECTION LIMIT 20"
"""The server accepts 100 sessions, and loads need most of them."""
_LOCK = 0x6D61_6772_6561_6431
"""Advisory lock: one process at a time creates the role."""


class ReaderUnknown(PermanentError):
    """Only the server's administrator can create the role; the text contains the SQL."""


def create(engine: Engine) -> None:
    """Create the role if it is missing, and grant it the present and future tables of this user.

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
    """Grant the role, if it exists, this user's present and future tables in existing schemas.

    Skips schemas and tables of other owners: only an owner may grant.
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
                "SELECT oid::regclass::text FROM pg_class "
                "WHERE relnamespace = CAST(:schema AS regnamespace) "
                "AND relkind IN ('r', 'p', 'v', 'm') AND pg_has_role(relowner, 'USAGE') "
                "AND NOT has_table_privilege(:role, oid, 'SELECT')"
            ),
            {"schema": schema, "role": ROLE},
        )
        for (table,) in unread.all():
            connection.execute(text(f"GRANT SELECT ON {table} TO {ROLE}"))


def instructions(url: str) -> str:
    """Return the SQL with which the administrator of the server at `url` creates the role.

    It contains no password.
    """
    parameters = parameters_of(url)
    owner = _identifier(parameters.get("user", "magnetis"))
    address = mask_passwords(parameters | {"user": ROLE, "password": "given"})
    schema = SCHEMAS[0]
    future_tables = f"GRANT SELECT ON TABLES TO {ROLE}"
    statements = [
        _CREATE,
        *_limits(),
        f"GRANT USAGE ON SCHEMA {schema} TO {ROLE}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {ROLE}",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} {future_tables}",
    ]
    lines = "".join(f"  {statement};\n" for statement in statements)
    return (
        "MAGNETIS_DATABASE_URL names a server of your own: its administrator must create the role "
        f"{ROLE}. Run this in psql, in that database:\n{lines}  \\password {ROLE}\n"
        f"Then connect as the role, with its password instead of ***: {address}"
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
