"""Split a range of days into windows, and price the result in API calls.

Pure: no request, no clock, no database. The API's announcements and refusals decide the sizes.
"""

from copy import copy
from datetime import date, timedelta
from math import ceil

from magnetis_dagster.ingest.windows import PADDING, Window
from magnetis_dagster.ingest.witnesses import rechecked_pages

PAGE_ROWS = 250
"""Rows of the API's largest page."""
CHUNK_ROWS = 250 * PAGE_ROWS
"""Rows that a window aims at.

Its days turn green together within minutes, and the four hours of padding cost little.
"""
SLACK = 1.5
"""Chunks that one window may contain: splitting fewer rows would cost another announcement."""
BELOW_CAP = 0.75
"""Share of a known cap that a window aims at: days differ, and a window at the cap is wasted."""
NIGHT = 0.25
"""Rows per hour around midnight, where the padding lies, relative to the day's mean."""
_PADDING_DAYS = 2 * PADDING.total_seconds() / 86_400 * NIGHT


class WindowSplitter:
    """Yield the windows of one range, oldest first.

    The caller reports the result of each window before it requests the next one.
    """

    def __init__(
        self,
        range_: Window,
        chunk_rows: int,
        most_days: int | None = None,
        most_rows: int | None = None,
    ) -> None:
        """Create a splitter for `range_`; None: no limit is known.

        `most_days`: days of the longest window that the API answers.
        `most_rows`: rows at which the API caps a search.
        """
        self.most_rows = most_rows
        self._first = range_.first
        self._last = range_.last
        self._chunk_rows = chunk_rows
        if most_rows is not None:
            self._chunk_rows = min(chunk_rows, round(most_rows * BELOW_CAP))
        self._most_days = most_days
        self._span = len(range_.days)
        self._remaining_rows: int | None = None
        """Announced rows of the unread days; None unless one announcement covered them all."""
        self._refused_days: int | None = None
        """Days of the last refused window; None after the next successful read."""
        self._refusal = ""
        """The API's reason for that refusal."""
        self._is_trial = False
        """Whether the next window is a single day, to tell a length limit from an outage."""

    def next_window(self) -> Window | None:
        """Return the next window to read; None at the end of the range."""
        if self._first > self._last:
            return None
        span = min(self._span, self._most_days or self._span)
        if self._is_trial or span < 1:
            span = 1
        return Window(self._first, min(self._last, self._first + timedelta(days=span - 1)))

    def resize(self, window: Window, announced: int) -> int:
        """Shorten a window that announced too many rows; return the days of the next one."""
        days = len(window.days)
        if window.last == self._last:
            self._remaining_rows = announced
        self._span = max(1, min(days - 1, round(days * self._target_rows() / announced)))
        return self._span

    def advance(self, window: Window, rows: int) -> tuple[int, str] | None:
        """Move past a window that was read, and size the next one by its rows.

        Returns the length limit that this read proves, and the API's reason; else None.
        """
        days = len(window.days)
        self._first = window.last + timedelta(days=1)
        if self._remaining_rows is not None:
            self._remaining_rows = max(0, self._remaining_rows - rows)
        if self._is_trial and self._refused_days:
            self._is_trial = False
            self._span = max(1, self._refused_days // 2)
            return None
        limit = None
        if self._refused_days:
            self._most_days, self._refused_days = days, None
            limit = days, self._refusal
        # after an empty window, the next announcement covers twice as many days
        self._span = max(1, round(days * self._target_rows() / rows)) if rows else days * 2
        return limit

    def peek(self, window: Window, announced: int) -> Window | None:
        """Return the window after `window` if it returns the announced rows.

        None at the end of the range, and while a refusal is being resolved.
        """
        if self._refused_days:
            return None
        ahead = copy(self)
        ahead.advance(window, announced)
        return ahead.next_window()

    def limit_rows(self, window: Window, most_rows: int) -> bool:
        """Halve a window that the API capped; keep later ones below the cap.

        Returns False for a single day, which cannot be halved.
        """
        self.most_rows = most_rows
        self._chunk_rows = min(self._chunk_rows, round(most_rows * BELOW_CAP))
        self._remaining_rows = None
        self._span = max(1, len(window.days) // 2)
        return len(window.days) > 1

    def halve(self, window: Window, reason: str, *, at_fault: bool) -> bool:
        """Halve a window that the API refused; return False for a single day.

        `at_fault`: the API rejected the request (4xx), so its length is to blame. Otherwise (5xx,
        time-outs) the first day is requested alone first: if that fails too, every length would.
        """
        days = len(window.days)
        if days == 1:
            return False
        self._is_trial = not at_fault and self._refused_days is None
        self._refused_days, self._refusal = days, reason
        self._span = max(1, days // 2)
        return True

    def _target_rows(self) -> float:
        """Return the rows of the next window: equal windows, and a last one of half.

        The last merge overlaps with no fetch, so its size adds to the latency. Windows of the
        largest size would leave a remainder of any size: nearly a window, or one day, which costs
        an announcement too.
        """
        parts = (self._remaining_rows or 0) / self._chunk_rows
        return self._chunk_rows * (parts / (ceil(parts + 0.5) - 0.5) if parts > 1 else 1)


def expected_calls(rows: int, *, chunk_rows: int = CHUNK_ROWS, days: int) -> int:
    """Return the API calls that `days` contiguous days with `rows` rows cost.

    The rows include the padding and are assumed to be spread evenly over the days.
    """
    if days < 1:
        return 0
    if days == 1 or rows <= int(chunk_rows * SLACK):
        pages = ceil(rows / PAGE_ROWS)
        # an empty range has one edge to verify
        return pages + len(rechecked_pages(pages)) if rows else min(days, 2)
    rows_per_day = rows / (days + _PADDING_DAYS)
    range_ = Window(date.min, date.min + timedelta(days=days - 1))
    splitter, spent = WindowSplitter(range_, chunk_rows), 0.0
    splitter.resize(range_, rows)
    while window := splitter.next_window():
        received = (len(window.days) + _PADDING_DAYS) * rows_per_day
        # the last page of a window is half full on average
        pages_of_window = received / PAGE_ROWS + 0.5
        spent += pages_of_window + len(rechecked_pages(round(pages_of_window)))
        splitter.advance(window, round(received))
    return 1 + ceil(spent)
