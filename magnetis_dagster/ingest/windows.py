"""Windows of contiguous local days, and their query parameters."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from magnetis_dagster.catalog import Collection
from magnetis_dagster.dates import contiguous_ranges, days_between

PADDING = timedelta(hours=2)
"""Requested on both sides of a window.

The API documents neither whether `from` and `to` are inclusive nor their time zone.
"""


@dataclass(frozen=True, slots=True)
class Zones:
    """The three time zones of the API's times; see `magnetis_dagster.settings`."""

    partition: ZoneInfo
    query: ZoneInfo
    response: ZoneInfo


@dataclass(frozen=True, slots=True)
class Window:
    """The days `first` to `last`, inclusive."""

    first: date
    last: date

    @property
    def days(self) -> list[date]:
        """Every day of the window, ascending."""
        return days_between(self.first, self.last)

    def bounds(self, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """Return the UTC start and end of the window in `zone`; a day has 23 to 25 hours."""
        start = datetime.combine(self.first, time.min, zone)
        end = datetime.combine(self.last + timedelta(days=1), time.min, zone)
        return start.astimezone(UTC), end.astimezone(UTC)

    def padded_bounds(self, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """Return the requested bounds: the window plus PADDING on both sides."""
        start, end = self.bounds(zone)
        return start - PADDING, end + PADDING

    def parameters(self, collection: Collection, zones: Zones) -> dict[str, str]:
        """Return the query parameters of a request for the padded window."""
        return parameters_between(collection, zones, *self.padded_bounds(zones.partition))

    def __str__(self) -> str:
        """Return `2025-03-28` or `2025-03-28...2025-04-02`, as Dagster writes ranges."""
        return str(self.first) if self.first == self.last else f"{self.first}...{self.last}"


def middle_of(start: datetime, end: datetime, zone: ZoneInfo) -> datetime:
    """Return the UTC instant, in whole seconds, that divides an interval.

    It is a local midnight if the interval is longer than two days.
    """
    middle = (start + (end - start) / 2).replace(microsecond=0)
    if end - start <= timedelta(days=2):
        return middle
    return datetime.combine(middle.astimezone(zone).date(), time.min, zone).astimezone(UTC)


def parameters_between(
    collection: Collection, zones: Zones, start: datetime, end: datetime
) -> dict[str, str]:
    """Return the collection's query parameters for the time `start` to `end`."""
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
    """Return a digest of all that decides a page's rows, except window and number.

    Pages of an interrupted read are reused only for the same key, origin, zones and declaration.
    """
    parts = [
        key_fingerprint,
        origin,
        str(zones.partition),
        str(zones.query),
        collection.model_dump_json(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def contiguous(days: Iterable[date]) -> list[Window]:
    """Return the windows that cover exactly `days`, in order."""
    return [Window(first, last) for first, last, _ in contiguous_ranges(dict.fromkeys(days))]
