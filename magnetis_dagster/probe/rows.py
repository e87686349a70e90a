"""The received rows of one collection, by member. Values stay here."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from magnetis_dagster.catalog import Collection, ColumnType
from magnetis_dagster.catalog.conversions import as_moment, as_text
from magnetis_dagster.catalog.names import fold
from magnetis_dagster.catalog.row_parser import ParsedRows, RowParser, mask_name
from magnetis_dagster.catalog.volatile import stable
from magnetis_dagster.ingest.windows import Zones
from magnetis_dagster.json_leaves import leaves

WIDEST_ZONE = timedelta(hours=14)
"""Largest offset from UTC: a misread time zone moves a row no further."""

Name = tuple[str, ...]
"""Member names from the row down; not dotted text, because a name may contain a dot."""
Interval = tuple[datetime, datetime]

_SEPARATORS = str.maketrans("", "", " .-/()\u00a0\u202f")
_PHONE = re.compile(r"\+[1-9][0-9]{7,14}|00[1-9][0-9]{7,13}|0[1-9][0-9]{8}|33[1-9][0-9]{8}")
_KEYED_BY_VALUES = 4
"""Different members of an object from which on its member names may be values."""
_DEEPEST = 20
"""Levels of nested objects that are inspected."""


def is_phone(value: object) -> bool:
    """Return whether a value looks like a phone number: E.164, prefix 00, or French."""
    text = as_text(value) if not isinstance(value, bool) else None
    return (
        text is not None
        and _PHONE.fullmatch(text.removesuffix(".0").translate(_SEPARATORS)) is not None
    )


def mostly_phones(values: Sequence[Any]) -> bool:
    """Return whether most non-empty values look like phone numbers."""
    present = [value for value in values if value not in (None, "")]
    return sum(map(is_phone, present)) * 2 > len(present)


@dataclass(frozen=True)
class Sample:
    """Distinct rows of one collection, and their requested window, if any."""

    collection: Collection
    rows: Sequence[Mapping[str, Any]]
    zones: Zones
    window: Interval | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @cached_property
    def parsed(self) -> ParsedRows:
        """The rows, parsed by the declaration."""
        parser = RowParser(
            self.collection, response_zone=self.zones.response, partition_zone=self.zones.partition
        )
        return parser.read_all(self.rows)

    @property
    def keys(self) -> list[object]:
        """The key of each row: its id, or else the row without its volatile members."""
        return [
            key or stable(self.collection, row)
            for key, row in zip(self.parsed.ids, self.rows, strict=True)
        ]

    @cached_property
    def members(self) -> dict[Name, list[Any]]:
        """Members other than objects, with one value per row; None if absent."""
        members: dict[Name, list[Any]] = {}
        for number, row in enumerate(self.rows):
            for name, value in leaves(row, _DEEPEST):
                members.setdefault(name, [None] * len(self.rows))[number] = value
        return members

    @cached_property
    def nameable(self) -> dict[Name, list[Any]]:
        """The members whose names are safe to show, because they are not values."""
        return {
            name: values for name, values in self.members.items() if "*" not in self.shown(name)
        }

    @cached_property
    def _keyed_by_values(self) -> set[Name]:
        """Objects whose member names may be values, such as a count by employee."""
        names: defaultdict[Name, Counter[str]] = defaultdict(Counter)
        objects: Counter[Name] = Counter()
        for row in self.rows:
            for above, members in _objects(row):
                objects[above] += 1
                names[above].update(members.keys())
        return {
            above
            for above, found in names.items()
            if above
            and len(found) >= _KEYED_BY_VALUES
            and len(found) * objects[above] > 2 * found.total()
        }

    def shown(self, name: Name) -> str:
        """Return a dotted name safe to show; `*` replaces a part that may be a value."""
        return ".".join(
            "*" if name[:depth] in self._keyed_by_values else mask_name(part)
            for depth, part in enumerate(name)
        )

    def moments(self, values: Sequence[Any]) -> list[datetime | None]:
        """Return the moments among values, in UTC; a phone number is not one."""
        return [
            None if is_phone(value) else as_moment(value, self.zones.response) for value in values
        ]

    def column_paths(self) -> dict[str, str]:
        """Return the path that fills each column; a member that is null counts."""
        present = {fold(path) for name in self.members for path in _with_parents(name)}
        return {
            name: path
            for name, column in self.collection.columns.items()
            if (path := next((path for path in column.paths if fold(path) in present), None))
        }

    def is_declared(self, name: Name) -> bool:
        """Return whether a column reads the member, or an object that contains it."""
        return fold(".".join(name)) in self._declared or not self._wholes.isdisjoint(
            map(fold, _with_parents(name))
        )

    @cached_property
    def _declared(self) -> set[str]:
        collection = self.collection
        paths = {*collection.key_paths, *collection.time_fields}
        paths |= {path for column in collection.columns.values() for path in column.paths}
        return set(map(fold, paths))

    @cached_property
    def _wholes(self) -> set[str]:
        columns = self.collection.columns.values()
        wholes = (column.paths for column in columns if column.type is ColumnType.JSON)
        return {fold(path) for paths in wholes for path in paths}


def _objects(
    value: Mapping[str, Any], above: Name = ()
) -> Iterator[tuple[Name, Mapping[str, Any]]]:
    yield above, value
    for name, member in value.items():
        if isinstance(member, dict) and member and len(above) < _DEEPEST:
            yield from _objects(member, (*above, name))


def _with_parents(name: Name) -> Iterator[str]:
    return (".".join(name[:length]) for length in range(1, len(name) + 1))
