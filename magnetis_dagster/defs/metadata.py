"""What people see of an asset and of each day: schema, table, numbers that Dagster plots over time. Never a row.

Of settings, what changed is shown as well. Dagster has no login, so no personal value is.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

from dagster import MetadataValue, TableColumn, TableColumnConstraints, TableRecord, TableSchema
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.catalog import Collection, ColumnType, PersonalData
from magnetis_dagster.catalog.masking import MASK, Masking, masked_id
from magnetis_dagster.catalog.row_parser import shown_name
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.exact_json import dump_json

if TYPE_CHECKING:
    from magnetis_dagster.ingest import DayResult, WindowResult
    from magnetis_dagster.warehouse import Change, Changes

SQL_TYPES = {
    ColumnType.TEXT: "text",
    ColumnType.INTEGER: "bigint",
    ColumnType.DECIMAL: "numeric",
    ColumnType.BOOLEAN: "boolean",
    ColumnType.TIMESTAMP: "timestamptz",
    ColumnType.JSON: "jsonb",
}


def table_name(collection: Collection) -> str:
    """Return the qualified name of the collection's table."""
    return f"magnetis.{collection.name}"


def asset_metadata(collection: Collection) -> dict[str, object]:
    """Return the metadata of the asset itself."""
    return {
        "dagster/table_name": table_name(collection),
        "dagster/column_schema": _schema(collection),
        "kind": collection.kind.value,
        "route": collection.route,
        "route evidence": collection.routes[0].evidence.value,
    }


def day_metadata(
    collection: Collection, window: "WindowResult", day: "DayResult"
) -> dict[str, RawMetadataValue]:
    """Return the metadata of one materialized day, each number once. Costs are the day's share of its window.

    The table of a snapshot holds the rows of the newest day, so only events have a row count of the table beside that of the day.
    """
    return {
        "dagster/table_name": MetadataValue.text(table_name(collection)),
        **(
            {"dagster/row_count": MetadataValue.int(window.rows_held)}
            if collection.is_events
            else {}
        ),
        "rows": MetadataValue.int(day.rows),
        "announced rows": MetadataValue.int(day.announced),
        "new rows": MetadataValue.int(day.inserted),
        "changed rows": MetadataValue.int(day.changed),
        "deleted rows": MetadataValue.int(day.deleted),
        "age in days": MetadataValue.int(day.age_days),
        "API calls": MetadataValue.int(day.api_calls),
        "bytes": MetadataValue.int(day.bytes),
        "seconds": MetadataValue.float(round(day.seconds, 3)),
        "quota left": MetadataValue.int(window.quota_left),
        "window": MetadataValue.text(str(window.window)),
        "query": MetadataValue.md(f"```sql\n{query(collection, day.day)}\n```"),
        **(changes_metadata(collection, window.changes) if window.changes else {}),
    }


CHANGES_SCHEMA = TableSchema(
    columns=[
        TableColumn("change", "string", "added, changed or removed."),
        TableColumn("account", "string", "Name of the account."),
        TableColumn("title", "string", "Title of the setting."),
        TableColumn(
            "what", "string", "Members that differ, old → new; of a list of persons only how many."
        ),
        TableColumn("account id", "string"),
        TableColumn("setting id", "string"),
    ]
)
_MOST_MEMBERS = 12
"""Named of one change; a row of the table is to be read at a glance."""
_DEEPEST = 4
"""Levels of a member that are looked into."""


def changes_metadata(collection: Collection, changes: "Changes") -> dict[str, RawMetadataValue]:
    """Return what one reading of settings found to be changed; of the very first snapshot only how many there are."""
    first_seen = sum(number for kind, number in changes.counts.items() if kind == "first_seen")
    total = sum(changes.counts.values()) - first_seen
    metadata: dict[str, RawMetadataValue] = {"settings changed": MetadataValue.int(total)}
    if first_seen:
        metadata["settings first seen"] = MetadataValue.int(first_seen)
    if total:
        shown = _Shown(collection)
        metadata["changes"] = MetadataValue.table(
            [shown.record(change) for change in changes.listed], CHANGES_SCHEMA
        )
        metadata["changes not shown"] = MetadataValue.int(total - len(changes.listed))
        statement = (
            f"SELECT * FROM magnetis.settings_changes WHERE collection = '{collection.name}' "  # noqa: S608 - shown, not run
            f"AND changed_at = '{changes.read_at.isoformat()}';"
        )
        metadata["query of the changes"] = MetadataValue.md(f"```sql\n{statement}\n```")
    return metadata


