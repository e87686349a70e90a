"""Counts the ids of one connection that others have loaded too. Returns no ids."""

from collections.abc import Collection as Ids

from sqlalchemy import Engine

from magnetis_dagster.catalog import Collection
from magnetis_dagster.database import guarded, has_table
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA

_QUERIES = Queries("overlaps")


def overlaps(
    engine: Engine, collection: Collection, connection_name: str, ids: Ids[str]
) -> dict[str, int]:
    """Return how many of the ids each other connection has, largest number first.

    Omits deleted rows, and connections that have none of the ids.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    table = f"{DATA_SCHEMA}.{collection.name}"
    parameters = {"connection": connection_name, "ids": list(ids)}
    query = _QUERIES.fill(table=table)["overlaps"]
    doing = f"compare the ids of {collection.name}"
    with guarded(engine, doing), engine.connect() as connection:
        if not has_table(connection, table):
            return {}
        return {row.connection: row.ids for row in connection.execute(query, parameters)}
