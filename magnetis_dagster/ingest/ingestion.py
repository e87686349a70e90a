"""Bringing days of a collection into the warehouse: cut into windows, read under quota, committed one by one.

A window that is committed stays, whatever happens to the next one. The caller gets each window as it is done, so that partial
progress can be shown at once.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from types import TracebackType
from typing import Self

from magnetis_dagster.api import ClientLimits, MagnetisClient
from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import NeedsChange
from magnetis_dagster.ingest.gate import LedgerGate, RunIdentity
from magnetis_dagster.ingest.reading import Reading, WindowReader
from magnetis_dagster.ingest.windows import Window, Zones, contiguous
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.warehouse import Merged, MergedDay, Staging, Warehouse, WindowFacts

PAGE_ROWS = 250
"""The API's largest page."""
CHUNK_ROWS = 250 * PAGE_ROWS
"""A window aims at this many rows: 250 calls lost at most when it is interrupted, and the padding's four hours weigh little."""
SLACK = 1.5
"""An announcement up to this many chunks is read as one window: cutting it would cost another announcement."""

PROGRESS_SECONDS = 5.0
"""Between two progress lines of one window."""


class PastSnapshot(NeedsChange):
    """A snapshot of a day that is not today was asked: the API shows only the present."""


class OpenDay(NeedsChange):
    """Events of a day that has not ended were asked: rows would still be coming."""


@dataclass(frozen=True, slots=True)
class DayResult:
    """One day that is done. The window's cost is shared out among its days by their rows, so that days add up to windows."""

    day: date
    rows: int
    announced: int
    inserted: int
    changed: int
    deleted: int
    api_calls: float
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class WindowResult:
    """One window that is done, or that was done before."""

    window: Window
    days: list[DayResult]
    announced: int
    received: int
    padding: int
    quarantined: int
    api_calls: int
    bytes: int
    seconds: float
    quota_left: int
    rows_held: int
    """Rows that the whole table holds."""
    misfits: dict[str, int] = field(default_factory=dict)
    """Column to the number of values that did not fit it."""
    unknown: list[str] = field(default_factory=list)
    """Members that no declaration reads."""
    replaced_characters: int = 0
    skipped: bool = False
    """Done before by the run that this one goes on with; nothing was read."""


