"""Bringing days of a collection into the warehouse: cut into windows, read under quota, committed one by one.

A window that is committed stays, whatever happens to the next one. The caller gets each window as it is done, so that partial
progress can be shown at once. While one window is committed and told, the next one is read.
"""

import asyncio
import gc
import math
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import accumulate, pairwise
from types import TracebackType
from typing import Self

from magnetis_dagster.api import (
    ClientLimits,
    MagnetisClient,
    NotConnected,
    RequestRejected,
    ServerUnavailable,
    Unreachable,
)
from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.ingest.commit_thread import ReadingThread
from magnetis_dagster.ingest.pricing import CHUNK_ROWS, SLACK, expected_calls
from magnetis_dagster.ingest.window_reader import Reading, WindowReader
from magnetis_dagster.ingest.window_splitter import Cut
from magnetis_dagster.ingest.windows import Window, Zones, contiguous, request_fingerprint
from magnetis_dagster.ingest.witnesses import ImplausibleResponse, SearchCapped, Suspicions
from magnetis_dagster.quota.guard import LedgerGuard, Permit, RunIdentity
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.warehouse import (
    CachedWindow,
    Changes,
    DayDifference,
    Doubt,
    DoubtReason,
    Emptied,
    MergedDay,
    MergeResult,
    PageCache,
    Rules,
    Staging,
    Warehouse,
    WindowFacts,
    age_days,
)
from magnetis_dagster.warehouse.forecasts import ForecastLine, UnknownBackfill, record, report
from magnetis_dagster.warehouse.source import claim

OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""A page is thousands of objects without cycles: to look for some at each 700, as Python does, is in vain."""
SWITCH_SECONDS = 0.03
"""A thread of a run keeps Python's lock as long where another wants it, instead of 0.005 s: a page is read in one go."""
MOST_READ_ALONE = 7
"""Days of one load that are read again alone; a key that has lost its scope would double the price of a load otherwise."""
PROGRESS_SECONDS = 5.0
"""Between two progress lines of one window."""


class PastSnapshot(PermanentError):
    """A snapshot of a day that is not today was asked: the API shows only the present."""


class OpenDay(PermanentError):
    """Events of a day that has not ended were asked: rows would still be coming."""


class IncompleteResponse(PermanentError):
    """The API provably leaves out rows of a single day; no shorter window helps."""


@dataclass(frozen=True, slots=True)
class DayResult:
    """One day that is done. The window's requests, bytes and seconds are divided among its days by their rows.

    Requests and bytes are whole numbers that add up to those of the window.
    """

    day: date
    rows: int
    announced: int
    inserted: int
    changed: int
    deleted: int
    api_calls: int
    bytes: int
    seconds: float
    age_days: int
    """From the day's end to the reading: 0 is the first night."""
    first_read: bool
    """No complete read of the day was recorded before."""

    @property
    def late_rows(self) -> int:
        """Return the rows that were added, changed or deleted after a complete read of the day."""
        return (
            0
            if self.first_read or not self.age_days
            else self.inserted + self.changed + self.deleted
        )


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
    witness_calls: int = 0
    """API calls among them that only verified the window."""
    skipped: bool = False
    """Done before by the run that this one goes on with; nothing was read."""
    doubted: dict[date, Doubt] = field(default_factory=dict)
    """Days whose answer is not believed; they are not done. See MAGNETIS_EMPTIED_DAYS."""
    changes: Changes | None = field(default=None, repr=False)
    """What the reading found to be changed in settings, values as received; None for other collections."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A window in staging, ready to be committed."""

    window: Window
    staging: Staging
    reading: Reading
    api_calls: int
    started: float
    staged: ExitStack
    """Closes the staging table."""


