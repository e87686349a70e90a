"""Windows: contiguous local days of one collection, and the query parameters that ask for them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from magnetis_dagster.catalog import Collection

PADDING = timedelta(hours=2)
"""Asked on both sides: whether `from` and `to` are inclusive, and in which zone they are read, is not documented."""


@dataclass(frozen=True, slots=True)
class Zones:
    """The three zones of the API's times; see settings."""

    partition: ZoneInfo
    query: ZoneInfo
    response: ZoneInfo


@dataclass(frozen=True, slots=True)
class Window:
    """Days `first` to `last`, inclusive."""

    first: date
    last: date

    @property
    def days(self) -> list[date]:
        """Every day of the window, ascending."""
        return [
            self.first + timedelta(days=number)
            for number in range((self.last - self.first).days + 1)
        ]

    def bounds(self, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """Return the instants (UTC) at which the window begins and ends in `zone`; a day has 23, 24 or 25 hours."""
        start = datetime.combine(self.first, time.min, zone)
        end = datetime.combine(self.last + timedelta(days=1), time.min, zone)
        return start.astimezone(UTC), end.astimezone(UTC)

    def parameters(self, collection: Collection, zones: Zones) -> dict[str, str]:
        """Return the query parameters that ask for the window, padded, beside those that the collection always sends."""
        start, end = self.bounds(zones.partition)
        return parameters_between(collection, zones, start - PADDING, end + PADDING)

    def __str__(self) -> str:
        """Return `2025-03-28` or `2025-03-28...2025-04-02`, as Dagster writes ranges."""
        return str(self.first) if self.first == self.last else f"{self.first}...{self.last}"


def middle_of(start: datetime, end: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant (UTC, whole seconds) that divides an interval: a local midnight if it is longer than two days."""
    middle = (start + (end - start) / 2).replace(microsecond=0)
    if end - start <= timedelta(days=2):
        return middle
    return datetime.combine(middle.astimezone(zone).date(), time.min, zone).astimezone(UTC)


def parameters_between(
    collection: Collection, zones: Zones, start: datetime, end: datetime
) -> dict[str, str]:
    """Return the query parameters for the instants `start` to `end`, beside those that the collection always sends."""
    if collection.window is None:
        return dict(collection.parameters)
    form = collection.window.format
    return dict(collection.parameters) | {
        collection.window.start: start.astimezone(zones.query).strftime(form),
        collection.window.end: end.astimezone(zones.query).strftime(form),
    }


def request_fingerprint(
    collection: Collection, zones: Zones, *, key_fingerprint: str, origin: str
) -> str:
    """Return a digest of all that decides which rows a page contains, except its window and number.

    Pages of an interrupted read are used again only under the same key, origin, zones and declaration.
    """
    parts = [
        key_fingerprint,
        origin,
        str(zones.partition),
        str(zones.query),
        collection.model_dump_json(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def contiguous(days: Sequence[date]) -> Iterator[Window]:
    """Yield the windows that cover exactly `days`, in order."""
    ordered = sorted(set(days))
    start = 0
    for index in range(1, len(ordered) + 1):
        if index == len(ordered) or ordered[index] - ordered[index - 1] > timedelta(days=1):
            yield Window(ordered[start], ordered[index - 1])
            start = index
