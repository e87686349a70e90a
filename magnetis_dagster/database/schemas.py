"""Create schemas that do not exist yet.

CREATE SCHEMA IF NOT EXISTS fails without the CREATE privilege even if the schema exists.
"""

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.schema import CreateSchema

from magnetis_dagster.database.refusals import DatabaseRefused


def ensure_schema(connection: Connection, schema: str) -> None:
    """Create `schema` in the caller's transaction. Raises DatabaseRefused."""
    query = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
    if connection.execute(query, {"name": schema}).scalar() is not None:
        return
    try:
        connection.execute(CreateSchema(schema))
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        role = connection.engine.url.username or "the role"
        raise DatabaseRefused(
            f"The schema {schema} does not exist, and the role lacks the privilege to create it. "
            "Run as an administrator of the database: "
            f'CREATE SCHEMA {schema} AUTHORIZATION "{role}". '
            "The transaction was rolled back."
        ) from None
