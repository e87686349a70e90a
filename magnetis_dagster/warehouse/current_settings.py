"""Reads the current notification settings from the warehouse, to export or compare them."""

from typing import Any

from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.catalog.volatile import stable
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import guarded, has_table
from magnetis_dagster.warehouse.schema import DATA_SCHEMA

Payloads = dict[str, dict[str, Any]]
"""Rows as received, by id."""


def settings_collections(catalogue: Catalogue) -> list[Collection]:
    """Return the collections of notification settings, disabled ones included."""
    return [collection for collection in catalogue.collections.values() if collection.is_setting]


def current_rows(
    engine: Engine, collection: Collection, *, connection_name: str = UNNAMED
) -> Payloads | None:
    """Return the rows that are not deleted, by account and id, without volatile members.

    None if the connection never read the collection. Creates no tables.
    """
    read = text(
        "SELECT EXISTS (SELECT FROM magnetis_ops.days "
        "WHERE connection = :connection AND collection = :collection)"
    )
    rows = text(
        f"SELECT id, payload FROM {DATA_SCHEMA}.{collection.name} "
        "WHERE connection = :connection AND deleted_at IS NULL "
        # the order must not depend on the server's locale
        'ORDER BY account_id COLLATE "C" NULLS FIRST, id COLLATE "C"'
    )
    names = {"connection": connection_name, "collection": collection.name}
    with guarded(engine, f"read {collection.name}"), engine.connect() as connection:
        if not has_table(connection, "magnetis_ops.days"):
            return None
        if not connection.execute(read, names).scalar_one():
            return None
        found = connection.execute(rows, names)
        return {id_: stable(collection, payload) for id_, payload in found}
