"""What changed in settings: the view `magnetis.settings_changes`, made from the histories, and what one reading found."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.catalog.volatile import same_sql, stable_sql
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, OPS_SCHEMA, history_name

VIEW = f"{DATA_SCHEMA}.settings_changes"
ABOUT = "Changes of report and alert settings, one row per change. May hold personal data."
MOST_CHANGES = 50
"""Changes of one reading that are told one by one; the others are counted."""

_COLUMNS = {
    "changed_at": "Start of the reading that first saw the change.",
    "collection": "Collection that the setting belongs to.",
    "account_id": "Account that the setting belongs to; of a removed one, the last known.",
    "setting_id": "Identifier given by Magnetis.",
    "title": "Title of the setting; of a removed one, the last known.",
    "kind": "first_seen (in the very first snapshot of its collection), added, changed or removed.",
    "changes": "Members of the row that differ, volatile ones left out: {member: {old, new}}; null: no such member. "
    "May hold personal data.",
    "account_name": "Name of that account.",
}


class ChangeKind(StrEnum):
    """What became of a setting."""

    FIRST_SEEN = "first_seen"
    """Part of the very first snapshot of its collection: how long it had been there, nobody knows."""
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class FieldChange(NamedTuple):
    """One member of a row, before and after; None where it was not there, or null."""

    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the view. Holds values as received, so personal data too."""

    kind: ChangeKind
    account_id: str | None
    account_name: str | None
    setting_id: str
    title: str | None
    fields: Mapping[str, FieldChange]


@dataclass(frozen=True, slots=True)
class Changes:
    """What one reading of a settings collection found."""

    read_at: datetime
    counts: dict[ChangeKind, int]
    listed: list[Change]
    """The first MOST_CHANGES of them; none of FIRST_SEEN, which a first snapshot is full of."""


def view_statements(catalogue: Catalogue) -> list[str]:
    """Return the statements that make the view of this catalogue's settings, or bring it up to date. None drops anything."""
    watched = [collection for collection in catalogue.collections.values() if collection.is_setting]
    if not watched:
        return []
    names = _account_names(catalogue)
    versions = " UNION ALL ".join(
        statement for collection in watched for statement in _versions(collection, names)
    )
    comments = {f"VIEW {VIEW}": ABOUT} | {
        f"COLUMN {VIEW}.{name}": about for name, about in _COLUMNS.items()
    }
    # replaced and never dropped: grants on it, and views that users made of it, stay
    view = (
        f"CREATE OR REPLACE VIEW {VIEW} AS "
        "SELECT v.changed_at, v.collection, v.account_id, v.setting_id, v.title, v.kind, f.changes, v.account_name "
        f"FROM ({versions}) AS v CROSS JOIN LATERAL ("
        "SELECT coalesce(jsonb_object_agg(coalesce(o.key, n.key), jsonb_build_object('old', o.value, 'new', n.value)), '{}') "
        "AS changes FROM jsonb_each(v.old) AS o FULL JOIN jsonb_each(v.new) AS n ON n.key = o.key "
        "WHERE o.value IS DISTINCT FROM n.value) AS f"
    )
    return [view, *(f"COMMENT ON {what} IS '{about}'" for what, about in comments.items())]


def _account_names(catalogue: Catalogue) -> str:
    accounts = catalogue.collections.get("accounts")
    if accounts is None or "name" not in accounts.columns:
        return "CAST(NULL AS text)"
    return f'(SELECT CAST(a."name" AS text) FROM {DATA_SCHEMA}.accounts AS a WHERE a.id = h.account_id)'


def _versions(collection: Collection, account_names: str) -> tuple[str, str]:
    history = f"{DATA_SCHEMA}.{history_name(collection)}"
    # an overlay may take the column away or give it another type, and the type of a view's column cannot change
    title = 'CAST(h."title" AS text)' if "title" in collection.columns else "CAST(NULL AS text)"
    received = (
        'CAST(h."account_name" AS text)'
        if "account_name" in collection.columns
        else "CAST(NULL AS text)"
    )
    name = f"coalesce({received}, {account_names})"
    named = (
        f"CAST('{collection.name}' AS text) AS collection, h.account_id, h.id AS setting_id, "
        f"{title} AS title, {name} AS account_name"
    )
    # volatile members are no changes, in versions that were kept before they were declared either
    old, new = stable_sql(collection, "p.payload"), stable_sql(collection, "h.payload")
    differs = (
        f" WHERE p.id IS NULL OR NOT {same_sql(collection, 'p.payload', 'h.payload')}"
        if collection.volatile
        else ""
    )
    first = f"(SELECT min(w.read_at) FROM {OPS_SCHEMA}.windows AS w WHERE w.collection = '{collection.name}')"
    begun = (
        f"SELECT h.valid_from AS changed_at, {named}, CASE WHEN p.id IS NOT NULL THEN 'changed' "
        f"WHEN h.valid_from <= {first} THEN 'first_seen' ELSE 'added' END AS kind, {old} AS old, {new} AS new "
        f"FROM {history} AS h LEFT JOIN {history} AS p ON p.id = h.id AND p.valid_to = h.valid_from{differs}"
    )
    ended = (
        f"SELECT h.valid_to AS changed_at, {named}, 'removed' AS kind, {new} AS old, CAST(NULL AS jsonb) AS new "
        f"FROM {history} AS h WHERE h.valid_to IS NOT NULL "
        f"AND NOT EXISTS (SELECT FROM {history} AS n WHERE n.id = h.id AND n.valid_from = h.valid_to)"
    )
    return begun, ended


def read_changes(connection: Connection, collection: Collection, read_at: datetime) -> Changes:
    """Return what the reading that began at `read_at` found to be changed."""
    names = {
        "collection": collection.name,
        "read_at": read_at,
        "most": MOST_CHANGES,
        "first": ChangeKind.FIRST_SEEN.value,
    }
    those = f"FROM {VIEW} AS c WHERE c.collection = :collection AND c.changed_at = :read_at"
    counts = connection.execute(text(f"SELECT kind, count(*) {those} GROUP BY kind"), names)
    # removed, changed, added: what nobody is told any more first, should there be too many
    listed = connection.execute(
        text(
            f"SELECT c.kind, c.account_id, c.account_name, c.setting_id, c.title, c.changes {those} "
            "AND c.kind <> :first ORDER BY c.kind DESC, c.account_id, c.title, c.setting_id LIMIT :most"
        ),
        names,
    )
    return Changes(
        read_at=read_at,
        counts={ChangeKind(kind): int(number) for kind, number in counts},
        listed=[
            Change(
                ChangeKind(kind),
                account_id,
                account_name,
                setting_id,
                title,
                {
                    name: FieldChange(value["old"], value["new"])
                    for name, value in sorted(changes.items())
                },
            )
            for kind, account_id, account_name, setting_id, title, changes in listed
        ],
    )