class _Underway:
    """A window that is being read in a task of its own."""

    def __init__(
        self, window: Window, reader: WindowReader, task: "asyncio.Task[_Read | int]"
    ) -> None:
        self.window = window
        self._reader = reader
        self.task = task

    async def announced(self) -> int | None:
        """Wait until nearly all its pages are asked; return the rows announced, None where it failed or announced none."""
        asked = asyncio.create_task(self._reader.nearly_asked.wait())
        try:
            await asyncio.wait((asked, self.task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        failed = self.task.done() and (self.task.cancelled() or self.task.exception())
        return self._reader.announced if self._reader.nearly_asked.is_set() and not failed else None

    async def leave(self, *, at_once: bool) -> None:
        """End the reading and drop what it staged; unless `at_once`, its pages under way are received and kept."""
        if at_once:
            self.task.cancel()
        self._reader.stop()
        await asyncio.wait([self.task])
        # a failure of days that are left is met again by whoever reads them
        if (
            not self.task.cancelled()
            and not self.task.exception()
            and isinstance(read := self.task.result(), _Read)
        ):
            read.staged.close()


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
        advanced: Callable[[], None] = lambda: None,
        permit: Permit | None = None,
    ) -> None:
        """Make an Ingestion; `advanced` is called after each advance that a retry of the work need not make again.

        `permit` is confirmed before requests and commits if it is not fresh; what it raises ends the reading.
        """
        self._warehouse = warehouse
        self._ledger = ledger
        self._origin = origin
        self._requested: frozenset[date] = frozenset()
        """Days that the caller requested."""
        self._alone: set[date] = set()
        """Days among them to read once more, each alone."""
        self._under_cap: set[date] = set()
        """Days among them to read once more in shorter windows."""
        self._caps: set[int] = set()
        """Rows at which searches were found to be capped."""
        self._run = run
        self._zones = zones
        self._concurrency = concurrency
        self._chunk_rows = chunk_rows
        self._progress = progress
        self._thread = ReadingThread(progress)
        self._advanced = advanced
        self._permit = permit
        self._gate = LedgerGuard(ledger, run, permit=permit)
        # what was interrupted once may be again, and the calls under way are lost with it
        start = 1 if run.resumes else None
        self._client = MagnetisClient(
            origin,
            key,
            self._gate,
            concurrency=concurrency,
            limits=limits or ClientLimits(),
            start=start,
            report=self._thread.tell,
        )

    def __enter__(self) -> Self:
        """Bring the tables up to date and open the client. Raises DatabaseUnavailable, DatabaseRefused."""
        self._warehouse.prepare(self._progress)
        self._collected = gc.get_threshold()
        gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, *self._collected[1:])
        self._switching = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.__enter__()
        self._thread.run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client's connections."""
        gc.set_threshold(*self._collected)
        sys.setswitchinterval(self._switching)
        try:
            self._thread.run(self._client.__aexit__(kind, error, trace))
        finally:
            self._thread.__exit__(kind, error, trace)

    def read_days(self, collection: Collection, days: Sequence[date]) -> Iterator[WindowResult]:
        """Read `days` of an events collection, oldest first, and yield each window once it is committed.

        Contiguous days are one window as long as it is cheap to redo: the range is announced first, and cut into chunks of whole
        days where it exceeds CHUNK_ROWS. Raises OpenDay and ForeignSource before any request, and the errors of the layers below.
        """
        today = self._today()
        if late := [day for day in days if day >= today]:
            raise OpenDay(
                f"{collection.name}: {late[0]} has not ended in {self._zones.partition.key} (today is {today}). Its events are "
                "read once it has: choose days up to yesterday."
            )
        self._requested, self._alone, self._under_cap, self._caps = (
            frozenset(days),
            set(),
            set(),
            set(),
        )
        self._claim(collection)
        done = (
            self._warehouse.completed_days(collection, days, run_id=self._run.work_id)
            if self._run.resumes
            else {}
        )
        for window in contiguous(list(done)):
            yield self._done_before(collection, window, done)
        ranges = list(contiguous([day for day in days if day not in done]))
        while ranges:
            yield from self._commit_behind(self._read_ranges(collection, ranges))
            # windows may have been committed while the cap was found
            self._doubt_windows(collection)
            ranges = [
                *contiguous(list(self._under_cap)),
                *(Window(day, day) for day in sorted(self._alone - self._under_cap)),
            ]
            self._alone, self._under_cap, self._caps = set(), set(), set()

    def _claim(self, collection: Collection) -> None:
        claim(
            self._warehouse.engine,
            collection,
            key_fingerprint=self._ledger.key_fingerprint,
            origin=self._origin,
        )

    def _commit_behind(self, reads: AsyncGenerator[_Read, None]) -> Iterator[WindowResult]:
        return self._thread.committed(reads, self._commit, lambda read: read.staged.close())

    def read_snapshot(self, collection: Collection, day: date) -> WindowResult:
        """Read the present state of a collection, whole, as the snapshot of `day`; a past day that was taken is not read again.

        Raises PastSnapshot and ForeignSource before any request.
        """
        if self._run.resumes and (
            done := self._warehouse.completed_days(collection, [day], run_id=self._run.work_id)
        ):
            return self._done_before(collection, Window(day, day), done)
        today = self._today()
        if day != today:
            if done := self._warehouse.completed_days(collection, [day]):
                return self._done_before(collection, Window(day, day), done)
            raise PastSnapshot(
                f"{collection.name}: the API shows only the present, so a snapshot of {day} cannot be taken on {today} "
                f"({self._zones.partition.key}). Materialize the partition {today}; earlier states that were taken are in "
                f"magnetis.{collection.name}_history."
            )
        self._claim(collection)
        [result] = self._commit_behind(self._read_ranges(collection, [Window(day, day)]))
        return result

    def _today(self) -> date:
        return self._warehouse.now().astimezone(self._zones.partition).date()

    def _kept(self, collection: Collection) -> dict[date, CachedWindow]:
        """Return the windows that the work was reading when it was interrupted, by their first day."""
        if not self._run.resumes:
            return {}
        return {window.first: window for window in self._pages(collection).windows()}

    def _pages(self, collection: Collection) -> PageCache:
        fingerprint = request_fingerprint(
            collection,
            self._zones,
            key_fingerprint=self._ledger.key_fingerprint,
            origin=self._origin,
        )
        return self._warehouse.page_cache(collection, self._run.work_id, fingerprint)

    async def _read_ranges(
        self, collection: Collection, ranges: Sequence[Window]
    ) -> AsyncGenerator[_Read, None]:
        for range_ in ranges:
            async with aclosing(self._read_range(collection, range_)) as reads:
                async for read in reads:
                    yield read

    async def _read_range(
        self, collection: Collection, range_: Window
    ) -> AsyncGenerator[_Read, None]:
        kept = await asyncio.to_thread(self._kept, collection)
        pages = self._pages(collection)
        limits = await asyncio.to_thread(self._warehouse.window_limits, collection)
        cut = Cut(range_, self._chunk_rows, limits.most_days, limits.most_rows)
        totals = await asyncio.to_thread(self._warehouse.announced_totals, collection, range_.days)
        suspicions = Suspicions(limits.most_rows, dict.fromkeys(totals))

        def begin(window: Window) -> _Underway:
            begun = kept.pop(window.first, None)
            if begun and begun.last > range_.last:
                begun = None  # of days that are done meanwhile
            if begun:
                window = Window(begun.first, begun.last)
            # without a window each call would read it all again
            whole = begun is not None or window.first == window.last or collection.window is None
            return self._begin(collection, window, begun, suspicions, whole=whole)

        present: _Underway | None = None
        ahead: _Underway | None = None
        try:
            while window := cut.next():
                present, ahead = ahead or begin(window), None
                window = present.window
                if (announced := await present.announced()) is not None and (
                    after := cut.after(window, announced)
                ):
                    ahead = begin(after)
                try:
                    read = await present.task
                except (
                    RequestRejected,
                    ServerUnavailable,
                    Unreachable,
                    ImplausibleResponse,
                ) as refusal:
                    await self._shorten(collection, window, cut, refusal)
                    suspicions.cap = cut.most_rows
                    for left in filter(None, (present, ahead)):
                        await left.leave(at_once=False)
                        await asyncio.to_thread(pages.forget, left.window.days)
                    ahead = None
                    self._thread.tell(
                        f"{collection.name} {window}: {refusal} Trying a shorter window."
                    )
                    continue
                announced = read if isinstance(read, int) else read.reading.announced
                if window == range_:
                    await asyncio.to_thread(self._record_forecast, collection, window, announced)
                if isinstance(read, int):
                    span = cut.too_large(window, read)
                    self._thread.tell(
                        f"{collection.name} {window}: {read} rows announced; reading {span} day(s) at a time"
                    )
                    continue
                if learned := cut.read(window, read.reading.received):
                    await asyncio.to_thread(
                        self._warehouse.learn_longest_window, collection, *learned
                    )
                present = None
                yield read
        except (asyncio.CancelledError, GeneratorExit):
            for left in filter(None, (present, ahead)):
                await left.leave(at_once=True)
            raise
        except BaseException:
            for left in filter(None, (present, ahead)):
                await left.leave(at_once=False)
            raise

    def reconcile(self, collection: Collection, days: Sequence[date]) -> list[DayDifference]:
        """Return the days whose recorded count is wrong: those among `days`, or of the whole table if yesterday is one of them.

        So the nightly load compares the whole table, and a backfill compares its own days.
        """
        nightly = self._today() - timedelta(days=1) in days
        return self._warehouse.reconcile(collection, None if nightly else days)

    def forecast(self, collection: Collection) -> ForecastLine | None:
        """Return what was foreseen for the collection in the run's backfill, and what became of it; None where nothing was."""
        if self._run.backfill_id is None:
            return None
        try:
            lines = report(self._warehouse.engine, self._run.backfill_id)
        except UnknownBackfill:
            return None
        return next((line for line in lines if line.collection == collection.name), None)

    def _record_forecast(self, collection: Collection, range_: Window, rows: int) -> None:
        if self._run.backfill_id and not self._run.resumes:
            days = len(range_.days)
            calls = expected_calls(rows, chunk_rows=self._chunk_rows, days=days)
            record(
                self._warehouse.engine,
                self._run.backfill_id,
                collection.name,
                range_.first,
                range_.last,
                days,
                rows,
                calls,
            )

    async def _shorten(
        self, collection: Collection, window: Window, cut: Cut, refusal: Exception
    ) -> None:
        """Make the next window shorter than the one that was refused or capped; raise `refusal` if that cannot help."""
        if isinstance(refusal, NotConnected):
            raise refusal
        if isinstance(refusal, SearchCapped):
            await self._learn_cap(collection, refusal)
            shortened = cut.capped(window, refusal.rows)
        else:
            at_fault = isinstance(refusal, RequestRejected | ImplausibleResponse)
            shortened = cut.refused(window, str(refusal), at_fault=at_fault)
        if collection.window is None or not shortened:
            raise _as_error(collection, window, refusal) from None

    async def _learn_cap(self, collection: Collection, capped: SearchCapped) -> None:
        """Remember a cap; days that were read from a window of just that size are no longer taken for complete."""
        await asyncio.to_thread(self._warehouse.learn_row_cap, collection, capped.rows, str(capped))
        self._caps.add(capped.rows)
        await asyncio.to_thread(self._doubt_windows, collection)

    def _doubt_windows(self, collection: Collection) -> None:
        for cap in self._caps:
            doubtful = self._warehouse.discard_windows_at_cap(collection, cap)
            self._under_cap.update(self._requested.intersection(doubtful))
            if left := [day for day in doubtful if day not in self._requested]:
                self._thread.tell(
                    f"{collection.name}: {len(left)} days between {left[0]} and {left[-1]} were read under the cap of "
                    f"{cap} rows. They are no longer marked as read: load them again."
                )

    def _begin(
        self,
        collection: Collection,
        window: Window,
        kept: CachedWindow | None,
        suspicions: Suspicions,
        *,
        whole: bool,
    ) -> _Underway:
        reader = WindowReader(
            self._client,
            collection,
            window,
            self._pages(collection),
            zones=self._zones,
            concurrency=self._concurrency,
            progress=self._page_progress(collection, window, len(kept.pages) if kept else 0),
            suspicions=suspicions,
        )
        most_rows = math.inf if whole else int(self._chunk_rows * SLACK)
        task = asyncio.create_task(self._read_window(reader, collection, window, most_rows, kept))
        return _Underway(window, reader, task)

    async def _read_window(
        self,
        reader: WindowReader,
        collection: Collection,
        window: Window,
        most_rows: float,
        kept: CachedWindow | None,
    ) -> _Read | int:
        """Read one window into staging; or return the rows announced where they exceed `most_rows`."""
        started, days = time.monotonic(), (window.first, window.last)
        charged = self._gate.charged[days]
        with ExitStack() as stack:
            # not in another thread: who is cancelled meanwhile would leave an open connection there
            staging = stack.enter_context(self._warehouse.staging(collection))
            reading = await reader.read(
                staging,
                now=await asyncio.to_thread(self._warehouse.now),
                most_rows=most_rows,
                kept=kept,
            )
            if not reading.complete:
                return reading.announced
            return _Read(
                window,
                staging,
                reading,
                self._gate.charged[days] - charged + reading.kept_pages,
                started,
                stack.pop_all(),
            )

    def _commit(self, read: _Read) -> WindowResult:
        window, staging, reading = read.window, read.staging, read.reading
        with read.staged:
            if self._permit and not self._permit.is_fresh():
                self._permit.confirm()
            facts = WindowFacts(
                days=window.days,
                read_at=reading.read_at,
                announced=reading.announced,
                received=reading.received,
                api_calls=read.api_calls,
                bytes=reading.bytes,
                milliseconds=int((time.monotonic() - read.started) * 1000),
                run_id=self._run.work_id,
                read_on=reading.read_at.astimezone(self._zones.partition).date(),
                rules=self._rules(window),
                witness_calls=reading.witness_calls,
            )
            merged = self._warehouse.commit(staging, facts)
            if merged.days:
                self._thread.call(self._advanced)
            return self._result(
                window, facts, reading, merged, staging, time.monotonic() - read.started
            )

    def _result(
        self,
        window: Window,
        facts: WindowFacts,
        reading: Reading,
        merged: MergeResult,
        staging: Staging,
        seconds: float,
    ) -> WindowResult:
        collection = staging.collection
        believed, doubted = self._sorted_doubts(window, merged.doubted)
        elsewhere = [*merged.superseded, *believed]
        known = self._warehouse.completed_days(collection, elsewhere) if elsewhere else {}
        return WindowResult(
            window=window,
            days=_share_out([*merged.days, *known.values()], facts, seconds),
            announced=facts.announced,
            received=facts.received,
            padding=merged.padding,
            quarantined=merged.quarantined,
            api_calls=facts.api_calls,
            bytes=facts.bytes,
            seconds=seconds,
            quota_left=self._ledger.left(self._run.lane),
            rows_held=self._warehouse.count_rows(collection),
            misfits=dict(staging.misfits) | ({"day": merged.moved} if merged.moved else {}),
            unknown=sorted(staging.unknown),
            replaced_characters=reading.replaced_characters,
            witness_calls=facts.witness_calls,
            doubted=doubted,
            changes=self._warehouse.changes(collection, window.first, facts.read_at)
            if merged.days
            else None,
        )

    def _rules(self, window: Window) -> Rules:
        """Return the rules for a window: a long one never empties days, each of which is read alone first."""
        rules = self._warehouse.rules
        alone = len(window.days) == 1
        return (
            rules
            if alone or rules.emptied is Emptied.KEEP
            else replace(rules, emptied=Emptied.DOUBT)
        )

    def _sorted_doubts(
        self, window: Window, doubted: dict[date, Doubt]
    ) -> tuple[list[date], dict[date, Doubt]]:
        """Return the doubted days whose rows simply stay, and those that are reported; others are read again, each alone."""
        gone = {
            day: doubt
            for day, doubt in doubted.items()
            if doubt.reason is not DoubtReason.UNREADABLE
        }
        if self._warehouse.rules.emptied is Emptied.KEEP:
            return list(gone), {day: doubt for day, doubt in doubted.items() if day not in gone}
        if len(window.days) == 1:
            return [], doubted
        again = sorted(gone)[: max(0, MOST_READ_ALONE - len(self._alone))]
        self._alone.update(again)
        if again:
            self._thread.tell(
                f"{window}: {len(again)} days came with far fewer rows than the table holds. Reading each alone."
            )
        return [], {day: doubt for day, doubt in doubted.items() if day not in again}

    def _done_before(
        self, collection: Collection, window: Window, done: dict[date, MergedDay]
    ) -> WindowResult:
        today = self._today()
        days = [
            DayResult(
                day=day,
                rows=done[day].held,
                announced=done[day].announced,
                inserted=done[day].inserted,
                changed=done[day].changed,
                deleted=done[day].deleted,
                api_calls=0,
                bytes=0,
                seconds=0.0,
                age_days=age_days(day, today),
                first_read=done[day].first_read,
            )
            for day in window.days
        ]
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
            rows_held=self._warehouse.count_rows(collection),
            skipped=True,
            changes=self._warehouse.changes(collection, window.first),
        )

    def _page_progress(
        self, collection: Collection, window: Window, kept: int
    ) -> Callable[[int, int], None]:
        last = time.monotonic()
        advanced = False

        def progress(done: int, pages: int) -> None:
            nonlocal last, advanced
            # the pages of a window that has several are kept: of more than were kept before, one is new
            if not advanced and done > kept and pages > 1:
                advanced = True
                self._thread.call(self._advanced)
            if time.monotonic() - last >= PROGRESS_SECONDS:
                last = time.monotonic()
                self._thread.tell(f"{collection.name} {window}: page {done} of {pages}")

        return progress


