"""Find the values at declared paths in the rows of one page, in any spelling.

Works by page, not by row: most declared members are absent, and each distinct name is folded once.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from magnetis_dagster.catalog.model import Collection, ColumnType
from magnetis_dagster.catalog.names import Names, fold, heads, split

Converter = Callable[[Iterable[Any]], list[Any]]
"""Converts received values. Returns None for None and for values that do not fit."""

MISPLACED: list[Any] = []
"""Marks a value in the wrong place, such as text instead of an object. It fits no column."""
_NUMBERED = re.compile("number|phone")
_NO_ID = re.compile(r"[\s@]|://")
_PHONE = re.compile(r"(?:\+|0)[0-9]{3,15}|[0-9]{8,15}")
_SEPARATORS = str.maketrans("", "", ".-/()")


class Shapes:
    """Declared objects and scalars, for reading objects that became scalars."""

    def __init__(self, collection: Collection) -> None:
        columns = collection.columns.values()
        declared = [*collection.key_paths, *collection.time_fields]
        declared += [path for column in columns for path in column.paths]
        paths = set(map(split, declared))
        self.names = frozenset(declared)
        self.objects = frozenset(
            _prefix(names, length) for names in paths for length in range(1, len(names))
        )
        self.scalars = frozenset(map(_prefix, paths))
        self.known = self.objects | self.scalars
        self.identified = frozenset(_prefix(names, -1) for names in paths if _ends_in_id(names))
        """Objects with a declared id: a scalar in place of such an object is the id."""
        self._numbered = frozenset(_prefix(names, -1) for names in paths if is_numbered(names))
        self._labels = {
            prefix
            for column in columns
            if column.type is not ColumnType.JSON
            for prefix in self.rivals([split(path) for path in column.paths])
        }

    def rivals(self, paths: Sequence[Names]) -> set[str]:
        """Return objects with an id that these paths of a column read as a scalar."""
        own = {_prefix(names, -1) for names in paths if _ends_in_id(names)}
        return {
            prefix
            for names in paths
            if (prefix := _prefix(names)) in self.identified and prefix not in own
        }

    def is_id(self, prefix: str, value: object) -> bool:
        """Return whether a scalar in place of the object `prefix` may be its id.

        A phone number, a name or an address is not an id.
        """
        is_scalar = isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
        if prefix not in self.identified or not is_scalar:
            return False
        text = str(value).strip()
        label = prefix in self._labels
        if _NO_ID.search(text) or (label and not any(map(str.isdecimal, text))):
            return False
        if not label and prefix not in self._numbered:
            return True
        return not _PHONE.fullmatch(text.removesuffix(".0").translate(_SEPARATORS))


class Candidates:
    """The paths of one column, in order."""

    def __init__(self, shapes: Shapes, paths: Iterable[str], *, as_json: bool = False) -> None:
        self.paths = [split(path) for path in paths]
        self.as_json = as_json
        self.rivals = set() if as_json else shapes.rivals(self.paths)
        self.objects = set() if as_json else {*map(_prefix, self.paths)} & shapes.objects


class Page:
    """Rows and the values at their paths, which several columns share."""

    def __init__(self, rows: Sequence[Any], shapes: Shapes) -> None:
        self.size = len(rows)
        self._shapes = shapes
        self._root = _Level(list(rows))
        self._found: dict[Names, list[list[Any]]] = {}

    def at(self, names: Names) -> list[list[Any]]:
        """Return the values at a path: per spelling, a list with one value per row."""
        if names not in self._found:
            self._found[names] = []
            self._collect(self._root, names, names, self._found[names])
        return self._found[names]

    def column(self, candidates: Candidates, convert: Converter) -> tuple[list[Any], list[int]]:
        """Return each row's first value that fits, and the rows with misfits only."""
        rows = self.size
        values: list[Any] = [None] * rows
        misfits: list[int] = []
        seen: set[int] = set()
        for names in candidates.paths:
            for received in self.at(names):
                # `utm.source` returns the same list as `utm_source`
                if id(received) in seen or received.count(None) == rows:
                    continue
                seen.add(id(received))
                if values.count(None) < rows:
                    received = [  # noqa: PLW2901
                        raw if value is None else None
                        for raw, value in zip(received, values, strict=True)
                    ]
                if candidates.as_json:
                    received = [None if raw is MISPLACED else raw for raw in received]  # noqa: PLW2901
                elif candidates.objects and (prefix := _prefix(names)) in candidates.objects:
                    received = self._scalars(received, prefix, prefix in candidates.rivals)  # noqa: PLW2901
                found = convert(received)
                if found.count(None) != received.count(None):
                    misfits += (
                        number
                        for number, value in enumerate(found)
                        if value is None and received[number] is not None
                    )
                if values.count(None) == rows:
                    values = found
                else:
                    pairs = zip(values, found, strict=True)
                    values = [new if old is None else old for old, new in pairs]
                if None not in values:
                    return values, []
        return values, [number for number in dict.fromkeys(misfits) if values[number] is None]

    def first_present(
        self, paths: Iterable[Names], convert: Converter, is_absent: Callable[[Any], bool]
    ) -> tuple[list[Any], list[str | None]]:
        """Return each row's value at the first path that is present, and the paths of misfits."""
        values: list[Any] = [None] * self.size
        unreadable: list[str | None] = [None] * self.size
        open_rows: Sequence[int] = range(self.size)
        for names in paths:
            for received in self.at(names):
                if len(open_rows) == self.size and None not in (found := convert(received)):
                    return found, unreadable
                present = [number for number in open_rows if not is_absent(received[number])]
                converted = convert([received[number] for number in present])
                for number, value in zip(present, converted, strict=True):
                    values[number] = value
                    unreadable[number] = ".".join(names) if value is None else None
                open_rows = sorted({*open_rows}.difference(present))
                if not open_rows:
                    return values, unreadable
        return values, unreadable

    def _collect(self, level: "_Level", names: Names, rest: Names, found: list[list[Any]]) -> None:
        for head in heads(rest):
            spellings = level.index.get(head.folded, [])
            for name in sorted(spellings, key=partial(self._rank, head.name)):
                if head.rest:
                    self._collect(level.below(name), names, head.rest, found)
                else:
                    found.append(level.values(name))
        if level.strays:
            prefix = _prefix(names, len(names) - len(rest))
            found.append(self._stray_values(level.strays, prefix, fold(".".join(rest)) == "id"))

    def _rank(self, exact: str, name: str) -> tuple[bool, bool, str]:
        return name != exact, name not in self._shapes.names, name

    def _stray_values(self, strays: dict[int, Any], prefix: str, want_id: bool) -> list[Any]:
        """Return the values at a path below `prefix` for rows without an object there."""
        values: list[Any] = [None] * self.size
        for number, value in strays.items():
            if self._shapes.is_id(prefix, value):
                values[number] = value if want_id else None
            elif prefix not in self._shapes.scalars:
                values[number] = MISPLACED
        return values

    def _scalars(self, received: list[Any], prefix: str, without_ids: bool) -> list[Any]:
        values = [raw[0] if isinstance(raw, list) and len(raw) == 1 else raw for raw in received]
        if not without_ids:
            return values
        return [None if self._shapes.is_id(prefix, raw) else raw for raw in values]


