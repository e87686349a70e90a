"""Rows of all collections by time range, newest first, with edits."""

import json
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.sandbox import activity
from magnetis_dagster.sandbox import declared_rows as declared
from magnetis_dagster.sandbox.day_plans import midnight
from magnetis_dagster.sandbox.days import EVENTS, Day, Days, day_of
from magnetis_dagster.sandbox.group import Group, Row
from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.templates import variants

_LISTINGS = 64
"""Number of cached listings: consecutive requests read pages of one window."""
_STEP = 600
"""Late changes of events become visible at the next multiple of this many seconds."""


class _DayRows(NamedTuple):
    """The rows of one day in a window."""

    end: int
    """Number of rows in the window up to this day; the newest day is first."""
    day: date
    low: int
    """Number of the first row, counted from the day's oldest."""
    high: int
    """Number after the last row."""


class World:
    """All collections of one group. Thread-safe: readers never see a partial edit."""

    def __init__(self, options: SandboxOptions, catalogue: Catalogue | None = None) -> None:
        self.options = options
        self.catalogue = catalogue or load_catalogue()
        self._group = group = Group(options)
        shipped = load_catalogue().collections
        self._styles = {
            name: declared.Style(self.catalogue.collections[name], shipped[name])
            for name in (*group.rows, *EVENTS)
        }
        self._days = Days(
            options, variants(group, options.seed, lambda name, row: self._styles[name].apply(row))
        )
        self._lock = threading.RLock()
        self._cache: OrderedDict[tuple[str, date], Day] = OrderedDict()
        self._cached = 0
        self._listings: OrderedDict[tuple[str, int, int], list[_DayRows]] = OrderedDict()
        self._snapshots: dict[str, list[bytes]] = {}
        """Encoded rows, newest first."""
        self._store_snapshots(group.rows)
        for name, collection in self.catalogue.collections.items():
            if not collection.is_events and name not in group.rows:
                rows = declared.snapshot_rows(collection, group.rows["accounts"], options.seed)
                self._snapshots[name] = [_encode(row) for row in reversed(rows)]
        self._edited: dict[tuple[str, date], dict[str, bytes | None]] = {}
        """Edited events by their generated day: current row by id, or None if it was deleted."""
        self._inserted: dict[tuple[str, date], list[tuple[int, bytes]]] = {}
        """Events that were not generated, or were moved to this day."""
        self._started = options.clock()
        self._changed_until = 0
        self._as_of: int | None = None
        """With activity: the time whose late changes the cached days contain."""

    # --- reads

    def snapshot(self, collection: str) -> list[bytes]:
        """Return the encoded rows of a snapshot collection, newest first."""
        with self._lock:
            self.advance()
            return list(self._snapshots[collection])

    def oldest_first(self, collection: str) -> list[Row]:
        """Return the rows of a snapshot collection."""
        return [json.loads(row) for row in reversed(self.snapshot(collection))]

    def events(
        self,
        collection: str,
        start: int | None = None,
        end: int | None = None,
        first: int = 0,
        size: int | None = None,
    ) -> tuple[int, list[bytes]]:
        """Return the number of events from `start` to `end` in Unix time, and a slice of them.

        The slice has `size` encoded rows from number `first`, newest first. Calls include
        `analysis`.
        """
        with self._lock:
            self.advance()
            listing = self._listing(collection, start, end)
            total = listing[-1].end if listing else 0
            limit, rows = total if size is None else size, list[bytes]()
            begin = bisect_right(listing, first, key=lambda each: each.end)
            for until, day, low, high in listing[begin:]:
                if len(rows) >= limit:
                    break
                newest = high - max(0, first - until + high - low)
                oldest = max(low, newest - (limit - len(rows)))
                rows += reversed(self._day(collection, day).rows[oldest:newest])
            return total, rows

    def count(self, collection: str, first: date | None = None, last: date | None = None) -> int:
        """Return the number of events of these local days, or of rows of a snapshot."""
        if not self._is_events(collection):
            return len(self.snapshot(collection))
        seconds = self._seconds(first or self.options.first_day, last)
        return self.events(collection, *seconds, size=0)[0]

    def find(self, collection: str, identifier: str) -> Row:
        """Return a row. Raises KeyError if there is no such row."""
        with self._lock:
            self.advance()
            if not self._is_events(collection):
                rows = self._snapshots[collection]
            elif insertion := self._insertion(collection, identifier):
                day, number = insertion
                rows = [self._inserted[collection, day][number][1]]
            else:
                rows = self._day(collection, day_of(identifier)).rows
            row: Row
            for row in map(json.loads, rows):
                if self.identity(collection, row) == identifier:
                    return row
            raise KeyError(identifier)

    def identity(self, collection: str, row: Row) -> Any:
        """Return the id of a row; the first part of a composite id."""
        return declared.member(row, self.catalogue.collections[collection].id_paths[0][0])

    # --- edits

    def edit(self, collection: str, identifier: str, **changes: Any) -> Row:
        """Change members of a row and return it. An event moves if its time changes.

        Raises: KeyError if there is no such row.
        """
        with self._lock:
            old = self.find(collection, identifier)
            row = old | changes
            if not self._is_events(collection):
                rows = self._snapshots[collection]
                rows[rows.index(_encode(old))] = _encode(row)
            elif self._locate(collection, row) != self._locate(collection, old) or self._insertion(
                collection, identifier
            ):
                self.delete(collection, identifier)
                self.insert(collection, row)
            else:
                # edit in place: a time without a zone is ambiguous in the repeated autumn hour
                self._replace(collection, identifier, _encode(row))
            return row

    def delete(self, collection: str, identifier: str) -> Row:
        """Delete a row and return it. Raises KeyError if there is no such row."""
        with self._lock:
            row = self.find(collection, identifier)
            if not self._is_events(collection):
                self._snapshots[collection].remove(_encode(row))
            elif insertion := self._insertion(collection, identifier):
                day, number = insertion
                del self._inserted[collection, day][number]
                self._invalidate(collection, day)
            else:
                self._replace(collection, identifier, None)
            return row

    def insert(self, collection: str, row: Row) -> bytes:
        """Add a row unchanged, and return it encoded.

        An event requires a time field, not before `first_day`.
        """
        encoded = _encode(row)
        with self._lock:
            self.advance()
            if self._is_events(collection):
                moment, day = self._locate(collection, row)
                self._inserted.setdefault((collection, day), []).append((moment, encoded))
                self._invalidate(collection, day)
            else:
                self._snapshots[collection].insert(0, encoded)
            return encoded

    def advance(self, moment: datetime | None = None) -> None:
        """Apply the changes that are due at the moment; by default, now."""
        if not self.options.activity:
            return
        now = int((moment or self.options.clock()).timestamp())
        with self._lock:
            if now // _STEP * _STEP != self._as_of:
                self._as_of = now // _STEP * _STEP
                self._cache.clear()
                self._listings.clear()
                self._cached = 0
            if now <= self._changed_until:
                return
            seed, zone, after = self.options.seed, self.options.zone, self._changed_until
            self._changed_until = now
            if due := activity.changes(seed, zone, self._started, after, now):
                rows = {
                    name: [
                        self._styles[name].undo(json.loads(row))
                        for row in reversed(self._snapshots[name])
                    ]
                    for name in self._group.rows
                }
                for change in due:
                    activity.apply(change, rows, self._group, zone)
                self._store_snapshots(rows)

    # --- internals

    def _is_events(self, collection: str) -> bool:
        return self.catalogue.collections[collection].is_events

    def _store_snapshots(self, rows: dict[str, list[Row]]) -> None:
        for name, oldest_first in rows.items():
            self._snapshots[name] = [
                _encode(self._styles[name].apply(row)) for row in reversed(oldest_first)
            ]

    def _seconds(self, first: date, last: date | None) -> tuple[int, int | None]:
        zone = self.options.zone
        end = midnight(last + timedelta(days=1), zone) - 1 if last else None
        return midnight(first, zone), end

    def _listing(self, collection: str, start: int | None, end: int | None) -> list[_DayRows]:
        zone, now = self.options.zone, int(self.options.clock().timestamp())
        start = max(start or 0, midnight(self.options.first_day, zone))
        end = now if end is None else min(end, now)
        key = (collection, start, end)
        if key in self._listings:
            return self._listings[key]
        day, total = datetime.fromtimestamp(end, zone).date(), 0
        listing: list[_DayRows] = []
        while start <= end and (next_day := midnight(day + timedelta(days=1), zone)) > start:
            if start <= midnight(day, zone) and next_day <= end + 1:
                low, high = 0, self._count(collection, day)
            else:
                moments = self._day(collection, day).moments
                low, high = bisect_left(moments, start), bisect_right(moments, end)
            if high > low:
                total += high - low
                listing.append(_DayRows(total, day, low, high))
            day -= timedelta(days=1)
        self._listings[key] = listing
        if len(self._listings) > _LISTINGS:
            self._listings.popitem(last=False)
        return listing

    def _count(self, collection: str, day: date) -> int:
        key = (collection, day)
        if collection in EVENTS and key not in self._edited and key not in self._inserted:
            return self._days.count(collection, day, self._as_of)
        return len(self._day(collection, day).rows)

    def _day(self, collection: str, day: date) -> Day:
        key = (collection, day)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        result = self._cache[key] = self._apply_edits(key, self._generate(collection, day))
        self._cached += result.bytes
        while self._cached > self.options.cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].bytes
        return result

    def _generate(self, collection: str, day: date) -> Day:
        if collection in EVENTS:
            return self._days.make(collection, day, self._as_of)
        moments = self._days.moments(collection, day, declared.SHARE_OF_CALLS)
        rows = declared.event_rows(
            self.catalogue.collections[collection],
            self._group.rows["accounts"],
            self.options.seed,
            [datetime.fromtimestamp(moment, self.options.zone) for moment in moments],
        )
        return Day(moments, [_encode(row) for row in rows])

    def _apply_edits(self, key: tuple[str, date], generated: Day) -> Day:
        edited, inserted = self._edited.get(key, {}), self._inserted.get(key, [])
        if not edited and not inserted:
            return generated
        current = (
            (moment, edited.get(encoded_id(row), row))
            for moment, row in zip(generated.moments, generated.rows, strict=True)
        )
        rows = [*((moment, row) for moment, row in current if row is not None), *inserted]
        rows.sort(key=lambda pair: pair[0])
        return Day([moment for moment, _ in rows], [row for _, row in rows])

    def _insertion(self, collection: str, identifier: str) -> tuple[date, int] | None:
        for (name, day), rows in self._inserted.items():
            for number, (_, row) in enumerate(rows if name == collection else ()):
                if self.identity(collection, json.loads(row)) == identifier:
                    return day, number
        return None

    def _locate(self, collection: str, row: Row) -> tuple[int, date]:
        zone, paths = self.options.zone, self.catalogue.collections[collection].time_fields
        value = next((value for path in paths if (value := declared.member(row, path))), None)
        if value is None:
            raise KeyError(f"one of {', '.join(paths)}")
        moment = datetime.fromisoformat(value)
        local = moment.astimezone(zone) if moment.tzinfo else moment.replace(tzinfo=zone)
        if local.date() < self.options.first_day:
            raise ValueError(
                f"{local:%Y-%m-%d} is before the sandbox's first day, {self.options.first_day}"
            )
        return int(local.timestamp()), local.date()

    def _replace(self, collection: str, identifier: str, row: bytes | None) -> None:
        day = day_of(identifier)
        self._edited.setdefault((collection, day), {})[identifier] = row
        self._invalidate(collection, day)

    def _invalidate(self, collection: str, day: date) -> None:
        if (collection, day) in self._cache:
            self._cached -= self._cache.pop((collection, day)).bytes
        for key in [key for key in self._listings if key[0] == collection]:
            del self._listings[key]


def _encode(row: Row) -> bytes:
    # not orjson: it rejects lone surrogates and integers beyond 64 bits, which tests insert
    return json.dumps(row, separators=(",", ":")).encode()


def encoded_id(row: bytes) -> str:
    """Return the id of a generated row: its first text."""
    start = row.index(b':"') + 2
    return row[start : row.index(b'"', start)].decode()