def _as_error(collection: Collection, window: Window, refusal: Exception) -> Exception:
    if not isinstance(refusal, ImplausibleResponse):
        return refusal
    return IncompleteResponse(
        f"{collection.name} {window}: {refusal} No shorter window can be requested, so these days cannot be read completely. "
        "Nothing was written. Ask Magnetis about the limit, or limit the key's scope to fewer accounts."
    )


def _share_out(days: list[MergedDay], facts: WindowFacts, seconds: float) -> list[DayResult]:
    days = sorted(days, key=lambda day: day.day)
    weights = [day.announced + 1 for day in days]
    calls, size = _divided(facts.api_calls, weights), _divided(facts.bytes, weights)
    return [
        DayResult(
            day=day.day,
            rows=day.held,
            announced=day.announced,
            inserted=day.inserted,
            changed=day.changed,
            deleted=day.deleted,
            api_calls=calls[number],
            bytes=size[number],
            seconds=seconds * weights[number] / sum(weights),
            age_days=age_days(day.day, facts.read_on),
            first_read=day.first_read,
        )
        for number, day in enumerate(days)
    ]


def _divided(total: int, weights: list[int]) -> list[int]:
    """Return whole shares of `total`, in proportion to the weights, that add up to it."""
    ends = [total * part // sum(weights) for part in accumulate(weights)]
    return [end - start for start, end in pairwise([0, *ends])]
