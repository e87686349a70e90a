"""Work with ranges of days; used by every layer."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TypeVar

V = TypeVar("V")
DAY = timedelta(days=1)


def contiguous_ranges(days: Mapping[date, V]) -> list[tuple[date, date, V]]:
    """Return the contiguous ranges of days with equal values, oldest first.

    Both ends are inclusive.
    """
    found: list[tuple[date, date, V]] = []
    for day, value in sorted(days.items(), key=lambda item: item[0]):
        if found and found[-1][1] + DAY == day and found[-1][2] == value:
            found[-1] = (found[-1][0], day, value)
        else:
            found.append((day, day, value))
    return found


def days_between(first: date, last: date) -> list[date]:
    """Return the days from `first` to `last`, inclusive; none if `last` is earlier."""
    return [first + number * DAY for number in range((last - first).days + 1)]
