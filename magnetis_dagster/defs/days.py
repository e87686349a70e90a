"""Days of runs: ranges of them, and the tags by which Dagster knows them. No Dagster is imported: commands use it too."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TypeVar

V = TypeVar("V")
DAY = timedelta(days=1)

PARTITION = "dagster/partition"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


def spans(days: Mapping[date, V]) -> list[tuple[date, date, V]]:
    """Return the contiguous ranges of days with the same value, oldest first, both ends inclusive."""
    found: list[tuple[date, date, V]] = []
    for day, value in sorted(days.items(), key=lambda item: item[0]):
        if found and found[-1][1] + DAY == day and found[-1][2] == value:
            found[-1] = (found[-1][0], day, value)
        else:
            found.append((day, day, value))
    return found


def between(first: date, last: date) -> list[date]:
    """Return the days `first` to `last`, inclusive; none where `last` is earlier."""
    return [first + number * DAY for number in range((last - first).days + 1)]


def days_tags(first: date, last: date) -> dict[str, str]:
    """Return the tags of one run over the days `first` to `last`, inclusive."""
    if first == last:
        return {PARTITION: first.isoformat()}
    return {RANGE_START: first.isoformat(), RANGE_END: last.isoformat()}


def days_of(tags: Mapping[str, str]) -> list[date]:
    """Return the days of a run with these tags; none for a run without partitions."""
    first = tags.get(RANGE_START) or tags.get(PARTITION)
    last = tags.get(RANGE_END) or first
    return between(date.fromisoformat(first), date.fromisoformat(last)) if first and last else []
