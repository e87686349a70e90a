"""Reading one window whole: page 1 announces, the other pages follow concurrently, and all that was announced must arrive."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial

from magnetis_dagster.api import CHARGED_AHEAD, Call, MagnetisClient, Page, read_envelope
from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import NeedsChange, TryAgain
from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.warehouse import KeptPages, KeptWindow, Staging, Tally

READS = 3
"""A window whose rows move while they are read is read again, at most twice."""

LOADERS = 2
"""Pages written to staging at once: one is read by its declaration while the other waits for PostgreSQL."""

Progress = Callable[[int, int], None]
"""Told the pages received and the pages announced."""


class IncompleteWindow(TryAgain):
    """The API announced another number of rows than it returned, three times in a row; nothing was written."""

    def __init__(self, collection: Collection, window: Window, announced: int, received: int) -> None:
        self.announced = announced
        self.received = received
        what = (
            f"the API announced {announced} rows and returned {received} distinct ones"
            if announced != received
            else f"the API returned {received} rows, but its pages disagreed on the total or came empty before the announced end"
        )
        super().__init__(
            f"{collection.name} {window}: {what}, {READS} times in a row. Nothing was written for these days. "
            "Rows may be moving while they are read: run the days again later."
        )


class FilterIgnored(NeedsChange):
    """An events route returned rows far outside the asked window: it does not take the window's parameters."""


class Unplaceable(NeedsChange):
    """No row of the window can be placed: the declared members for id or time are not in the answer."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The reading was told to stop."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a window found."""

    announced: int
    received: int
    bytes: int
    replaced_characters: int
    read_at: datetime
    """Nothing of it is older."""
    kept_pages: int
    """Pages that an interrupted reading had left."""
    complete: bool
    """False: only the announcement was read, since it exceeds what was allowed."""


class WindowReader:
    """Reads one window of a collection into staging, with `concurrency` pages in flight.

    Pages of a window that has several are kept until it is committed; a reading that was interrupted begins with those it had.
    """

    def __init__(
        self,
        client: MagnetisClient,
        collection: Collection,
        window: Window,
        pages: KeptPages,
        *,
        concurrency: int,
        progress: Progress,
    ) -> None:
        self._client = client
        self._collection = collection
        self._window = window
        self._pages = pages
        self._concurrency = concurrency
        self._progress = progress
        self._stopped = asyncio.Event()
        self.announced: int | None = None
        """Rows announced by the first page; None before it."""
        self.nearly_asked = asyncio.Event()
        """Set once the announcement is accepted and few pages are left to be asked: the window after it may begin.

        As many as are in flight, so that the announcement of that window comes before places stand empty.
        """

    def stop(self) -> None:
        """Ask no further page: `read` raises Stopped once those under way are received and kept."""
        self._stopped.set()

    async def read(
        self,
        parameters: dict[str, str],
        staging: Staging,
        *,
        now: datetime,
        most_rows: float = math.inf,
        kept: KeptWindow | None = None,
    ) -> Reading:
        """Read the window whole, or only its announcement where that exceeds `most_rows`; begin with the pages of `kept`.

        Raises IncompleteWindow, FilterIgnored, Unplaceable, Stopped, QuotaExhausted and the errors of api/ and database/.
        """
        window = self._window
        call = Call(self._collection.name, self._collection.route, parameters, days=(window.first, window.last))
        attempt = _Attempt(self._client, call, staging, self._pages, window.days, now, self._stopped)
        size = replaced = announced = received = 0
        for number in range(READS):
            if number:
                await asyncio.to_thread(staging.clear)
                await asyncio.to_thread(self._pages.forget, window.days)
                kept = None
            attempt.begin(kept)
            first = await attempt.fetch(1)
            if (first.total or 0) > most_rows:
                await self._client.settled()
                return Reading(first.total or 0, 0, attempt.bytes, 0, now, 0, complete=False)
            self.announced = first.total
            await attempt.keep_from_now(first)
            if self._collection.window is not None:
                self._refuse_ignored_filter(attempt)
            if first.last_page is None and first.total is None:
                ended = await self._one_by_one(attempt, first)
            else:
                ended = await self._concurrently(attempt, pages_announced(first))
            size, replaced = size + attempt.bytes, attempt.replaced
            await self._client.settled()
            tally = await asyncio.to_thread(staging.settle)
            received = tally.received
            announced = received if first.total is None else first.total
            if received == announced and len(attempt.totals) == 1 and (ended or first.total is not None):
                self._refuse_unplaceable(staging, tally)
                return Reading(
                    announced,
                    received,
                    size,
                    replaced,
                    kept.read_at if kept else now,
                    len(kept.pages) if kept else 0,
                    complete=True,
                )
        raise IncompleteWindow(self._collection, window, announced, received)

    async def _one_by_one(self, attempt: "_Attempt", page: Page) -> bool:
        """Read up to a page that is not full, or that says so itself; return False where more was announced than came."""
        number, former = 1, None
        # a route that takes no `page` gives the same rows for ever
        while (
            page.rows
            and page.rows != former
            and (page.has_next or (page.has_next is None and len(page.rows) >= attempt.call.limit))
        ):
            number, former = number + 1, page.rows
            page = await attempt.fetch(number)
            self._progress(number, number)
        return not page.has_next

    async def _concurrently(self, attempt: "_Attempt", last: int) -> bool:
        """Read the pages 2 to `last`; return False where one came empty: nothing behind it is asked."""
        numbers = iter(range(2, last + 1))
        done = 1
        failures: list[Exception] = []
        received: asyncio.Queue[tuple[int, Page, bool] | None] = asyncio.Queue(LOADERS)
        self._progress(done, last)
        if last <= 1:
            self.nearly_asked.set()

        async def receive() -> None:
            for number in numbers:
                if attempt.empty or failures:
                    return
                if number >= last - self._concurrency:
                    self.nearly_asked.set()
                try:
                    page = await attempt.receive(number)
                except Exception as error:  # noqa: BLE001 - raised below
                    failures.append(error)
                else:
                    await received.put((number, *page))

        async def load() -> None:
            nonlocal done
            while page := await received.get():
                try:
                    await attempt.load(*page)
                except Exception as error:  # noqa: BLE001 - raised below
                    failures.append(error)
                else:
                    done += 1
                    self._progress(done, last)

        # where one page fails, or finds no call left, those under way are paid for already: they are waited for and kept
        async with asyncio.TaskGroup() as loaders:
            for _ in range(LOADERS):
                loaders.create_task(load())
            await asyncio.gather(*(receive() for _ in range(min(self._concurrency + CHARGED_AHEAD, last - 1))))
            for _ in range(LOADERS):
                await received.put(None)
        if failures:
            raise failures[0]
        return last <= 1 or not attempt.empty

    def _refuse_ignored_filter(self, attempt: "_Attempt") -> None:
        window = self._window
        near = timedelta(days=2)
        far = [day for day in attempt.days if day < window.first - near or day > window.last + near]
        if len(far) * 2 > len(attempt.days):
            raise FilterIgnored(
                f"{self._collection.name} {window}: {len(far)} of {len(attempt.days)} rows of the first page lie days outside the "
                f"asked window ({min(far)} to {max(far)}): the route {self._collection.route} seems not to take the parameters "
                f"{self._collection.window.start if self._collection.window else ''}/"
                f"{self._collection.window.end if self._collection.window else ''}. `magnetis probe` shows what it does; in "
                f"MAGNETIS_CONFIG, set collections.{self._collection.name}.window to the right names, or to null to read it whole."
            )

    def _refuse_unplaceable(self, staging: Staging, tally: Tally) -> None:
        if tally.unplaced and not tally.by_day:
            why = "; ".join(f"{reason} ({number} rows)" for reason, number in sorted(tally.unplaced.items()))
            raise Unplaceable(
                f"{self._collection.name} {self._window}: none of the {tally.received} rows received can be placed: {why}. "
                f"Members of the rows: {', '.join(sorted(staging.members)[:40])}. Name the right ones in MAGNETIS_CONFIG "
                f"(collections.{self._collection.name}.time_fields); `magnetis probe` shows them too. Nothing was written."
            )


