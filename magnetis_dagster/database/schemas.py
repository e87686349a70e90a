"""Schemas: found before they are created, since CREATE SCHEMA IF NOT EXISTS asks for the privilege first."""

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.schema import CreateSchema

from magnetis_dagster.database.refusals import DatabaseRefused


def ensure_schema(connection: Connection, schema: str) -> None:
    """Create `schema` unless it exists, in the caller's transaction. Raises DatabaseRefused if the role may not create it."""
    if connection.execute(text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": schema}).scalar() is not None:
        return
    try:
        connection.execute(CreateSchema(schema))
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        raise DatabaseRefused(
            f"The schema {schema} does not exist, and the role may not create it. As an administrator of the database: "
            f'CREATE SCHEMA {schema} AUTHORIZATION "{connection.engine.url.username or "the role"}"; nothing was changed.'
        ) from None
