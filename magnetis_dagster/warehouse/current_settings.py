"""Reads the current notification settings from the warehouse, to export or compare them."""

from typing import Any

from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.catalog.volatile import stable
from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.schema import DATA_SCHEMA

Payloads = dict[str, dict[str, Any]]
"""Rows as received, by id."""


def settings_collections(catalogue: Catalogue) -> list[Collection]:
    """Return the collections of notification settings, disabled ones included."""
    return [collection for collection in catalogue.collections.values() if collection.is_setting]


def current_rows(engine: Engine, collection: Collection) -> Payloads | None:
    """Return the rows that are not deleted, by account and id, without volatile members.

    None if the collection was never read. Creates no tables.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, f"read {collection.name}"), engine.connect() as connection:
        if not connection.execute(
            text("SELECT to_regclass('magnetis_ops.days') IS NOT NULL")
        ).scalar_one():
            return None
        read = text("SELECT EXISTS (SELECT FROM magnetis_ops.days WHERE collection = :collection)")
        if not connection.execute(read, {"collection": collection.name}).scalar_one():
            return None
        rows = text(
            f"SELECT id, payload FROM {DATA_SCHEMA}.{collection.name} WHERE deleted_at IS NULL "
            # the order must not depend on the server's locale
            'ORDER BY account_id COLLATE "C" NULLS FIRST, id COLLATE "C"'
        )
        return {
            identifier: stable(collection, payload)
            for identifier, payload in connection.execute(rows)
        }