class Ingestion:
    """A context manager that holds the client of one run. Not thread-safe; the methods block."""

    def __init__(
        self,
        warehouse: Warehouse,
        ledger: Ledger,
        run: RunIdentity,
        *,
        origin: str,
        key: str,
        zones: Zones,
        concurrency: int = 8,
        limits: ClientLimits | None = None,
        chunk_rows: int = CHUNK_ROWS,
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._warehouse = warehouse
        self._ledger = ledger
        self._run = run
        self._zones = zones
        self._concurrency = concurrency
        self._chunk_rows = chunk_rows
        self._progress = progress
        self._gate = LedgerGate(ledger, run)
        self._client = MagnetisClient(origin, key, self._gate, concurrency=concurrency, limits=limits or ClientLimits())

    def __enter__(self) -> Self:
        """Bring the tables up to date and open the client. Raises DatabaseUnwell, DatabaseRefused."""
        self._warehouse.prepare()
        self._runner = asyncio.Runner()
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the client's connections."""
        self._runner.run(self._client.__aexit__(kind, error, trace))
        self._runner.close()

    def read_days(self, collection: Collection, days: Sequence[date]) -> Iterator[WindowResult]:
        """Read `days` of an events collection, oldest first, and yield each window once it is committed.

        Contiguous days are one window as long as it is cheap to redo: the range is announced first, and cut into chunks of whole
        days where it exceeds CHUNK_ROWS. Raises OpenDay before any call, and the errors of the layers below.
        """
        today = self._today()
        if late := [day for day in days if day >= today]:
            raise OpenDay(
                f"{collection.name}: {late[0]} has not ended in {self._zones.partition.key} (today is {today}). Its events are "
                "read once it has: choose days up to yesterday."
            )
        done = self._warehouse.done(collection, days, run_id=self._run.work_id) if self._run.resumes else {}
        for window in contiguous(list(done)):
            yield self._done_before(collection, window, done)
        for window in contiguous([day for day in days if day not in done]):
            yield from self._read_range(collection, window)

    def read_snapshot(self, collection: Collection, day: date) -> WindowResult:
        """Read the present state of a collection, whole, as the snapshot of `day`. Raises PastSnapshot before any call."""
        if self._run.resumes and (done := self._warehouse.done(collection, [day], run_id=self._run.work_id)):
            return self._done_before(collection, Window(day, day), done)
        today = self._today()
        if day != today:
            raise PastSnapshot(
                f"{collection.name}: the API shows only the present, so a snapshot of {day} cannot be taken on {today} "
                f"({self._zones.partition.key}). Materialize the partition {today}; earlier states that were taken are in "
                f"magnetis.{collection.name}_history."
            )
        return self._read_day(collection, Window(day, day))

    def _today(self) -> date:
        return self._warehouse.now().astimezone(self._zones.partition).date()

    def _read_range(self, collection: Collection, range_: Window) -> Iterator[WindowResult]:
        first, span = range_.first, len(range_.days)
        while first <= range_.last:
            window = Window(first, min(range_.last, first + timedelta(days=span - 1)))
            affordable = self._affordable_rows()
            result = (
                self._read_day(collection, window)
                if window.first == window.last or collection.window is None  # without a window each call would read it all again
                else self._read_window(collection, window, min(affordable, int(self._chunk_rows * SLACK)))
            )
            if isinstance(result, int):
                span = max(1, min(len(window.days) - 1, len(window.days) * min(affordable, self._chunk_rows) // result))
                self._progress(f"{collection.name} {window}: {result} rows announced; reading {span} day(s) at a time")
                continue
            yield result
            first = window.last + timedelta(days=1)
            if result.received:
                span = max(1, len(window.days) * self._chunk_rows // result.received)

    def _read_day(self, collection: Collection, window: Window) -> WindowResult:
        """Read a window that cannot be cut. Raises QuotaExhausted once it is announced where it cannot be read to its end today."""
        result = self._read_window(collection, window, self._affordable_rows())
        if isinstance(result, WindowResult):
            return result
        # pages of half a day would be asked again tomorrow: wait for the calls of a whole one
        self._ledger.require(self._run.lane, -(-result // PAGE_ROWS))
        return self._read_day(collection, window)

    def _affordable_rows(self) -> int:
        """Return how many rows the lane's remaining calls can bring today."""
        return max(1, self._ledger.left(self._run.lane)) * PAGE_ROWS

    def _read_window(self, collection: Collection, window: Window, most_rows: int) -> WindowResult | int:
        """Read and commit one window; or return the rows announced where they exceed `most_rows`."""
        started, charged = time.monotonic(), self._gate.charged
        read_at = self._warehouse.now()
        self._gate.window = window
        reader = WindowReader(
            self._client, collection, concurrency=self._concurrency, progress=self._page_progress(collection, window)
        )
        with self._warehouse.staging(collection) as staging:
            reading = self._runner.run(
                reader.read(window, window.parameters(collection, self._zones), staging, most_rows=most_rows)
            )
            if not reading.complete:
                return reading.announced
            facts = WindowFacts(
                days=window.days,
                read_at=read_at,
                announced=reading.announced,
                received=reading.received,
                api_calls=self._gate.charged - charged,
                bytes=reading.bytes,
                milliseconds=int((time.monotonic() - started) * 1000),
                run_id=self._run.work_id,
            )
            merged = self._warehouse.commit(staging, facts)
            return self._result(window, facts, reading, merged, staging, time.monotonic() - started)

    def _result(
        self, window: Window, facts: WindowFacts, reading: Reading, merged: Merged, staging: Staging, seconds: float
    ) -> WindowResult:
        collection = staging.collection
        newer = self._warehouse.done(collection, merged.superseded) if merged.superseded else {}
        return WindowResult(
            window=window,
            days=_share_out([*merged.days, *newer.values()], facts, seconds),
            announced=facts.announced,
            received=facts.received,
            padding=merged.padding,
            quarantined=merged.quarantined,
            api_calls=facts.api_calls,
            bytes=facts.bytes,
            seconds=seconds,
            quota_left=self._ledger.left(self._run.lane),
            rows_held=self._warehouse.rows_held(collection),
            misfits=dict(staging.misfits),
            unknown=sorted(staging.unknown),
            replaced_characters=reading.replaced_characters,
        )

    def _done_before(self, collection: Collection, window: Window, done: dict[date, MergedDay]) -> WindowResult:
        days = [DayResult(day, done[day].held, done[day].announced, 0, 0, 0, 0.0, 0.0, 0.0) for day in window.days]
        rows = sum(day.rows for day in days)
        return WindowResult(
            window=window,
            days=days,
            announced=rows,
            received=rows,
            padding=0,
            quarantined=self._warehouse.quarantined(collection, window.days),
            api_calls=0,
            bytes=0,
            seconds=0.0,
            quota_left=self._ledger.left(self._run.lane),
            rows_held=self._warehouse.rows_held(collection),
            skipped=True,
        )

    def _page_progress(self, collection: Collection, window: Window) -> Callable[[int, int], None]:
        last = time.monotonic()

        def progress(done: int, pages: int) -> None:
            nonlocal last
            if time.monotonic() - last >= PROGRESS_SECONDS:
                last = time.monotonic()
                self._progress(f"{collection.name} {window}: page {done} of {pages}")

        return progress


def _share_out(days: list[MergedDay], facts: WindowFacts, seconds: float) -> list[DayResult]:
    whole = sum(day.announced + 1 for day in days)
    results = []
    for day in sorted(days, key=lambda day: day.day):
        share = (day.announced + 1) / whole
        results.append(
            DayResult(
                day=day.day,
                rows=day.held,
                announced=day.announced,
                inserted=day.inserted,
                changed=day.changed,
                deleted=day.deleted,
                api_calls=facts.api_calls * share,
                bytes=facts.bytes * share,
                seconds=seconds * share,
            )
        )
    return results
