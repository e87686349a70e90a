"""Cutting a range of days into windows: by what the API announces, and by what it refuses. Pure: no call, no clock, no database."""

from copy import copy
from datetime import timedelta
from math import ceil

from magnetis_dagster.ingest.windows import Window

BELOW_CAP = 0.75
"""Windows aim at this share of a known cap: days differ, and a window at the cap is read for nothing."""


class Cut:
    """The windows of one range, oldest first; the caller tells what became of each before it asks for the next."""

    def __init__(
        self,
        range_: Window,
        chunk_rows: int,
        longest: int | None = None,
        most_rows: int | None = None,
    ) -> None:
        """`longest`: days of the longest window that the API is known to answer, if it has refused longer ones.

        `most_rows`: rows at which the API is known to cap a search.
        """
        self.most_rows = most_rows
        self._first = range_.first
        self._last = range_.last
        self._chunk_rows = (
            chunk_rows if most_rows is None else min(chunk_rows, round(most_rows * BELOW_CAP))
        )
        self._longest = longest
        self._span = len(range_.days)
        self._left: int | None = None
        """Rows of the days not read yet, as far as they were announced together."""
        self._refused: int | None = None
        """Days of the window that was refused last; None once a window was read since."""
        self._reason = ""
        """What the API said to it."""
        self._trial = False
        """Whether the next window is one day, to tell a window that is too long from an API that is not well."""

    def next(self) -> Window | None:
        """Return the window to read now; None at the end of the range."""
        if self._first > self._last:
            return None
        span = 1 if self._trial else max(1, min(self._span, self._longest or self._span))
        return Window(self._first, min(self._last, self._first + timedelta(days=span - 1)))

    def too_large(self, window: Window, announced: int) -> int:
        """Cut a window of which only the announcement was read; return the days of the next one."""
        days = len(window.days)
        if window.last == self._last:
            self._left = announced
        self._span = max(1, min(days - 1, round(days * self._aim() / announced)))
        return self._span

    def read(self, window: Window, rows: int) -> tuple[int, str] | None:
        """Go on behind a window that was read; after a refusal, return its days and what the API said to a longer one."""
        days = len(window.days)
        self._first = window.last + timedelta(days=1)
        if self._left is not None:
            self._left = max(0, self._left - rows)
        learned = None
        if self._trial and self._refused:
            self._trial = False
            self._span = max(1, self._refused // 2)
        else:
            if self._refused:
                self._longest, self._refused = days, None
                learned = days, self._reason
            # behind an empty stretch the next announcement covers twice as much, so that the stretch is not walked
            self._span = max(1, round(days * self._aim() / rows)) if rows else days * 2
        return learned

    def _aim(self) -> float:
        """Return the rows that the next window should have: windows of one size, and half of it for the last.

        The last one is merged while nothing is left to be read, so its size is waited for. Windows that are all as large as may be
        would leave a rest of any size, most of a window or a single day, which costs an announcement too.
        """
        parts = (self._left or 0) / self._chunk_rows
        return self._chunk_rows * (parts / (ceil(parts + 0.5) - 0.5) if parts > 1 else 1)

    def after(self, window: Window, announced: int) -> Window | None:
        """Return what is read behind `window` if as many rows come as are announced; None too while a refusal is worked out."""
        if self._refused:
            return None
        then = copy(self)
        then.read(window, announced)
        return then.next()

    def capped(self, window: Window, most_rows: int) -> bool:
        """Halve a window that the API capped at `most_rows`, and keep the next ones below; return False for a single day."""
        self.most_rows = most_rows
        self._chunk_rows = min(self._chunk_rows, round(most_rows * BELOW_CAP))
        self._left = None
        self._span = max(1, len(window.days) // 2)
        return len(window.days) > 1

    def refused(self, window: Window, reason: str, *, at_fault: bool) -> bool:
        """Halve a window that the API would not answer; return False where that cannot help.

        `at_fault`: the API says that the request is wrong (4xx), so half of it is asked at once. Otherwise (5xx, time-outs) the
        first day is asked alone before: where not even that is answered, the API is not well, and every length would fail.
        """
        days = len(window.days)
        if days == 1:
            return False
        self._trial = not at_fault and self._refused is None
        self._refused, self._reason = days, reason
        self._span = max(1, days // 2)
        return True
