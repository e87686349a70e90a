"""Creates the role for BI tools. It reads the data tables, within limits, and nothing else."""

import re

from sqlalchemy import Connection, Engine, text

from magnetis_dagster.database import guarded
from magnetis_dagster.database.address import engine_url, mask_passwords, parameters_of
from magnetis_dagster.errors import PermanentError

ROLE = "magnetis_reader"
SCHEMAS = ("magnetis", "magnetis_marts")
"""Not magnetis_ops, which caches raw pages of the API, and not Dagster's schema."""

_LIMITS = [
    f"ALTER ROLE {ROLE} SET {limit}"
    for limit in (
        "default_transaction_read_only = 'on'",
        "statement_timeout = '5min'",
        "lock_timeout = '10s'",
        # an open transaction of a BI tool blocks migrations
        "idle_in_transaction_session_timeout = '5min'",
        "search_path = magnetis, magnetis_marts",
    )
]
_CREATE = f"CREATE ROLE {ROLE} LOGIN CONNECTION LIMIT 20"
"""The server accepts 100 sessions, and loads need most of them."""
_EXISTS = text("SELECT 1 FROM pg_roles WHERE rolname = :role").bindparams(role=ROLE)
_IS_OWNED = text("SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = :schema")
_UNREADABLE = text(
    "SELECT oid::regclass::text FROM pg_class "
    "WHERE relnamespace = CAST(:schema AS regnamespace) "
    "AND relkind IN ('r', 'p', 'v', 'm') AND pg_has_role(relowner, 'USAGE') "
    f"AND NOT has_table_privilege('{ROLE}', oid, 'SELECT')"
)
"""Tables and views of this user that the role cannot read."""
_LOCK = 0x6D61_6772_6561_6431
"""Advisory lock: one process at a time creates the role."""


class ReaderUnknown(PermanentError):
    """Only the server's administrator can create the role; the text contains the SQL."""


def create(engine: Engine) -> None:
    """Create the role if it is missing, and grant it the present and future tables of this user.

    Raises: DatabaseRefused if this user may not create roles.
    """
    with guarded(engine, f"create the role {ROLE}"), engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if not connection.execute(_EXISTS).scalar():
            connection.execute(text(_CREATE))
        for statement in _LIMITS:
            connection.execute(text(statement))
        grant(connection)


def grant(connection: Connection) -> None:
    """Grant the role, if it exists, this user's present and future tables in existing schemas.

    Skips schemas and tables of other owners: only an owner may grant.
    """
    if not connection.execute(_EXISTS).scalar():
        return
    for schema in SCHEMAS:
        if not connection.execute(_IS_OWNED, {"schema": schema}).scalar():
            continue
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {ROLE}"))
        connection.execute(
            text(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {ROLE}")
        )
        for table in connection.scalars(_UNREADABLE, {"schema": schema}).all():
            connection.execute(text(f"GRANT SELECT ON {table} TO {ROLE}"))


def instructions(url: str) -> str:
    """Return the SQL, without a password, by which the administrator of `url` creates the role."""
    parameters = parameters_of(url)
    owner = parameters.get("user", "magnetis")
    if not re.fullmatch("[a-z_][a-z0-9_]*", owner):
        owner = '"{}"'.format(owner.replace('"', '""'))
    as_reader = parameters | {"user": ROLE, "password": "given"}
    address = mask_passwords(engine_url("postgresql", as_reader))
    schema = SCHEMAS[0]
    future_tables = f"GRANT SELECT ON TABLES TO {ROLE}"
    statements = [
        _CREATE,
        *_LIMITS,
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
