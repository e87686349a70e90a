"""Decide which parameters a route honours, by windows that cannot contain rows.

A window of one hour before every row returns rows only if the route ignores its end; a window after
every row, only if it ignores the start. This works without totals, whatever the order of the rows,
the inclusiveness of bounds or a cap. It needs rows to exist.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from magnetis_dagster.api import Page
from magnetis_dagster.ingest.windows import Zones
from magnetis_dagster.probe.rows import WIDEST_ZONE, Interval


class Verdict(StrEnum):
    """Whether a route honours a query parameter."""

    YES = "honoured"
    NO = "ignored"
    UNKNOWN = "undecided"


def before_every_row() -> Interval:
    """Return an hour before the first tracked event."""
    start = datetime(2000, 1, 3, 12, tzinfo=UTC)
    return start, start + timedelta(hours=1)


def after_every_row(today: date, zones: Zones) -> Interval:
    """Return a future hour, far enough that no time zone moves it into the present."""
    start = datetime.combine(today + timedelta(days=2), time(12), zones.partition).astimezone(UTC)
    return start, start + timedelta(hours=1)


def end_honoured(moments: Sequence[datetime | None], window: Interval) -> Verdict:
    """Return whether the end is honoured, by the rows of an hour before all rows."""
    return _verdict(moment is not None and moment <= window[1] + WIDEST_ZONE for moment in moments)


def start_honoured(moments: Sequence[datetime | None], window: Interval) -> Verdict:
    """Return whether the start is honoured, by the rows of an hour after all rows."""
    return _verdict(moment is not None and moment >= window[0] - WIDEST_ZONE for moment in moments)


def _verdict(fits: Iterable[bool]) -> Verdict:
    return Verdict.YES if all(fits) else Verdict.NO


def limit_honoured(first: Page, sample: Page | None) -> Verdict:
    """Return whether `limit` is honoured, by a page of one row and a page of several."""
    if len(first.rows) > 1:
        return Verdict.NO
    return Verdict.YES if sample and len(sample.rows) > len(first.rows) else Verdict.UNKNOWN


def page_honoured(first: Sequence[object], sample: Sequence[object], number: int) -> Verdict:
    """Return whether page `number` has other rows than page 1, by their keys."""
    if number == 1 or not first or not sample:
        return Verdict.UNKNOWN
    return Verdict.NO if first[0] in sample else Verdict.YES
