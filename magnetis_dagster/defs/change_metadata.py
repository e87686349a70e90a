"""Metadata of changed reports and alerts: a table with one row per change.

Personal values are masked, because Dagster has no login.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.catalog import Collection, ColumnType
from magnetis_dagster.catalog.masking import MASK, Masking, mask_id
from magnetis_dagster.catalog.row_parser import mask_name
from magnetis_dagster.exact_json import dump_json

if TYPE_CHECKING:
    from magnetis_dagster.warehouse import Change, Changes

CHANGES_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn(name, description=description)
        for name, description in (
            ("change", "added, changed or removed."),
            ("account", "Name of the account."),
            ("title", "Title of the setting."),
            ("what", "Changed members, old → new; lists of persons only as a count."),
            ("account id", None),
            ("setting id", None),
        )
    ]
)
_MAX_MEMBERS = 12
"""Members listed per change, so that the table stays readable."""
_MAX_DEPTH = 4
"""Levels of nested members that are compared separately."""


def changes_metadata(collection: Collection, changes: "Changes") -> dict[str, RawMetadataValue]:
    """Return the changes that a snapshot found; for the first one, the number of rows."""
    first_seen = sum(number for kind, number in changes.counts.items() if kind == "first_seen")
    total = sum(changes.counts.values()) - first_seen
    metadata: dict[str, RawMetadataValue] = {"settings changed": total}
    if first_seen:
        metadata["settings first seen"] = first_seen
    if total:
        rows = _ChangeRows(collection)
        metadata["changes"] = dg.MetadataValue.table(
            [rows.record(change) for change in changes.listed], CHANGES_SCHEMA
        )
        metadata["changes not shown"] = total - len(changes.listed)
        statement = (
            f"SELECT * FROM magnetis.settings_changes WHERE collection = '{collection.name}' "  # noqa: S608 - shown, not run
            f"AND changed_at = '{changes.read_at.isoformat()}';"
        )
        metadata["query of the changes"] = dg.MetadataValue.md(f"```sql\n{statement}\n```")
    return metadata


class _ChangeRows:
    """Formats changes as masked table rows."""

    def __init__(self, collection: Collection) -> None:
        self._masking = Masking(collection)
        columns, keys = collection.columns, collection.key_paths
        paths = {(name, path) for name, column in columns.items() for path in column.paths}
        self._declared = {path for _, path in paths} | keys
        self._json = {path for name, path in paths if columns[name].type is ColumnType.JSON}
        named = {path for name, path in paths if name in {"title", "account_name"}}
        self._own_cell = named | keys
        """Members that have a cell of their own."""

    def record(self, change: "Change") -> dg.TableRecord:
        """Return the row of one change."""
        return dg.TableRecord(
            {
                "change": change.kind.value,
                "account": self._masking.column("account_name", change.account_name),
                "title": self._masking.column("title", change.title),
                "what": self._members(change),
                "account id": mask_id(change.account_id) if change.account_id else None,
                "setting id": mask_id(change.setting_id),
            }
        )

    def _members(self, change: "Change") -> str:
        both = change.kind == "changed"
        lines: list[str] = []
        for member, (old, new) in change.fields.items():
            name = _part(member)
            before, after = dict(_leaves(name, old)), dict(_leaves(name, new))
            for path in sorted({*before, *after}):
                was, now = before.get(path), after.get(path)
                if dump_json(was) == dump_json(now) or (path in self._own_cell and not both):
                    continue
                values = (was, now) if both else (now if was is None else was,)
                shown = " → ".join(self._value(path, value) for value in values)
                lines.append(f"{_shown_path(path)}: {shown}{_list_changes(was, now)}")
        if not lines and both:
            paths = ", ".join(map(_shown_path, change.fields))
            return f"null instead of absent, or the reverse: {paths}"
        more = len(lines) - _MAX_MEMBERS
        return "; ".join(lines[:_MAX_MEMBERS]) + (f"; {more} more" if more > 0 else "")

    def _value(self, path: str, value: Any) -> str:
        if value is None:
            return "null"
        # A list in place of a declared scalar may contain anything, and so may members below
        # _MAX_DEPTH: both are masked.
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
    if isinstance(value, dict) and value and depth < _MAX_DEPTH:
        for name, member in value.items():
            yield from _leaves(f"{path}.{_part(name)}", member, depth + 1)
    else:
        yield path, value


def _part(name: str) -> str:
    # a member called `account.name` is not the `name` of an `account`
    return name.replace(".", "*")


def _shown_path(path: str) -> str:
    return ".".join(map(mask_name, path.split(".")))


def _list_changes(old: Any, new: Any) -> str:
    """Return how many entries of a list were added and removed."""
    if not isinstance(old, list) or not isinstance(new, list):
        return ""
    before, after = Counter(map(dump_json, old)), Counter(map(dump_json, new))
    numbers = {"added": (after - before).total(), "removed": (before - after).total()}
    words = [f"{number} {word}" for word, number in numbers.items() if number]
    return f" ({', '.join(words) or 'in another order'})"
