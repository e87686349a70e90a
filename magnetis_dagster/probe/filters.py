"""Decide which parameters a route honours, by windows that cannot contain rows.

A window of one hour before every row returns rows only if the route ignores its end; a window after
every row, only if it ignores the start. This works without totals, whatever the order of the rows,
the inclusiveness of bounds or a cap. It needs rows to exist.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from magnetis_dagster.api import Page
from magnetis_dagster.ingest.windows import Zones
from magnetis_dagster.probe.rows import Interval


class Verdict(StrEnum):
    """Whether a route honours a query parameter."""

    YES = "honoured"
    NO = "ignored"
    UNKNOWN = "undecided"


def hours_without_rows(today: date, zones: Zones) -> tuple[Interval, Interval]:
    """Return an hour before the first tracked event, and a future hour.

    No time zone moves the future hour into the present.
    """
    past = datetime(2000, 1, 3, 12, tzinfo=UTC)
    future = datetime.combine(today + timedelta(days=2), time(12), zones.partition).astimezone(UTC)
    return (past, past + timedelta(hours=1)), (future, future + timedelta(hours=1))


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