class _Level:
    """The objects at one path of the rows, and values that are not objects."""

    def __init__(self, values: list[Any]) -> None:
        self._values: dict[str, list[Any]] = {}
        self._below: dict[str, _Level] = {}
        self.strays: dict[int, Any] = {}
        """Values by row number that are not objects, except blank texts and empty lists.

        PHP writes an empty object as a list.
        """
        objects = [value for value in values if type(value) is dict]
        self._complete = len(objects) == len(values)
        if not self._complete:
            values = [
                value if type(value) is dict or value is None else self._unwrap(number, value)
                for number, value in enumerate(values)
            ]
            objects = [value for value in values if value is not None]
        self._objects = values
        self.index: dict[str, list[str]] = {}
        for name in set[str]().union(*objects):
            self.index.setdefault(fold(name), []).append(name)

    def _unwrap(self, number: int, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            return value
        if value is not None and value != [] and not (isinstance(value, str) and not value.strip()):
            self.strays[number] = value
        return None

    def values(self, name: str) -> list[Any]:
        if name not in self._values:
            rows = self._objects
            self._values[name] = (
                [row.get(name) for row in rows]
                if self._complete
                else [row.get(name) if row else None for row in rows]
            )
        return self._values[name]

    def below(self, name: str) -> "_Level":
        if name not in self._below:
            self._below[name] = _Level(self.values(name))
        return self._below[name]


def is_numbered(names: Names) -> bool:
    """Return whether a path names a phone number."""
    return _NUMBERED.search(fold(names[-1])) is not None


def _prefix(names: Names, length: int | None = None) -> str:
    return fold(".".join(names[:length]))


def _ends_in_id(names: Names) -> bool:
    return len(names) > 1 and fold(names[-1]) == "id"
