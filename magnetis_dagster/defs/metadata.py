"""Metadata of assets and of materialized days: schema, table, and numbers that Dagster plots.

Metadata contains no rows, because Dagster has no login.
"""

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.catalog import Collection, ColumnType, PersonalData
from magnetis_dagster.defs.change_metadata import changes_metadata
from magnetis_dagster.defs.markdown import literal

if TYPE_CHECKING:
    from magnetis_dagster.ingest import DayResult, WindowResult

SQL_TYPES = {
    ColumnType.TEXT: "text",
    ColumnType.INTEGER: "bigint",
    ColumnType.DECIMAL: "numeric",
    ColumnType.BOOLEAN: "boolean",
    ColumnType.TIMESTAMP: "timestamptz",
    ColumnType.JSON: "jsonb",
}


def asset_metadata(collection: Collection) -> dict[str, object]:
    """Return the metadata of the asset itself."""
    return {
        "dagster/table_name": f"magnetis.{collection.name}",
        "dagster/column_schema": _schema(collection),
        "kind": collection.kind.value,
        "route": collection.route,
        "route evidence": collection.routes[0].evidence.value,
    }


def day_metadata(
    collection: Collection, window: "WindowResult", day: "DayResult"
) -> dict[str, RawMetadataValue]:
    """Return the metadata of one materialized day. Costs are the day's share of its window."""
    return {
        "dagster/table_name": f"magnetis.{collection.name}",
        **({"dagster/row_count": window.rows_held} if collection.is_events else {}),
        "rows": day.rows,
        "announced rows": day.announced,
        "new rows": day.inserted,
        "changed rows": day.changed,
        "deleted rows": day.deleted,
        "age in days": day.age_days,
        "API calls": day.api_calls,
        "bytes": day.bytes,
        "seconds": round(day.seconds, 3),
        "quota left": window.quota_left,
        "window": str(window.window),
        "query": dg.MetadataValue.md(f"```sql\n{query(collection, day.day)}\n```"),
        **(changes_metadata(collection, window.changes) if window.changes else {}),
    }


def query(collection: Collection, day: date) -> str:
    """Return the statement that shows the rows of the day."""
    rows = f"SELECT * FROM magnetis.{collection.name} WHERE"  # noqa: S608 - shown, not run
    if collection.is_events:
        return f"{rows} day = DATE '{day}' AND deleted_at IS NULL ORDER BY occurred_at;"
    return f"{rows} deleted_at IS NULL;"


_STANDARD_COLUMNS = [
    dg.TableColumn(
        "id",
        "text",
        "Identifier assigned by Magnetis; opaque.",
        dg.TableColumnConstraints(nullable=False, unique=True),
    ),
    dg.TableColumn("account_id", "text", "Account that the row belongs to."),
    dg.TableColumn(
        "payload",
        "jsonb",
        "The row as received.",
        tags={"personal_data": PersonalData.PERSONAL.value},
    ),
]
_EVENT_COLUMNS = [
    dg.TableColumn("occurred_at", "timestamptz", "Time of the event."),
    dg.TableColumn("day", "date", "Local day of the event, which is its partition."),
]
_READ_COLUMNS = [
    dg.TableColumn(name, "timestamptz", f"Start of the {read}.")
    for name, read in (
        ("first_seen_at", "first read that returned the row"),
        ("last_seen_at", "last read that changed anything in the row"),
        ("changed_at", "read in which the payload last differed"),
        ("deleted_at", "complete read that no longer returned the row"),
    )
]


def _schema(collection: Collection) -> dg.TableSchema:
    declared = [
        dg.TableColumn(
            name,
            SQL_TYPES[column.type],
            literal(f"{column.description}{f' Unit: {column.unit}.' if column.unit else ''}"),
            tags={}
            if column.personal_data is PersonalData.NONE
            else {"personal_data": column.personal_data.degree.value},
        )
        for name, column in collection.columns.items()
    ]
    events = _EVENT_COLUMNS if collection.is_events else []
    return dg.TableSchema(columns=[*_STANDARD_COLUMNS, *events, *declared, *_READ_COLUMNS])