class _Attempt:
    """The pages of one read of one window."""

    def __init__(
        self,
        client: MagnetisClient,
        call: Call,
        staging: Staging,
        pages: KeptPages,
        days: list[date],
        now: datetime,
        stopped: asyncio.Event,
    ) -> None:
        self._client = client
        self.call = call
        self._staging = staging
        self._pages = pages
        self._asked = days
        self._now = now
        self._stopped = stopped
        self.begin(None)

    def begin(self, kept: KeptWindow | None) -> None:
        self.bytes = self.replaced = 0
        self.empty = False
        """Whether a page came without rows."""
        self.totals: set[int | None] = set()
        self.days: list[date] = []
        self._kept = kept.pages if kept else frozenset[int]()
        self._keeps = False

    async def keep_from_now(self, first: Page) -> None:
        """Keep the first page, unless it is the only one, and those that follow."""
        if first.last_page == 1 or not first.rows:
            return
        self._keeps = True
        if 1 not in self._kept:
            await self.keep(1, first)

    async def keep(self, number: int, page: Page) -> None:
        """Keep a page before it is loaded."""
        await asyncio.to_thread(self._pages.keep, self._asked, number, page.body, self._now)

    async def fetch(self, number: int) -> Page:
        """Receive a page and load it."""
        page, fresh = await self.receive(number)
        self.days = await self.load(number, page, fresh)
        return page

    async def receive(self, number: int) -> tuple[Page, bool]:
        """Return a page, and whether it came from the API just now. Raises Stopped, and what the client raises."""
        if self._stopped.is_set():
            raise Stopped
        body = await asyncio.to_thread(self._pages.body, self._asked, number) if number in self._kept else None
        fresh = body is None
        if body is None:
            page = await self._client.page(replace(self.call, page=number), partial(self.keep, number) if self._keeps else None)
        else:
            page = read_envelope(body, self.call.limit)
        self.empty = self.empty or not page.rows
        self.totals.add(page.total)
        self.bytes += page.bytes
        self.replaced += page.replaced_characters
        return page, fresh

    async def load(self, number: int, page: Page, fresh: bool) -> list[date]:
        """Load a page into staging, and keep it where it is not kept yet; return the days of its rows."""
        return await asyncio.to_thread(self._load, number, page, keep=fresh and self._keeps)

    def _load(self, number: int, page: Page, *, keep: bool) -> list[date]:
        kept = self._pages.keeping(self._asked, number, page.body, self._now) if keep else None
        return self._staging.add(page.rows, kept)


def pages_announced(first: Page) -> int:
    """Return how many pages the first one announces."""
    if first.last_page is not None:
        return first.last_page
    return math.ceil((first.total or 0) / max(1, len(first.rows)))
