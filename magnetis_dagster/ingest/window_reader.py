"""Read one window completely.

Page 1 announces the list, the other pages follow concurrently, and several checks must agree at
the end. `api/pagination.py` states how pages form a list, `window_verifier.py` how it is verified.
"""

import asyncio
import math
from collections.abc import Callable
from datetime import datetime

from magnetis_dagster.api import (
    CHARGED_AHEAD,
    ApiCall,
    Page,
    RequestRejected,
    RouteUnavailable,
)
from magnetis_dagster.catalog import Collection
from magnetis_dagster.ingest.errors import IncompleteWindow, RepeatedIds, UnplaceableRows
from magnetis_dagster.ingest.run_parts import RunParts
from magnetis_dagster.ingest.window_pages import WindowPages, ids_of
from magnetis_dagster.ingest.window_verifier import WindowVerifier
from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.ingest.witnesses import ImplausibleResponse, Suspicions
from magnetis_dagster.warehouse import CachedWindow, PageCache, RowCounts, Staging, WindowFacts

ATTEMPTS = 3
"""Attempts to read a window whose pages contradict each other."""

Progress = Callable[[int, int], None]
"""Called with the numbers of received and of announced pages."""


class WindowReader:
    """Reads one window of a collection into staging, with several pages in flight.

    Unless a window has one page only, its pages are cached until it is committed, and a resumed
    read begins with the cached ones.
    """

    def __init__(
        self,
        parts: RunParts,
        collection: Collection,
        window: Window,
        cache: PageCache,
        progress: Progress,
        suspicions: Suspicions,
    ) -> None:
        self._parts = parts
        self._client = client = parts.client
        self._collection = collection
        self._window = window
        self._cache = cache
        self._progress = progress
        self._suspicions = suspicions
        self._stopped = asyncio.Event()
        parameters = window.parameters(collection, parts.zones)
        days = (window.first, window.last)
        self._call = call = ApiCall(collection.name, collection.route, parameters, days=days)
        self._verifier = WindowVerifier(client, call, collection, window, parts.zones, suspicions)
        self.replaced_characters = 0
        self.announced: int | None = None
        """Rows that page 1 announces; None before it arrives."""
        self.nearly_requested = asyncio.Event()
        """Set when the announcement is accepted and few pages remain to be requested.

        The next window may start then. As many pages remain as are in flight, so that the
        announcement of the next window arrives before a place is idle.
        """

    def stop(self) -> None:
        """Request no more pages: `read` raises Stopped once those in flight are received."""
        self._stopped.set()

    async def read(
        self,
        staging: Staging,
        *,
        now: datetime,
        most_rows: float = math.inf,
        cached: CachedWindow | None = None,
    ) -> WindowFacts | None:
        """Read the window, beginning with the pages of `cached`.

        Returns the facts without `milliseconds`, `run_id` and rules; their API calls include the
        cached pages. Returns None, after page 1, if it announces more than `most_rows`.

        Raises: SearchCapped or WindowShortened if a shorter window may help; IncompleteWindow,
            FilterIgnored, RepeatedIds, UnplaceableRows, Stopped, QuotaExhausted, and the errors of
            api/ and database/.
        """
        pages = WindowPages(
            self._client, self._call, self._window, staging, self._cache, now, self._stopped
        )
        days, size, fault = self._window.days, 0, ""
        charged = self._charged()
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.to_thread(staging.clear)
                await asyncio.to_thread(self._cache.forget, days)
                cached = None
            is_accepted = await self._fetch_all(pages, cached, most_rows)
            await self._client.wait_for_settlements()
            if not is_accepted:
                return None
            size += pages.bytes
            tally = await asyncio.to_thread(staging.deduplicate)
            if staging.conflicting:
                raise RepeatedIds(self._collection, self._window, staging.conflicting)
            found = await self._find_fault(pages, staging, tally)
            await self._client.wait_for_settlements()
            if found is None:
                self.replaced_characters = pages.replaced_characters
                return self._facts(pages, tally, self._charged() - charged, size)
            fault = found
        received = staging.row_counts.received
        announced = pages.pagination.announced_rows(received)
        raise IncompleteWindow(self._collection, self._window, announced, received, fault, ATTEMPTS)

    async def _fetch_all(
        self, pages: WindowPages, cached: CachedWindow | None, most_rows: float
    ) -> bool:
        """Fetch and stage all pages; return False, after page 1, if it announces too many rows."""
        first = await pages.begin(cached)
        self.announced = first.total
        if (first.total or 0) > most_rows:
            self._suspicions.totals.setdefault(first.total or 0, self._window)
            return False
        if first.rows:
            await self._verifier.verify_total(first, pages.staging)
        await pages.start_caching(first)
        await pages.stage(1, first)
        await self._fetch_others(pages)
        return True

    def _charged(self) -> int:
        return self._parts.guard.charged[self._call.days]

    def _facts(self, pages: WindowPages, tally: RowCounts, charged: int, size: int) -> WindowFacts:
        return WindowFacts(
            days=self._window.days,
            read_at=pages.read_at,
            read_on=pages.read_at.astimezone(self._parts.zones.partition).date(),
            announced=pages.pagination.announced_rows(tally.received),
            received=tally.received,
            api_calls=charged + len(pages.reused),
            witness_calls=self._verifier.calls,
            bytes=size,
            milliseconds=0,
            run_id=None,
        )

    async def _find_fault(
        self, pages: WindowPages, staging: Staging, tally: RowCounts
    ) -> str | None:
        """Return why the pages do not form one complete list; None if they do.

        Raises: ImplausibleResponse if a shorter window may help; UnplaceableRows.
        """
        pagination = pages.pagination
        fault = pagination.contradiction(tally.received, staging.repeated)
        fault = fault or await self._verifier.recheck_pages(pages, staging)
        cut = None if fault else await self._verifier.find_cut(pages, staging)
        fault = fault or cut
        if fault is None:
            if tally.unplaced and not tally.by_day:
                raise UnplaceableRows(self._collection, self._window, tally, staging.members)
            self._verifier.verify_row_count(pagination, tally.received)
            await self._verifier.verify_edges(staging, tally)
            return None
        # deep pages of a long list may never be served; a shorter window has none
        shorter_may_help = cut or (pagination.has_empty_page and pagination.total)
        if shorter_may_help and self._collection.window and len(self._window.days) > 1:
            await self._client.wait_for_settlements()
            raise ImplausibleResponse(f"The API {fault.removeprefix('the API ')}.")
        return fault

    async def _fetch_others(self, pages: WindowPages) -> None:
        """Fetch and stage announced pages concurrently, others one by one."""
        pagination = pages.pagination
        last = pagination.announced_pages
        self._progress(1, last)
        if last <= 1:
            self.nearly_requested.set()
        else:
            await self._fetch_concurrently(pages, last)
        seen = pages.first_ids
        while not pagination.has_gap and (number := pagination.next_page()) is not None:
            try:
                page, is_new = await pages.fetch(number)
            except (RequestRejected, RouteUnavailable):
                # some APIs answer an unannounced page after the last one with 404 or 422
                pagination.mark_end()
                return
            ids = await asyncio.to_thread(ids_of, pages.staging, page)
            if ids and None not in ids and ids <= seen:
                pagination.mark_end(page)
                return
            seen |= ids
            await pages.stage(number, page, is_new=is_new)
            self._progress(number, number)

    async def _fetch_concurrently(self, pages: WindowPages, last: int) -> None:
        """Fetch and stage the pages 2 to `last`; request none after a page without rows."""
        numbers = iter(range(2, last + 1))
        staged = 1
        failures: list[Exception] = []
        fetched: asyncio.Queue[tuple[int, Page, bool] | None] = asyncio.Queue(2)

        async def fetch() -> None:
            for number in numbers:
                if pages.pagination.has_gap or failures:
                    return
                if number >= last - self._parts.concurrency:
                    self.nearly_requested.set()
                try:
                    page = await pages.fetch(number)
                except Exception as error:  # noqa: BLE001 - raised below
                    failures.append(error)
                else:
                    await fetched.put((number, *page))

        async def stage() -> None:
            nonlocal staged
            while item := await fetched.get():
                number, page, is_new = item
                try:
                    await pages.stage(number, page, is_new=is_new)
                except Exception as error:  # noqa: BLE001 - raised below
                    failures.append(error)
                else:
                    staged += 1
                    self._progress(staged, last)

        # after a failure, the pages in flight are awaited and cached: they are charged already
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stage())
            fetchers = min(self._parts.concurrency + CHARGED_AHEAD, last - 1)
            await asyncio.gather(*(fetch() for _ in range(fetchers)))
            await fetched.put(None)
        if failures:
            raise failures[0]
