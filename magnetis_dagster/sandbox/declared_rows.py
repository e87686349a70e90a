"""Generate rows from declarations: for added collections, and for added or renamed members."""

import hashlib
import json
import random
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.model import Column, ColumnType, PersonalData
from magnetis_dagster.sandbox.callers import CALLERS, address_of, name_of, number_of
from magnetis_dagster.sandbox.days import id_tail
from magnetis_dagster.sandbox.group import Row, reference

SHARE_OF_CALLS = 0.3
"""Events per day of an added collection, relative to calls."""
ROWS_PER_ACCOUNT = 2
"""Rows per account of an added snapshot collection."""
_MISSING = object()


class Style:
    """The catalogue's member names of a collection that the sandbox generates."""

    def __init__(self, collection: Collection, shipped: Collection) -> None:
        self._collection = collection
        self._shipped = shipped
        self._same = collection == shipped
        self._renamed: dict[str, str] = {}

    def apply(self, row: Row) -> Row:
        """Rename members as declared, and append the members of added columns."""
        if self._same:
            return row
        row, declared, shipped = dict(row), self._collection, self._shipped
        first, *others = declared.id_paths[0]
        renamings = [(declared.time_fields[:1], declared.time_fields, shipped.time_fields)]
        shipped_ids = tuple(path for parts in shipped.id_paths for path in parts)
        renamings.append(((first,), (first,), shipped_ids))
        renamings += [
            (column.paths[:1], column.paths, shipped.columns[name].paths)
            for name, column in declared.columns.items()
            if name in shipped.columns
        ]
        for new, paths, native in renamings:
            if new and _lacks(row, paths):
                row = self._rename(row, new[0], native)
        for path in others:
            _put(row, path, 1)
        for name, column in declared.columns.items():
            if name not in shipped.columns and _lacks(row, column.paths):
                pick = random.Random(f"{name}:{json.dumps(row)}")  # noqa: S311 - invented data
                _put(row, column.paths[0], invent(name, column, pick))
        return row

    def undo(self, row: Row) -> Row:
        """Return the row with the sandbox's original names."""
        native = {new: old for old, new in self._renamed.items()}
        return {native.get(name, name): value for name, value in row.items()} if native else row

    def _rename(self, row: Row, path: str, native: tuple[str, ...]) -> Row:
        old = next((each for each in native if not _lacks(row, (each,))), None)
        first, *rest = path.split(".")
        # Only top-level members are renamed: values must stay in their order. So a nested member,
        # or one in an existing object, keeps its name.
        if old is None or "." in old or first in row:
            return row
        self._renamed[old] = first
        nested = row[old]
        for name in reversed(rest):
            nested = {name: nested}
        return {
            (first if name == old else name): (nested if name == old else value)
            for name, value in row.items()
        }


def snapshot_rows(collection: Collection, accounts: list[Row], seed: int) -> list[Row]:
    """Return the rows of a snapshot collection."""
    pick = random.Random(f"declared:{seed}:{collection.name}")  # noqa: S311 - invented data
    return [
        _row(collection, f"{collection.name[:3]}-{pick.getrandbits(64):016x}", account, None, pick)
        for account in accounts
        for _ in range(ROWS_PER_ACCOUNT)
    ]


def event_rows(
    collection: Collection, accounts: list[Row], seed: int, moments: list[datetime]
) -> list[Row]:
    """Return the events of a day at these local times."""
    rows = []
    for number, moment in enumerate(moments):
        source = f"{seed}:{collection.name}:{moments[0].date()}:{number}"
        pick = random.Random(f"declared:{source}")  # noqa: S311 - invented data
        head = hashlib.sha256(source.encode()).hexdigest()
        identifier = (
            f"{collection.name[:3]}-{head[:8]}-{head[8:12]}-4{head[12:15]}-a{head[15:18]}-"
            f"{id_tail(number, moments[0].date())}"
        )
        rows.append(_row(collection, identifier, pick.choice(accounts), moment, pick))
    return rows


def invent(name: str, column: Column, pick: random.Random) -> Any:
    """Return a value for the column; personal values contain a marker."""
    number = pick.randrange(1, 600)
    text = f"{name}-{number % 10}"
    if column.personal_data.degree is PersonalData.PERSONAL:
        is_phone = re.search("phone|number|mobile|msisdn", name)
        generate = number_of if is_phone else address_of if "mail" in name else name_of
        text = generate(pick.randrange(CALLERS))
    start = datetime(2025, 1, 6, 9)  # noqa: DTZ001 - without a zone, like the API's times
    moment = start + timedelta(seconds=pick.randrange(300 * 86_400))
    values: dict[ColumnType, Any] = {
        ColumnType.TEXT: text,
        ColumnType.INTEGER: number,
        ColumnType.DECIMAL: round(number / 3, 2),
        ColumnType.BOOLEAN: number % 2,
        ColumnType.TIMESTAMP: f"{moment:%Y-%m-%d %H:%M:%S}",
        ColumnType.JSON: [text],
    }
    return values[column.type]


def member(row: Any, path: str) -> Any:
    """Return the value at a dotted path, or None if it is missing."""
    return _get(row, path, None)


def _row(
    collection: Collection,
    identifier: str,
    account: Row,
    moment: datetime | None,
    pick: random.Random,
) -> Row:
    row: Row = {}
    first, *others = collection.id_paths[0]
    _put(row, first, identifier)
    row.setdefault("account", reference(account))
    for path in others:
        _put(row, path, 1)
    if moment is not None:
        _put(row, collection.time_fields[0], f"{moment:%Y-%m-%d %H:%M:%S}")
    for name, column in collection.columns.items():
        if _lacks(row, column.paths):
            _put(row, column.paths[0], invent(name, column, pick))
    return row


def _get(row: Any, path: str, default: object) -> Any:
    for name in path.split("."):
        if not isinstance(row, dict) or name not in row:
            return default
        row = row[name]
    return row


def _lacks(row: Row, paths: Iterable[str]) -> bool:
    return all(_get(row, path, _MISSING) is _MISSING for path in paths)


def _put(row: Row, path: str, value: Any) -> None:
    """Set the member at a dotted path, unless it exists."""
    *parents, last = path.split(".")
    place: Any = row
    for name in parents:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            return
    place.setdefault(last, value)
