"""Lists changes of notification settings: the view settings_changes, and those of one read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.catalog.volatile import same_sql, stable_sql
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, column_or_null, history_name

_QUERIES = Queries("settings_changes")
VIEW = f"{DATA_SCHEMA}.settings_changes"
# never change this text: with another one, an existing view would count as somebody else's
ABOUT = "Changes of report and alert settings, one row per change. May hold personal data."
MOST_CHANGES = 50
"""Changes of one read that are listed one by one; the others are only counted."""

_COLUMNS = {
    "changed_at": "Start of the read that first saw the change.",
    "collection": "Collection that the setting belongs to.",
    "account_id": "Account that the setting belongs to; of a removed setting, the last known one.",
    "setting_id": "Identifier given by Magnetis.",
    "title": "Title of the setting; of a removed setting, the last known one.",
    "kind": "first_seen (in the first snapshot of its collection), added, changed or removed.",
    "changes": "Members of the row that differ, except volatile ones: {member: {old, new}}; null: "
    "no such member. May contain personal data.",
    "account_name": "Name of that account.",
    "connection": "Connection whose key returned the setting.",
}


class ChangeKind(StrEnum):
    """Kind of a change."""

    FIRST_SEEN = "first_seen"
    """Part of the first snapshot of its collection. How long it existed before is unknown."""
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class FieldChange(NamedTuple):
    """One member of a row, before and after. None: the member was missing or null."""

    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the view. Contains values as received, and so personal data."""

    kind: ChangeKind
    account_id: str | None
    account_name: str | None
    setting_id: str
    title: str | None
    fields: Mapping[str, FieldChange]


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes that one read of a collection of notification settings found."""

    read_at: datetime
    counts: dict[ChangeKind, int]
    listed: list[Change]
    """The first MOST_CHANGES changes, without FIRST_SEEN: every row of a first snapshot is one."""


def refresh_view(connection: Connection, catalogue: Catalogue) -> None:
    """Create or update the view, in the caller's transaction.

    Collections that only the catalogue of another connection declares stay in it.
    """
    declared = {history_name(each) for each in catalogue.collections.values()}
    others = [
        Collection.model_construct(
            name=str(row.name).removesuffix("_history"), columns=dict.fromkeys(row.columns)
        )
        for row in connection.execute(_QUERIES["watched_tables"], {"view": VIEW})
        if row.name not in declared
    ]
    for statement in view_statements(catalogue, others):
        connection.execute(text(statement))


def view_statements(catalogue: Catalogue, others: Iterable[Collection] = ()) -> list[str]:
    """Return the statements that create or update the view. They drop nothing.

    `others`: more collections of settings, with their columns.
    """
    watched = [collection for collection in catalogue.collections.values() if collection.is_setting]
    watched += others
    if not watched:
        return []
    names = _account_names(catalogue)
    versions = " UNION ALL ".join(
        statement for collection in watched for statement in _versions(collection, names)
    )
    comments = {f"VIEW {VIEW}": ABOUT}
    comments |= {f"COLUMN {VIEW}.{name}": about for name, about in _COLUMNS.items()}
    view = _QUERIES.fill(view=VIEW, versions=versions).sql("view")
    return [view, *(f"COMMENT ON {what} IS '{about}'" for what, about in comments.items())]


def _account_names(catalogue: Catalogue) -> str:
    accounts = catalogue.collections.get("accounts")
    if accounts is None or "name" not in accounts.columns:
        return "CAST(NULL AS text)"
    same = "a.connection = h.connection AND a.id = h.account_id"
    return f'(SELECT CAST(a."name" AS text) FROM {DATA_SCHEMA}.accounts AS a WHERE {same})'


def _versions(collection: Collection, account_names: str) -> tuple[str, str]:
    differs = ""
    if collection.volatile:
        # volatile members are no changes, nor are they in versions stored before their declaration
        same = same_sql(collection, "p.payload", "h.payload")
        differs = f" WHERE p.id IS NULL OR NOT {same}"
    # the type of a view's column is fixed, but an overlay may change that of a table's
    received_name = column_or_null(collection, "h", "account_name")
    queries = _QUERIES.fill(
        collection=collection.name,
        history=f"{DATA_SCHEMA}.{history_name(collection)}",
        title=column_or_null(collection, "h", "title"),
        account_name=f"coalesce({received_name}, {account_names})",
        old=stable_sql(collection, "p.payload"),
        new=stable_sql(collection, "h.payload"),
        differs=differs,
    )
    return queries.sql("begun_versions"), queries.sql("ended_versions")


def read_changes(
    connection: Connection,
    collection: Collection,
    read_at: datetime,
    *,
    connection_name: str = UNNAMED,
) -> Changes:
    """Return the changes that the connection's read that began at `read_at` found."""
    parameters = {
        "connection": connection_name,
        "collection": collection.name,
        "read_at": read_at,
        "most": MOST_CHANGES,
        "first": ChangeKind.FIRST_SEEN.value,
    }
    counts = connection.execute(_QUERIES["count_changes"], parameters)
    listed = connection.execute(_QUERIES["list_changes"], parameters)
    return Changes(
        read_at=read_at,
        counts={ChangeKind(kind): int(number) for kind, number in counts},
        listed=[
            Change(
                ChangeKind(row.kind),
                row.account_id,
                row.account_name,
                row.setting_id,
                row.title,
                {name: FieldChange(**value) for name, value in sorted(row.changes.items())},
            )
            for row in listed
        ],
    )
