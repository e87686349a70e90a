"""Fills the templates `merge_events.sql` and `merge_snapshots.sql` for one collection."""

from collections.abc import Sequence

from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.volatile import column_sql, same_sql, volatile_columns
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, history_name, privacy_types, staged_types

_SEPARATOR = ",\n        "
"""One column per line, so that a column is one line in a comparison of statements."""
_EVENTS = Queries("merge_events")
_SNAPSHOTS = Queries("merge_snapshots")


def merge_queries(collection: Collection, undeclared: Sequence[str] = ()) -> Queries:
    """Return the statements that merge the collection.

    `undeclared`: columns of the table that the catalogue no longer declares.
    """
    moments = ["occurred_at", "day"] if collection.is_events else []
    typed = [f'"{name}"' for name in collection.columns]  # an overlay may call a column `order`
    personal = list(privacy_types(collection))
    columns = ["account_id", "payload", *moments, *typed, *personal]
    staged = ["account_id", "payload", *moments, *staged_types(collection)]
    # A new payload clears an undeclared column: its value came from the old payload. With an equal
    # payload the value stays valid for another process that has an overlay which declares it.
    cleared = [
        f'"{name}" = CASE WHEN t.payload = excluded.payload THEN t."{name}" END'
        for name in undeclared
    ]
    old, new = (_compared_columns(collection, moments, row) for row in ("t", "excluded"))
    template = _EVENTS if collection.is_events else _SNAPSHOTS
    return template.fill(
        table=f"{DATA_SCHEMA}.{collection.name}",
        history=f"{DATA_SCHEMA}.{history_name(collection)}",
        columns=_SEPARATOR.join(columns),
        values=_SEPARATOR.join(f"s.{name}" for name in staged),
        assignments=_SEPARATOR.join([*(f"{name} = excluded.{name}" for name in columns), *cleared]),
        same_payload=same_sql(collection, "t.payload", "excluded.payload"),
        same_version=same_sql(collection, "t.payload", "h.payload"),
        columns_differ=f"(\n        {old}) IS DISTINCT FROM (\n        {new})",
    )


def _compared_columns(collection: Collection, moments: Sequence[str], row: str) -> str:
    """Return the columns that are compared beside the payload, as SQL expressions over `row`."""
    volatile = volatile_columns(collection)
    names = (name for name in collection.columns if name not in volatile)
    typed = (column_sql(collection, name, f'{row}."{name}"') for name in names)
    # a caller key differs after its secret was replaced
    fixed = ["account_id", *moments, *privacy_types(collection)]
    return _SEPARATOR.join([*(f"{row}.{name}" for name in fixed), *typed])
