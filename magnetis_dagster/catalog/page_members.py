"""What is at the declared paths of the rows of one page, under the names and in the shapes in which the API sent it.

Page by page and not row by row: most members that a declaration looks for are in no row, and the names of a page tell that of all
its rows at once. Names are folded once per distinct name.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from magnetis_dagster.catalog.model import Collection, ColumnType
from magnetis_dagster.catalog.names import Names, fold, heads, split

Converter = Callable[[Iterable[Any]], list[Any]]
"""Makes values of received ones, None of None and of what does not fit."""

MISPLACED: list[Any] = []
"""Stands for a value that has no place in the declaration, such as a text where an object is declared. Fits no column."""
_NUMBERED = re.compile("number|phone")
_NO_ID = re.compile(r"[\s@]|://")
_PHONE = re.compile(r"(?:\+|0)[0-9]{3,15}|[0-9]{8,15}")
_SEPARATORS = str.maketrans("", "", ".-/()")


class Shapes:
    """Which members a collection declares as objects and as scalars, to read an object that becomes a scalar."""

    def __init__(self, collection: Collection) -> None:
        columns = collection.columns.values()
        others = [*collection.key_paths, *collection.time_fields]
        paths = {
            split(path)
            for path in [*others, *(path for column in columns for path in column.paths)]
        }
        self.names = frozenset(".".join(names) for names in paths)
        self.known = frozenset(
            _prefix(names, length) for names in paths for length in range(1, len(names) + 1)
        )
        """Every declared member, at any level, folded."""
        self.objects = frozenset(
            _prefix(names, length) for names in paths for length in range(1, len(names))
        )
        self.scalars = frozenset(_prefix(names) for names in paths)
        self.identified = frozenset(_prefix(names, -1) for names in paths if _ends_in_id(names))
        """Objects whose id is declared: a scalar in the place of one is that id."""
        self._numbered = frozenset(_prefix(names, -1) for names in paths if is_numbered(names))
        self._labels = {
            prefix
            for column in columns
            if column.type is not ColumnType.JSON
            for prefix in self.rivals([split(path) for path in column.paths])
        }

    def rivals(self, paths: Sequence[Names]) -> set[str]:
        """Return the objects with an id of which a column with these paths reads something else, if it is a scalar."""
        own = {_prefix(names, -1) for names in paths if _ends_in_id(names)}
        return {
            prefix
            for names in paths
            if (prefix := _prefix(names)) in self.identified and prefix not in own
        }

    def is_id(self, prefix: str, value: object) -> bool:
        """Return whether a scalar in the place of the object `prefix` is its id, and not its number, name or address, by form."""
        if (
            prefix not in self.identified
            or isinstance(value, bool)
            or not isinstance(value, str | int | float | Decimal)
        ):
            return False
        text = str(value).strip()
        label = prefix in self._labels
        if _NO_ID.search(text) or (label and not any(map(str.isdecimal, text))):
            return False
        return not (
            (label or prefix in self._numbered)
            and _PHONE.fullmatch(text.removesuffix(".0").translate(_SEPARATORS))
        )


class Candidates:
    """The paths of one column, tried in order."""

    def __init__(self, shapes: Shapes, paths: Iterable[str], *, as_json: bool = False) -> None:
        self.paths = [split(path) for path in paths]
        self.as_json = as_json
        self.rivals = set() if as_json else shapes.rivals(self.paths)
        self.objects = (
            set()
            if as_json
            else {prefix for names in self.paths if (prefix := _prefix(names)) in shapes.objects}
        )


class Page:
    """Rows, and what is at paths in them; several columns look at the same places."""

    def __init__(self, rows: Sequence[Any], shapes: Shapes) -> None:
        self.size = len(rows)
        self._shapes = shapes
        self._root = _Level(list(rows))
        self._found: dict[Names, list[list[Any]]] = {}

    def at(self, names: Names) -> list[list[Any]]:
        """Return what is at a path: one list for each spelling that the page has, each with one value per row."""
        found = self._found.get(names)
        if found is None:
            found = self._found[names] = []
            self._collect(self._root, names, names, found)
        return found

    def column(self, candidates: Candidates, convert: Converter) -> tuple[list[Any], list[int]]:
        """Return the value of each row, from the first path that has one that fits, and the rows that have only misfits."""
        rows = self.size
        values: list[Any] = [None] * rows
        misfits: list[int] = []
        seen: set[int] = set()
        for names in candidates.paths:
            for received in self.at(names):
                # `utm.source` finds what `utm_source` found
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
                values = (
                    found
                    if values.count(None) == rows
                    else [
                        new if old is None else old for old, new in zip(values, found, strict=True)
                    ]
                )
                if None not in values:
                    return values, []
        return values, [number for number in dict.fromkeys(misfits) if values[number] is None]

    def first_present(
        self, paths: Iterable[Names], convert: Converter, absent: Callable[[Any], bool]
    ) -> tuple[list[Any], list[str | None]]:
        """Return the value of each row from the first path that is present, and that path if its value does not fit."""
        values: list[Any] = [None] * self.size
        unreadable: list[str | None] = [None] * self.size
        open_rows: Sequence[int] = range(self.size)
        for names in paths:
            for received in self.at(names):
                if len(open_rows) == self.size and None not in (found := convert(received)):
                    return found, unreadable
                present = [number for number in open_rows if not absent(received[number])]
                for number, value in zip(
                    present, convert([received[number] for number in present]), strict=True
                ):
                    values[number] = value
                    unreadable[number] = ".".join(names) if value is None else None
                met = set(present)
                open_rows = [number for number in open_rows if number not in met]
                if not open_rows:
                    return values, unreadable
        return values, unreadable

    def _collect(self, level: "_Level", names: Names, rest: Names, found: list[list[Any]]) -> None:
        for head in heads(rest):
            members = level.index.get(head.folded, ())
            for name in (
                members
                if len(members) < 2
                else sorted(members, key=lambda name: self._rank(name, head.name))
            ):
                if head.rest:
                    self._collect(level.below(name), names, head.rest, found)
                else:
                    found.append(level.values(name))
        if level.strays:
            found.append(
                self._placed(
                    level.strays,
                    _prefix(names, len(names) - len(rest)),
                    fold(".".join(rest)) == "id",
                )
            )

    def _rank(self, name: str, exact: str) -> tuple[bool, bool, str]:
        return name != exact, name not in self._shapes.names, name

    def _placed(self, strays: dict[int, Any], prefix: str, asks_id: bool) -> list[Any]:
        """Return what a path below `prefix` makes of the rows that have no object there."""
        placed: list[Any] = [None] * self.size
        for number, value in strays.items():
            if self._shapes.is_id(prefix, value):
                placed[number] = value if asks_id else None
            elif prefix not in self._shapes.scalars:
                placed[number] = MISPLACED
        return placed

    def _scalars(self, received: list[Any], prefix: str, no_ids: bool) -> list[Any]:
        """Return what a column that reads an object whole, as a scalar, makes of it."""
        opened = [raw[0] if isinstance(raw, list) and len(raw) == 1 else raw for raw in received]
        return (
            [None if self._shapes.is_id(prefix, raw) else raw for raw in opened]
            if no_ids
            else opened
        )


class _Level:
    """The objects at one place of the rows: their members, and what is there instead of an object."""

    def __init__(self, values: list[Any]) -> None:
        self._values: dict[str, list[Any]] = {}
        self._below: dict[str, _Level] = {}
        self.strays: dict[int, Any] = {}
        """By number of the row; blank texts and empty lists are no values (PHP writes an empty object as a list)."""
        objects = [value for value in values if type(value) is dict]
        self._complete = len(objects) == len(values)
        if not self._complete:
            values = [
                value if type(value) is dict or value is None else self._opened(number, value)
                for number, value in enumerate(values)
            ]
            objects = [value for value in values if value is not None]
        self._objects = values
        self.index: dict[str, list[str]] = {}
        for name in set[str]().union(*objects):
            self.index.setdefault(fold(name), []).append(name)

    def _opened(self, number: int, value: Any) -> Any:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            return value
        if value is not None and value != [] and not (isinstance(value, str) and not value.strip()):
            self.strays[number] = value
        return None

    def values(self, name: str) -> list[Any]:
        found = self._values.get(name)
        if found is None:
            rows = self._objects
            found = (
                [row.get(name) for row in rows]
                if self._complete
                else [row.get(name) if row else None for row in rows]
            )
            self._values[name] = found
        return found

    def below(self, name: str) -> "_Level":
        level = self._below.get(name)
        if level is None:
            level = self._below[name] = _Level(self.values(name))
        return level


def is_numbered(names: Names) -> bool:
    """Return whether a path names a phone number."""
    return _NUMBERED.search(fold(names[-1])) is not None


def _prefix(names: Names, length: int | None = None) -> str:
    return fold(".".join(names[:length]))


def _ends_in_id(names: Names) -> bool:
    return len(names) > 1 and fold(names[-1]) == "id"
