"""Read one range of days window by window, and prefetch the next window."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date

from magnetis_dagster.api import NotConnected, RequestRejected, ServerUnavailable, Unreachable
from magnetis_dagster.catalog import Collection
from magnetis_dagster.ingest.errors import IncompleteResponse
from magnetis_dagster.ingest.run_parts import RunParts
from magnetis_dagster.ingest.window_reader import Progress, WindowReader
from magnetis_dagster.ingest.window_splitter import SLACK, WindowSplitter, expected_calls
from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.ingest.witnesses import (
    SHORTENED,
    ImplausibleResponse,
    SearchCapped,
    Suspicions,
    WindowShortened,
)
from magnetis_dagster.warehouse import CachedWindow, Staging, WindowFacts
from magnetis_dagster.warehouse.forecasts import record

PROGRESS_SECONDS = 5.0
"""Seconds between two progress lines of one window."""

_SHORTER_MAY_HELP = (RequestRejected, ServerUnavailable, Unreachable, ImplausibleResponse)


@dataclass(frozen=True, slots=True)
class StagedWindow:
    """One window whose rows are in staging, ready to be committed."""

    window: Window
    staging: Staging
    facts: WindowFacts
    replaced_characters: int
    started: float
    _resources: ExitStack = field(repr=False)

    def close(self) -> None:
        """Drop the staging table."""
        self._resources.close()


class WindowTask:
    """One window that a task of its own is reading."""

    def __init__(
        self, window: Window, reader: WindowReader, task: "asyncio.Task[StagedWindow | None]"
    ) -> None:
        self.window = window
        self.reader = reader
        self.task = task

    async def announcement(self) -> int | None:
        """Wait until nearly all pages are requested; return the announced rows.

        None if the window failed, or announced more rows than it may have.
        """
        requested = asyncio.create_task(self.reader.nearly_requested.wait())
        try:
            await asyncio.wait((requested, self.task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            requested.cancel()
        failed = self.task.done() and (self.task.cancelled() or self.task.exception())
        if failed or not self.reader.nearly_requested.is_set():
            return None
        return self.reader.announced

    async def stop(self, *, cancel: bool) -> None:
        """End the task; unless `cancel`, receive and cache the pages in flight."""
        if cancel:
            self.task.cancel()
        self.reader.stop()
        await asyncio.wait([self.task])
        # an error of these days is ignored: their next read meets it again
        if not self.task.cancelled() and not self.task.exception() and (read := self.task.result()):
            read.close()


class RangeReader:
    """Reads the windows of one range of one collection into staging."""

    def __init__(
        self,
        parts: RunParts,
        collection: Collection,
        range_: Window,
        on_cap: Callable[[SearchCapped], None],
    ) -> None:
        """`on_cap` is called, in another thread, if the API caps searches."""
        self._parts = parts
        self._collection = collection
        self._range = range_
        self._on_cap = on_cap
        self._pages = parts.page_cache(collection)
        self._cached: dict[date, CachedWindow] = {}
        """Windows that an interrupted run was reading, by their first day."""

    async def windows(self) -> AsyncGenerator[StagedWindow, None]:
        """Yield the windows, oldest first, each as soon as its rows are staged."""
        await asyncio.to_thread(self._prepare)
        current: WindowTask | None = None
        ahead: WindowTask | None = None
        try:
            while window := self._splitter.next_window():
                current, ahead = ahead or self._start(window), None
                ahead = await self._prefetch(current)
                try:
                    staged = await current.task
                except _SHORTER_MAY_HELP as refusal:
                    await self._shorten(current.window, refusal)
                    await self._discard(current, ahead)
                    ahead = None
                    continue
                await self._resize(current, staged)
                if staged:
                    current = None
                    yield staged
        except BaseException as error:
            cancel = isinstance(error, asyncio.CancelledError | GeneratorExit)
            for task in filter(None, (current, ahead)):
                await task.stop(cancel=cancel)
            raise

    def _prepare(self) -> None:
        warehouse, collection = self._parts.warehouse, self._collection
        if self._parts.run.resumes:
            self._cached = {window.first: window for window in self._pages.windows()}
        limits = warehouse.window_limits(collection)
        self._splitter = WindowSplitter(
            self._range, self._parts.chunk_rows, limits.most_days, limits.most_rows
        )
        totals = warehouse.announced_totals(collection, self._range.days)
        self._suspicions = Suspicions(
            limits.most_rows, dict.fromkeys(totals), shortens=limits.reason.startswith(SHORTENED)
        )

    def _start(self, window: Window) -> WindowTask:
        """Start to read a window, or the cached one that begins on the same day."""
        cached = self._cached.pop(window.first, None)
        if cached and cached.last > self._range.last:
            cached = None  # some of its days were committed meanwhile
        if cached:
            window = Window(cached.first, cached.last)
        is_divisible = window.first != window.last and self._collection.window is not None
        # a route without a window returns all its rows to each request
        most_rows = int(self._parts.chunk_rows * SLACK) if is_divisible and not cached else math.inf
        reader = WindowReader(
            self._parts,
            self._collection,
            window,
            self._pages,
            self._page_progress(window, len(cached.pages) if cached else 0),
            self._suspicions,
        )
        task = asyncio.create_task(self._stage(reader, window, most_rows, cached))
        return WindowTask(window, reader, task)

    async def _prefetch(self, current: WindowTask) -> WindowTask | None:
        """Start the window after `current` while the last pages of `current` arrive."""
        announced = await current.announcement()
        if announced is None:
            return None
        after = self._splitter.peek(current.window, announced)
        return self._start(after) if after else None

    async def _stage(
        self,
        reader: WindowReader,
        window: Window,
        most_rows: float,
        cached: CachedWindow | None,
    ) -> StagedWindow | None:
        """Read one window into staging; None if it announces more than `most_rows`."""
        started = time.monotonic()
        with ExitStack() as stack:
            # not in another thread: a cancelled task would leave an open session there
            staging = stack.enter_context(self._parts.warehouse.staging(self._collection))
            now = await asyncio.to_thread(self._parts.warehouse.now)
            facts = await reader.read(staging, now=now, most_rows=most_rows, cached=cached)
            if facts is None:
                return None
            replaced = reader.replaced_characters
            return StagedWindow(window, staging, facts, replaced, started, stack.pop_all())

    async def _resize(self, task: WindowTask, staged: StagedWindow | None) -> None:
        """Size the next window by the rows of this one, or by its announcement."""
        window = task.window
        announced = staged.facts.announced if staged else task.reader.announced or 0
        if window == self._range:
            await asyncio.to_thread(self._record_forecast, announced)
        if staged is None:
            days = self._splitter.resize(window, announced)
            self._report(window, f"{announced} rows announced; reading {days} day(s) at a time")
        elif limit := self._splitter.advance(window, staged.facts.received):
            learn = self._parts.warehouse.learn_longest_window
            await asyncio.to_thread(learn, self._collection, *limit)

    async def _shorten(self, window: Window, refusal: Exception) -> None:
        """Shorten a refused or capped window; raise `refusal` if that cannot help."""
        if isinstance(refusal, NotConnected):
            raise refusal
        if isinstance(refusal, SearchCapped):
            await asyncio.to_thread(self._on_cap, refusal)
            is_shorter = self._splitter.limit_rows(window, refusal.rows)
        else:
            at_fault = isinstance(refusal, RequestRejected | ImplausibleResponse)
            is_shorter = self._splitter.halve(window, str(refusal), at_fault=at_fault)
        if self._collection.window is None or not is_shorter:
            if isinstance(refusal, WindowShortened):
                # so that the next load verifies a single day too
                learn = self._parts.warehouse.learn_longest_window
                await asyncio.to_thread(learn, self._collection, 1, str(refusal))
            if isinstance(refusal, ImplausibleResponse):
                refusal = IncompleteResponse(self._collection, window, refusal)
            raise refusal from None
        self._suspicions.cap = self._splitter.most_rows
        self._report(window, f"{refusal} Trying a shorter window.")

    async def _discard(self, *tasks: WindowTask | None) -> None:
        """Stop the tasks and drop their cached pages."""
        for task in filter(None, tasks):
            await task.stop(cancel=False)
            await asyncio.to_thread(self._pages.forget, task.window.days)

    def _record_forecast(self, rows: int) -> None:
        run, range_ = self._parts.run, self._range
        if run.backfill_id and not run.resumes:
            days = len(range_.days)
            record(
                self._parts.warehouse.engine,
                run.backfill_id,
                self._collection.name,
                range_.first,
                range_.last,
                days,
                rows,
                expected_calls(rows, chunk_rows=self._parts.chunk_rows, days=days),
                connection_name=self._parts.warehouse.connection_name,
            )

    def _page_progress(self, window: Window, cached_pages: int) -> Progress:
        last = time.monotonic()
        has_advanced = False

        def progress(received: int, announced: int) -> None:
            nonlocal last, has_advanced
            # pages are cached unless the window has one only; more than before: one is new
            if not has_advanced and received > cached_pages and announced > 1:
                has_advanced = True
                self._parts.threads.call(self._parts.on_advance)
            if time.monotonic() - last >= PROGRESS_SECONDS:
                last = time.monotonic()
                self._report(window, f"page {received} of {announced}")

        return progress

    def _report(self, window: Window, text: str) -> None:
        self._parts.threads.report(f"{self._collection.name} {window}: {text}")
