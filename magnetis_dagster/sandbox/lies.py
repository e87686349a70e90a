"""Faulty server behaviours ("lies") by name.

docs/delivery-guarantees.md describes their detection. A lie changes the bounds of a search, its
rows, or the response. `tests/lying_api.py` applies the lies to a test's rows.
"""

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")
Content = Any
"""A response before encoding: an object with `data`, `links` and `meta`, or a variant."""
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Search:
    """Bounds of a search in Unix time, both inclusive; None if unbounded."""

    start: int | None
    end: int | None


@dataclass(frozen=True)
class Lie:
    """One lie. Lies with a number have the default `usual`."""

    title: str
    """The server's behaviour."""
    usual: int | None = None
    unit: str = ""
    bounds: "Callable[[Search, int], Search] | None" = None
    found: "Callable[[Liar[Any], list[Any], int], list[Any]] | None" = None
    response: "Callable[[Liar[Any], Content, int], Content] | None" = None
    """Arguments: response, page number."""


@dataclass
class Liar(Generic[Row]):
    """Applies lies in their order, and stores their state."""

    lies: Mapping[str, int | None]
    """Number by name; None for the default."""
    oldest_first: Callable[[Sequence[Row]], list[Row]]
    identity: Callable[[Row], str]
    swap: Callable[[Row], Row]
    """Replace the row at its source by another one of the same time, and return that one."""
    seed: int = 0
    dice: random.Random = field(init=False)
    failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Seed the random numbers."""
        self.dice = random.Random(self.seed)  # noqa: S311 - a test

    def search(self, search: Search) -> Search:
        """Return the changed bounds of a search."""
        for lie, number in self._active_lies():
            if lie.bounds:
                search = lie.bounds(search, number)
        return search

    @property
    def changes_rows(self) -> bool:
        """Whether a lie changes the rows of a search, so that `found` needs all of them."""
        return any(lie.found for lie, _ in self._active_lies())

    def found(self, rows: list[Row]) -> list[Row]:
        """Return the changed rows of a search, in page order."""
        for lie, number in self._active_lies():
            if lie.found:
                rows = lie.found(self, rows, number)
        return rows

    def response(self, content: Content, page: int) -> Content:
        """Return the changed response."""
        for lie, _ in self._active_lies():
            if lie.response:
                content = lie.response(self, content, page)
        return content

    def _active_lies(self) -> list[tuple[Lie, int]]:
        return [
            (LIES[name], (number if number is not None else LIES[name].usual) or 0)
            for name, number in self.lies.items()
        ]


def parse(texts: Sequence[str]) -> dict[str, int | None]:
    """Parse `NAME` or `NAME=NUMBER` texts.

    Raises: ValueError if a name is unknown or does not accept the number.
    """
    found: dict[str, int | None] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in LIES:
            raise ValueError(f"unknown lie {name!r}; expected one of {', '.join(LIES)}")
        if number and LIES[name].usual is None:
            raise ValueError(f"{name} takes no number")
        if number and (not number.isdecimal() or int(number) < 1):
            raise ValueError(f"{name} expects a number of {LIES[name].unit}, 1 or more")
        found[name] = int(number) if number else None
    return found


def _shorten_end(search: Search, days: int) -> Search:
    if search.start is None:
        return search
    latest = search.start + days * _DAY
    return replace(search, end=latest if search.end is None else min(search.end, latest))


def _shorten_start(search: Search, days: int) -> Search:
    if search.end is None:
        return search
    earliest = search.end - days * _DAY
    return replace(search, start=earliest if search.start is None else max(search.start, earliest))


def _swap(liar: Liar[Any], rows: list[Any], _number: int) -> list[Any]:
    if rows and liar.dice.random() < 0.1:
        gone = rows.pop(liar.dice.randrange(len(rows)))
        rows.append(liar.swap(gone))
    return rows


def _change_meta(
    **changes: Callable[[Content, int], Any],
) -> Callable[[Liar[Any], Content, int], Content]:
    def change_response(_liar: Liar[Any], content: Content, page: int) -> Content:
        if not isinstance(content, dict) or "meta" not in content:
            return content
        meta = content["meta"] | {name: change(content, page) for name, change in changes.items()}
        return content | {"meta": meta}

    return change_response


def _change_total(change: int) -> Callable[[Content, int], Any]:
    return lambda content, _page: (
        None if content["meta"]["total"] is None else max(0, content["meta"]["total"] + change)
    )


def _only_next(_liar: Liar[Any], content: Content, _page: int) -> Content:
    if isinstance(content, dict) and "links" in content:
        return {"data": content["data"], "links": content["links"]}
    return content


def _rows(content: Content) -> list[Any]:
    return list(content["data"] if isinstance(content, dict) else content)


def _with_rows(content: Content, rows: list[Any]) -> Content:
    return content | {"data": rows} if isinstance(content, dict) else rows


def _repeat_row(_liar: Liar[Any], content: Content, page: int) -> Content:
    rows = _rows(content)
    return (
        _with_rows(content, [*rows[:-1], rows[0]]) if len(rows) > 1 and page % 2 == 0 else content
    )


def _error_inside(liar: Liar[Any], content: Content, page: int) -> Content:
    if page == 2 and not liar.failed:
        liar.failed = True
        return {"success": False, "message": "Database unavailable", "data": []}
    return content


LIES: dict[str, Lie] = {
    "cap": Lie(
        "caps a search, oldest first",
        1000,
        "rows",
        found=lambda liar, rows, most: liar.oldest_first(rows)[:most],
    ),
    "cap_newest": Lie(
        "caps a search, newest first",
        1000,
        "rows",
        found=lambda liar, rows, most: liar.oldest_first(rows)[::-1][:most],
    ),
    "cap_any": Lie(
        "caps a search, in any order",
        1000,
        "rows",
        found=lambda liar, rows, most: sorted(
            rows, key=lambda row: zlib.crc32(liar.identity(row).encode()) % 1009
        )[:most],
    ),
    "shorten_end": Lie("shortens windows at the end", 3, "days", bounds=_shorten_end),
    "shorten_start": Lie("shortens windows at the start", 3, "days", bounds=_shorten_start),
    "ignore_to": Lie("ignores to", bounds=lambda search, _: replace(search, end=None)),
    "ignore_from": Lie("ignores from", bounds=lambda search, _: replace(search, start=None)),
    "ignore_window": Lie("ignores from and to", bounds=lambda _search, _number: Search(None, None)),
    "swap": Lie("swaps rows during a read", found=_swap),
    "page_total": Lie(
        "announces the page's rows as the total",
        response=_change_meta(
            total=lambda content, _: len(content["data"]), last_page=lambda *_: None
        ),
    ),
    "one_page": Lie(
        "announces one page", response=_change_meta(total=lambda *_: None, last_page=lambda *_: 1)
    ),
    "too_few": Lie("announces too few rows", response=_change_meta(total=_change_total(-1))),
    "too_many": Lie("announces too many rows", response=_change_meta(total=_change_total(1))),
    "total_once": Lie(
        "announces the total on page 1 only",
        response=_change_meta(
            total=lambda content, page: content["meta"]["total"] if page == 1 else None
        ),
    ),
    "next_only": Lie("announces nothing but next", response=_only_next),
    "bare": Lie("returns bare arrays", response=lambda _liar, content, _page: _rows(content)),
    "repeat": Lie("repeats a row on one page", response=_repeat_row),
    "empty_page": Lie(
        "serves page 2 empty",
        response=lambda _liar, content, page: _with_rows(content, []) if page == 2 else content,
    ),
    "error_200": Lie("reports an error inside a 200 once", response=_error_inside),
}
"""Lie by its name on the command line."""
