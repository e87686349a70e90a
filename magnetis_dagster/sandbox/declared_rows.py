"""Generate rows from declarations: for added collections, and for added or renamed members."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Container
from datetime import date, datetime, timedelta
from typing import Any

from magnetis_dagster.catalog import Catalogue, Collection, load_catalogue
from magnetis_dagster.catalog.model import Column, ColumnType, PersonalData
from magnetis_dagster.sandbox.callers import CALLERS, address_of, name_of, number_of
from magnetis_dagster.sandbox.group import Row

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
        row = dict(row)
        times = (self._collection.time_fields, self._shipped.time_fields)
        candidates = [times] if self._collection.time_fields else []
        id_paths = (
            self._collection.id_paths[0][:1],
            tuple(path for parts in self._shipped.id_paths for path in parts),
        )
        candidates += [id_paths, *self._columns()]
        for paths, native in candidates:
            if all(_get(row, path) is _MISSING for path in paths):
                row = self._rename(row, paths[0], native)
        for path in self._collection.id_paths[0][1:]:
            if _get(row, path) is _MISSING:
                _put(row, path, 1)
        for name, column in self._collection.columns.items():
            missing = all(_get(row, path) is _MISSING for path in column.paths)
            if missing and name not in self._shipped.columns:
                pick = random.Random(f"{name}:{json.dumps(row)}")  # noqa: S311 - invented data
                _put(row, column.paths[0], invent(name, column, pick))
        return row

    def undo(self, row: Row) -> Row:
        """Return the row with the sandbox's original names."""
        native = {new: old for old, new in self._renamed.items()}
        return {native.get(name, name): value for name, value in row.items()} if native else row

    def _columns(self) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        shipped = self._shipped.columns
        return [
            (column.paths, shipped[name].paths)
            for name, column in self._collection.columns.items()
            if name in shipped
        ]

    def _rename(self, row: Row, path: str, native: tuple[str, ...]) -> Row:
        old = next((each for each in native if _get(row, each) is not _MISSING), None)
        first, _, rest = path.partition(".")
        # Only top-level members are renamed: values must stay in their order. So a nested member,
        # or one in an existing object, keeps its name.
        if old is None or "." in old or first in row:
            return row
        self._renamed[old] = first
        return {
            (first if name == old else name): (_nest(rest, value) if name == old else value)
            for name, value in row.items()
        }


def styles(catalogue: Catalogue, generated: Container[str]) -> dict[str, Style]:
    """Return the style of each default collection for which the sandbox has a generator."""
    shipped = load_catalogue().collections
    return {
        name: Style(catalogue.collections[name], shipped[name])
        for name in shipped
        if name in catalogue.collections and name in generated
    }


def added_collections(catalogue: Catalogue, generated: Container[str]) -> dict[str, Collection]:
    """Return the collections for which the sandbox has no generator of its own."""
    return {
        name: collection
        for name, collection in catalogue.collections.items()
        if name not in generated
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
    collection: Collection,
    accounts: list[Row],
    seed: int,
    moments: list[datetime],
    tail: Callable[[int], str],
) -> list[Row]:
    """Return the events of a day at these local times.

    `tail` returns the end of an id by row number, from which the day can be determined.
    """
    day = moments[0].date() if moments else date.min
    rows = []
    for number, moment in enumerate(moments):
        pick = random.Random(f"declared:{seed}:{collection.name}:{day}:{number}")  # noqa: S311 - invented data
        source = f"{seed}:{collection.name}:{day}:{number}"
        head = hashlib.sha256(source.encode()).hexdigest()
        identifier = (
            f"{collection.name[:3]}-{head[:8]}-{head[8:12]}-4{head[12:15]}-a{head[15:18]}-"
            f"{tail(number)}"
        )
        rows.append(_row(collection, identifier, pick.choice(accounts), moment, pick))
    return rows


def invent(name: str, column: Column, pick: random.Random) -> Any:
    """Return a value for the column; personal values contain a marker."""
    number = pick.randrange(1, 600)
    text = f"{name}-{number % 10}"
    if column.personal_data is PersonalData.PERSONAL:
        text = _personal_generator(name)(pick.randrange(CALLERS))
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


def member(row: Row, path: str) -> Any:
    """Return the value at a dotted path, or None if it is missing."""
    value = _get(row, path)
    return None if value is _MISSING else value


def _personal_generator(name: str) -> Callable[[int], str]:
    if re.search("phone|number|mobile|msisdn", name):
        return number_of
    return address_of if "mail" in name else name_of


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
    row.setdefault("account", {"id": account["id"], "name": account["name"]})
    for path in others:
        _put(row, path, 1)
    if moment is not None:
        _put(row, collection.time_fields[0], f"{moment:%Y-%m-%d %H:%M:%S}")
    for name, column in collection.columns.items():
        if all(_get(row, path) is _MISSING for path in column.paths):
            _put(row, column.paths[0], invent(name, column, pick))
    return row


def _get(row: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(row, dict) or name not in row:
            return _MISSING
        row = row[name]
    return row


def _put(row: Row, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place: Any = row
    for name in parents:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            return
    place.setdefault(last, value)


def _nest(path: str, value: Any) -> Any:
    for name in reversed(path.split(".") if path else []):
        value = {name: value}
    return value
