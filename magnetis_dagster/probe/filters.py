"""Which parameters a route honours, from the rows that come for windows in which there can be none.

A window of one hour before every row comes back with rows only if its end is ignored; one after every row, only if its start is.
That needs no total, no order of the rows and no bound to be inclusive, and a cap does not matter. It needs rows to exist.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from magnetis_dagster.api import Page
from magnetis_dagster.ingest.windows import Zones
from magnetis_dagster.probe.rows import WIDEST_ZONE, Interval


class Honoured(StrEnum):
    """Whether a route takes notice of a query parameter."""

    YES = "honoured"
    NO = "ignored"
    UNKNOWN = "undecided"


def before_every_row() -> Interval:
    """Return an hour in which nothing was tracked yet."""
    start = datetime(2000, 1, 3, 12, tzinfo=UTC)
    return start, start + timedelta(hours=1)


def after_every_row(today: date, zones: Zones) -> Interval:
    """Return an hour in the future, far enough that no zone brings it into the present."""
    start = datetime.combine(today + timedelta(days=2), time(12), zones.partition).astimezone(UTC)
    return start, start + timedelta(hours=1)


def end_honoured(moments: Sequence[datetime | None], window: Interval) -> Honoured:
    """Return whether rows received for the hour before every row show that the end is honoured."""
    return _verdict(moment is not None and moment <= window[1] + WIDEST_ZONE for moment in moments)


def start_honoured(moments: Sequence[datetime | None], window: Interval) -> Honoured:
    """Return whether rows received for the hour after every row show that the start is honoured."""
    return _verdict(moment is not None and moment >= window[0] - WIDEST_ZONE for moment in moments)


def _verdict(fits: Iterable[bool]) -> Honoured:
    return Honoured.YES if all(fits) else Honoured.NO


def limit_honoured(first: Page, sample: Page | None) -> Honoured:
    """Return what a page of one row and a page of several show of `limit`."""
    if len(first.rows) > 1:
        return Honoured.NO
    return Honoured.YES if sample and len(sample.rows) > len(first.rows) else Honoured.UNKNOWN


def page_honoured(first: Sequence[object], sample: Sequence[object], number: int) -> Honoured:
    """Return whether page `number` has other rows than page 1, by the keys of its rows."""
    if number == 1 or not first or not sample:
        return Honoured.UNKNOWN
    return Honoured.NO if first[0] in sample else Honoured.YES
