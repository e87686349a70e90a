"""Decide which answers are suspicious, and which requests could prove them wrong.

Pure: no request, no clock, no database. `window_verifier.py` sends the requests;
docs/delivery-guarantees.md lists the price of each witness.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from magnetis_dagster.ingest.windows import Window

SUSPICIOUS_ROWS = 1_000
"""Search engines and gateways cap at round numbers from 1,000; smaller totals repeat by chance."""
EDGE_DAYS = 7
"""Days of an empty edge that are requested alone.

A week contains working days, and no API is known to shorten a week.
"""
NEAR = timedelta(days=2)
"""Rows within this distance of the window are padding, whatever the time zone."""
_TYPICAL_DAYS = {92, 93, 182, 183, 365, 366}
"""Lengths that APIs have as a limit, beside multiples of a week, of ten days and of a month."""
FEW_ROWS = 10
FAR_ROWS = 100
FAR_SHARE = 0.2


SHORTENED = "The API returned no row"
"""Start of the reason that is stored with the longest window."""


class ImplausibleResponse(Exception):
    """The answer to a window is proven incomplete; shorter windows may be complete."""


class SearchCapped(ImplausibleResponse):
    """The API returns and announces at most `rows` rows of a search."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        super().__init__(f"The API caps a search at {rows} rows, its total included.")


class WindowShortened(ImplausibleResponse):
    """A part without rows in a window has rows when it is requested alone."""

    def __init__(self, part: str) -> None:
        super().__init__(
            f"{SHORTENED} for {part} in a longer window, and returns some for this part alone."
        )


@dataclass(slots=True)
class Suspicions:
    """Knowledge about the API's limits from the windows of one range."""

    cap: int | None = None
    """Rows at which the API is known to cap a search."""
    totals: dict[int, Window | None] = field(default_factory=dict)
    """Announced total to its window; None if the window is of an earlier load."""
    trusted: set[int] = field(default_factory=set)
    """Totals that were verified not to be caps."""
    shortens: bool = False
    """Whether the API shortened a window of this range, or of a load in the last 30 days."""

    def doubts_ends(self, days: int) -> bool:
        """Return whether the API may have shortened a window of that many days by hours.

        The padding makes a window four hours longer than its days. If the API's limit is exactly
        those days, only the last hours are missing, or the first, and no day is empty.
        """
        is_typical = days in _TYPICAL_DAYS or 0 in {days % 7, days % 10, days % 30, days % 31}
        return self.shortens or is_typical

    def doubts(self, window: Window, total: int) -> bool:
        """Return whether a total looks like a cap, and remember the total.

        Suspicious are numbers that programs choose as a limit, and the total of another window.
        """
        is_repeated = self.totals.setdefault(total, window) != window
        is_suspicious = looks_chosen(total) or (is_repeated and total >= SUSPICIOUS_ROWS)
        return is_suspicious and total not in self.trusted


def looks_chosen(rows: int) -> bool:
    """Return whether a number is a typical limit: 10,000, 1,500, 9,999, 4,096."""
    return rows >= SUSPICIOUS_ROWS and 0 in {
        rows % (SUSPICIOUS_ROWS // 2),
        (rows + 1) % SUSPICIOUS_ROWS,
        rows & (rows - 1),
    }


def empty_edges(days: Sequence[date], by_day: Counter[date | None]) -> list[Window]:
    """Return the stretches without rows at the start and at the end of `days`.

    A cap and a shortened window both leave an edge empty. Each edge is returned as a whole, and its
    EDGE_DAYS next to the rows once more, in case the API does not answer long windows. A window
    without any row has its last days as an edge; a long one has both ends and its middle. A single
    day has no edge.
    """
    filled = [number for number, day in enumerate(days) if by_day[day]]
    if len(days) < 2 or len(filled) == len(days):
        return []
    if not filled:
        span = min(EDGE_DAYS, len(days) - 1)
        starts = (
            {len(days) - span}
            if len(days) <= 2 * EDGE_DAYS
            else {0, (len(days) - span) // 2, len(days) - span}
        )
        return [Window(days[start], days[start + span - 1]) for start in sorted(starts)]
    edges = []
    if leading := days[: filled[0]]:
        edges += [Window(leading[0], leading[-1]), Window(leading[-EDGE_DAYS:][0], leading[-1])]
    if trailing := days[filled[-1] + 1 :]:
        edges += [Window(trailing[0], trailing[-1]), Window(trailing[0], trailing[:EDGE_DAYS][-1])]
    return list(dict.fromkeys(edges))


def rechecked_pages(pages: int) -> list[int]:
    """Return the pages to request again after a list of `pages` pages.

    Rows that moved during the read have left one of these pages.
    """
    if pages < 4:
        return []
    return [1] if pages < 10 else [1, pages // 2]


class FilterWatch:
    """Counts rows far outside the window, which reveal ignored parameters."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._before = self._after = self._rows = 0
        self._furthest: tuple[date, date] | None = None

    def add(self, days: Sequence[date]) -> str | None:
        """Count one page's rows by their days; return evidence if too many are outside."""
        before = [day for day in days if day < self._window.first - NEAR]
        after = [day for day in days if day > self._window.last + NEAR]
        self._rows += len(days)
        self._before += len(before)
        self._after += len(after)
        if far := [*before, *after]:
            known = self._furthest or (far[0], far[0])
            self._furthest = min(known[0], *far), max(known[1], *far)
        outside = self._before + self._after
        # a few rows whose time differs from the filtered time prove nothing
        is_first_page = self._rows == len(days)
        is_proof = is_first_page and outside * 2 > self._rows and outside >= FEW_ROWS
        if not is_proof and (outside < FAR_ROWS or outside < FAR_SHARE * self._rows):
            return None
        assert self._furthest
        return (
            f"{outside} of {self._rows} rows received lie days outside the window "
            f"({self._furthest[0]} to {self._furthest[1]})"
        )

    @property
    def ignored(self) -> tuple[bool, bool]:
        """Whether the start and the end of the window seem to be ignored."""
        return self._before > 0, self._after > 0
