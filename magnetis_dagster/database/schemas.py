"""Schemas: looked up before they are created, because CREATE SCHEMA IF NOT EXISTS needs the privilege first."""

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.schema import CreateSchema

from magnetis_dagster.database.refusals import DatabaseRefused


def ensure_schema(connection: Connection, schema: str) -> None:
    """Create `schema` unless it exists, in the caller's transaction. Raises DatabaseRefused if the role may not create it."""
    if (
        connection.execute(
            text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": schema}
        ).scalar()
        is not None
    ):
        return
    try:
        connection.execute(CreateSchema(schema))
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        raise DatabaseRefused(
            f"The schema {schema} does not exist, and the role may not create it. Run as an administrator of the database: "
            f'CREATE SCHEMA {schema} AUTHORIZATION "{connection.engine.url.username or "the role"}". Nothing was changed.'
        ) from None