class _Shown:
    """Makes changes fit to be shown."""

    def __init__(self, collection: Collection) -> None:
        self._masking = Masking(collection)
        columns = collection.columns
        self._declared = {
            path for column in columns.values() for path in column.paths
        } | collection.key_paths
        self._json = {
            path
            for column in columns.values()
            if column.type is ColumnType.JSON
            for path in column.paths
        }
        named = [columns[name].paths for name in ("title", "account_name") if name in columns]
        self._elsewhere = {*collection.key_paths, *(path for paths in named for path in paths)}
        """Members that have a cell of their own."""

    def record(self, change: "Change") -> TableRecord:
        """Return the line of one change."""
        return TableRecord(
            {
                "change": change.kind.value,
                "account": self._masking.column("account_name", change.account_name),
                "title": self._masking.column("title", change.title),
                "what": self._what(change),
                "account id": masked_id(change.account_id) if change.account_id else None,
                "setting id": masked_id(change.setting_id),
            }
        )

    def _what(self, change: "Change") -> str:
        both = change.kind == "changed"
        lines: list[str] = []
        for member, (old, new) in change.fields.items():
            name = _part(member)
            before, after = dict(_leaves(name, old)), dict(_leaves(name, new))
            for path in sorted({*before, *after}):
                was, became = before.get(path), after.get(path)
                if dump_json(was) == dump_json(became) or (path in self._elsewhere and not both):
                    continue
                values = (was, became) if both else (became if was is None else was,)
                shown = " → ".join(self._value(path, value) for value in values)
                lines.append(f"{_shown_path(path)}: {shown}{_moved(was, became)}")
        if not lines and both:
            return "null instead of absent, or the reverse: " + ", ".join(
                map(_shown_path, change.fields)
            )
        more = len(lines) - _MOST_MEMBERS
        return "; ".join(lines[:_MOST_MEMBERS]) + (f"; {more} more" if more > 0 else "")

    def _value(self, path: str, value: Any) -> str:
        if value is None:
            return "null"
        # a list where the catalogue promises a word may hold anything, and so may what lies deeper than we look
        in_json = any(path == outer or path.startswith(f"{outer}.") for outer in self._json)
        as_declared = not isinstance(value, dict if in_json else dict | list) and (
            in_json or path in self._declared
        )
        shown = self._masking.member(path, value) if as_declared else MASK
        if not isinstance(value, list) or not shown.startswith(MASK):
            return shown
        name = _shown_path(path).rpartition(".")[2]
        noun = "entries" if name == "*" else name
        return f"{len(value)} {noun.removesuffix('s') if len(value) == 1 else noun}"


def _leaves(path: str, value: Any, depth: int = 1) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value and depth < _DEEPEST:
        for name, member in value.items():
            yield from _leaves(f"{path}.{_part(name)}", member, depth + 1)
    else:
        yield path, value


def _part(name: str) -> str:
    # a member called `account.name` is not the `name` of an `account`
    return name.replace(".", "*")


def _shown_path(path: str) -> str:
    return ".".join(map(shown_name, path.split(".")))


def _moved(old: Any, new: Any) -> str:
    """Return how many entries of a list came and went."""
    if not isinstance(old, list) or not isinstance(new, list):
        return ""
    before, after = Counter(map(dump_json, old)), Counter(map(dump_json, new))
    added, removed = (after - before).total(), (before - after).total()
    words = [
        f"{number} {word}" for number, word in ((added, "added"), (removed, "removed")) if number
    ]
    return f" ({', '.join(words) or 'in another order'})"


def query(collection: Collection, day: date) -> str:
    """Return the statement that shows the rows of the day."""
    if collection.is_events:
        return f"SELECT * FROM {table_name(collection)} WHERE day = DATE '{day}' AND deleted_at IS NULL ORDER BY occurred_at;"  # noqa: S608
    return f"SELECT * FROM {table_name(collection)} WHERE deleted_at IS NULL;"  # noqa: S608 - shown, not run


def _schema(collection: Collection) -> TableSchema:
    standard = [
        TableColumn(
            "id",
            "text",
            "Identifier given by Magnetis; opaque.",
            TableColumnConstraints(nullable=False, unique=True),
        ),
        TableColumn("account_id", "text", "Account that the row belongs to."),
        TableColumn(
            "payload",
            "jsonb",
            "The row as received.",
            tags={"personal_data": PersonalData.PERSONAL.value},
        ),
    ]
    if collection.is_events:
        standard += [
            TableColumn("occurred_at", "timestamptz", "Moment of the event."),
            TableColumn("day", "date", "Local day of the event: the partition."),
        ]
    declared = [
        TableColumn(
            name,
            SQL_TYPES[column.type],
            literal(f"{column.description}{f' Unit: {column.unit}.' if column.unit else ''}"),
            tags={}
            if column.personal_data is PersonalData.NONE
            else {"personal_data": column.personal_data.value},
        )
        for name, column in collection.columns.items()
    ]
    moments = [
        TableColumn(
            "first_seen_at", "timestamptz", "Start of the first read that returned the row."
        ),
        TableColumn(
            "last_seen_at",
            "timestamptz",
            "Start of the last read that changed anything in the row.",
        ),
        TableColumn(
            "changed_at", "timestamptz", "Start of the read in which the payload last differed."
        ),
        TableColumn(
            "deleted_at",
            "timestamptz",
            "Start of the complete read that no longer returned the row.",
        ),
    ]
    return TableSchema(columns=[*standard, *declared, *moments])
