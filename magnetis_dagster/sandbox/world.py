"""The world behind the API: rows by window, newest first, and the edits that a test or a user makes to them."""

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import accumulate
from typing import Any

import orjson

from magnetis_dagster.sandbox.days import EVENTS, Day, Days
from magnetis_dagster.sandbox.group import Group, Row
from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.templates import variants

_LISTINGS = 64
"""Windows whose list of days is remembered: pages of one window follow each other."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The rows of one window: days, newest first, and which of each day's rows lie inside."""

    days: list[tuple[date, int, int]]
    """Day, first and last (exclusive) of its rows, oldest first within the day."""
    ends: list[int]
    """Rows up to and including each day."""

    @property
    def total(self) -> int:
        """Rows of the window."""
        return self.ends[-1] if self.ends else 0


class World:
    """All collections of one group. Thread-safe."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self._group = Group(options)
        self._days = Days(options, variants(self._group, options.seed))
        self._lock = threading.RLock()
        self._cache: OrderedDict[tuple[str, date, bool], Day] = OrderedDict()
        self._cached = 0
        self._listings: OrderedDict[tuple[str, datetime | None, datetime | None], Listing] = OrderedDict()
        self._edits: dict[tuple[str, date], dict[str, Row | None]] = {}
        """Events by the day that they were made for: id to the row as it is now, or None where it is gone."""
        self._inserted: dict[tuple[str, date], dict[str, Row]] = {}

    # --- what the API shows

    def snapshot(self, collection: str) -> list[bytes]:
        """Return the encoded rows of a snapshot collection, newest first."""
        with self._lock:
            return [orjson.dumps(row) for row in reversed(self._group.rows[collection])]

    def listing(self, collection: str, start: datetime | None, end: datetime | None) -> Listing:
        """Return where the rows of an events collection lie that happened from `start` to `end`, both inclusive (UTC)."""
        with self._lock:
            now = self.options.clock()
            live = end is None or end > now
            key = (collection, start, end)
            if not live and key in self._listings:
                return self._listings[key]
            listing = self._listing(collection, start, now if end is None or live else end)
            if not live:
                self._listings[key] = listing
                if len(self._listings) > _LISTINGS:
                    self._listings.popitem(last=False)
            return listing

    def page(self, collection: str, listing: Listing, first: int, size: int, *, analysis: bool = False) -> list[bytes]:
        """Return up to `size` encoded rows of a listing from its row `first` on, newest first."""
        rows: list[bytes] = []
        index = bisect_right(listing.ends, first)
        while index < len(listing.days) and len(rows) < size:
            day, low, high = listing.days[index]
            begun = listing.ends[index] - (high - low)
            newest = high - max(0, first - begun)
            oldest = max(low, newest - (size - len(rows)))
            rows += reversed(self._day(collection, day, analysis=analysis).rows[oldest:newest])
            index += 1
        return rows

    def truth(self, collection: str, first: date | None = None, last: date | None = None) -> Iterator[Row]:
        """Yield the rows that a perfect reader would hold: of these local days for events, all for snapshots."""
        if collection not in EVENTS:
            yield from (orjson.loads(row) for row in self.snapshot(collection))
            return
        day = first or self.options.first_day
        while day <= (last or self.options.clock().astimezone(self.options.zone).date()):
            listing = self.listing(collection, self._midnight(day), self._midnight(day + timedelta(days=1)) - timedelta(seconds=1))
            yield from (orjson.loads(row) for row in self.page(collection, listing, 0, listing.total))
            day += timedelta(days=1)

    def count(self, collection: str, first: date | None = None, last: date | None = None) -> int:
        """Return how many rows `truth` would yield, without making the rows of days that lie whole inside."""
        if collection not in EVENTS:
            return len(self._group.rows[collection])
        start = self._midnight(first or self.options.first_day)
        end = self._midnight(last + timedelta(days=1)) - timedelta(seconds=1) if last else None
        return self.listing(collection, start, end).total

    # --- what a test or a user does to it

    def edit(self, collection: str, identifier: str, **changes: Any) -> Row:
        """Change members of a row and return it. Raises KeyError where there is no such row."""
        with self._lock:
            row = self._find(collection, identifier) | changes
            self._put(collection, identifier, row)
            return row

    def delete(self, collection: str, identifier: str) -> Row:
        """Take a row away and return it. Raises KeyError where there is no such row."""
        with self._lock:
            row = self._find(collection, identifier)
            if collection in EVENTS:
                self._put(collection, identifier, None)
            else:
                self._group.rows[collection].remove(row)
            return row

    def insert(self, collection: str, row: Row) -> None:
        """Add a row of any form, as it is; an event needs its local time in start_at or created_at."""
        with self._lock:
            if collection not in EVENTS:
                self._group.rows[collection].append(row)
                return
            self._inserted.setdefault((collection, _moment(row).date()), {})[str(row.get("id"))] = row
            self._forget(collection)

    # --- inside

    def _midnight(self, day: date) -> datetime:
        return datetime.combine(day, time.min, self.options.zone)

    def _listing(self, collection: str, start: datetime | None, end: datetime) -> Listing:
        zone = self.options.zone
        first = max(self.options.first_day, start.astimezone(zone).date()) if start else self.options.first_day
        low_moment = int(start.timestamp()) if start else 0
        day, days = end.astimezone(zone).date(), []
        while day >= first:
            inside = self._midnight(day) >= (start or self._midnight(day)) and self._midnight(day + timedelta(days=1)) <= end
            if inside:
                low, high = 0, self._count(collection, day)
            else:
                moments = self._day(collection, day, analysis=False).moments
                low, high = bisect_left(moments, low_moment), bisect_right(moments, int(end.timestamp()))
            if high > low:
                days.append((day, low, high))
            day -= timedelta(days=1)
        return Listing(days, list(accumulate(high - low for _, low, high in days)))

    def _count(self, collection: str, day: date) -> int:
        if (collection, day) in self._edits or (collection, day) in self._inserted:
            return len(self._day(collection, day, analysis=False).rows)
        return self._days.count(collection, day)

    def _day(self, collection: str, day: date, *, analysis: bool) -> Day:
        key = (collection, day, analysis and collection == "calls")
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            made = self._edited(collection, day, self._days.make(collection, day, analysis=key[2]))
            self._cache[key] = made
            self._cached += made.bytes
            while self._cached > self.options.cache_bytes and len(self._cache) > 1:
                self._cached -= self._cache.popitem(last=False)[1].bytes
            return made

    def _edited(self, collection: str, day: date, made: Day) -> Day:
        edits = self._edits.get((collection, day), {})
        inserted = self._inserted.get((collection, day), {})
        if not edits and not inserted:
            return made
        rows: list[tuple[int, bytes]] = []
        for moment, encoded in zip(made.moments, made.rows, strict=True):
            row = orjson.loads(encoded)
            if row["id"] not in edits:
                rows.append((moment, encoded))
            elif (now := edits[row["id"]]) is not None:
                # without `analysis` in the edited row, the variant of the page decides
                kept = {name: row[name] for name in row.keys() & {"analysis"}}
                rows.append((moment, orjson.dumps(kept | now)))
        zone = self.options.zone
        rows += [(int(_moment(row).replace(tzinfo=zone).timestamp()), orjson.dumps(row)) for row in inserted.values()]
        rows.sort(key=lambda pair: pair[0])
        return Day([moment for moment, _ in rows], [row for _, row in rows])

    def _find(self, collection: str, identifier: str) -> Row:
        if collection not in EVENTS:
            rows = {row["id"]: row for row in self._group.rows[collection]}
            return rows[identifier]
        for (name, _), inserted in self._inserted.items():
            if name == collection and identifier in inserted:
                return inserted[identifier]
        rows = {
            row["id"]: row for row in map(orjson.loads, self._day(collection, self._days.day_of(identifier), analysis=False).rows)
        }
        return rows[identifier]

    def _put(self, collection: str, identifier: str, row: Row | None) -> None:
        """Put `row` in the place of what has that id. An event moves to the day of its new time."""
        if collection not in EVENTS:
            rows = self._group.rows[collection]
            rows[next(n for n, old in enumerate(rows) if old["id"] == identifier)] = row or {}
            return
        held = next((days for (name, _), days in self._inserted.items() if name == collection and identifier in days), None)
        if held is not None:
            del held[identifier]
            if row is not None:
                self.insert(collection, row)
        else:
            made_for = self._days.day_of(identifier)
            old = self._find(collection, identifier)
            moved = row is not None and _moment(row) != _moment(old)
            self._edits.setdefault((collection, made_for), {})[identifier] = None if moved else row
            if moved and row is not None:
                self.insert(collection, row)
        self._forget(collection)

    def _forget(self, collection: str) -> None:
        for key in [key for key in self._cache if key[0] == collection]:
            self._cached -= self._cache.pop(key).bytes
        for listing in [key for key in self._listings if key[0] == collection]:
            del self._listings[listing]


def _moment(row: Row) -> datetime:
    return datetime.fromisoformat(row.get("start_at") or row["created_at"])
