"""Reading one window whole: page 1 announces, the other pages follow concurrently, and several witnesses must agree at the end.

How pages form a list stands in `pagination.py`, what makes an answer suspicious in `witnesses.py`.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial

from magnetis_dagster.api import (
    CHARGED_AHEAD,
    ApiCall,
    MagnetisClient,
    Page,
    RequestRejected,
    RouteUnavailable,
    read_envelope,
)
from magnetis_dagster.api.pagination import Pagination
from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.ingest.windows import PADDING, Window, Zones, middle_of, parameters_between
from magnetis_dagster.ingest.witnesses import (
    FilterWatch,
    ImplausibleResponse,
    SearchCapped,
    Suspicions,
    WindowShortened,
    empty_edges,
    looks_chosen,
    rechecked_pages,
)
from magnetis_dagster.warehouse import CachedWindow, PageCache, Staging, Tally

READS = 3
"""A window whose pages contradict each other is read again, at most twice."""

MARGIN_ROWS = 2
"""Rows, or one in a hundred, that two parts may announce more than the whole: rows at the division, and late ones."""

SMALLEST_PART = timedelta(hours=1)
"""An hour is not divided: if all rows of a window lie in one, each step there would cost two requests for little."""

LOADERS = 2
"""Pages written to staging concurrently: one is read by its declaration while the other waits for PostgreSQL."""

Progress = Callable[[int, int], None]
"""Called with the pages received and the pages announced."""


class IncompleteWindow(TransientError):
    """The pages of a window did not form one complete list, three times in a row; nothing was written."""

    def __init__(
        self, collection: Collection, window: Window, announced: int, received: int, cause: str
    ) -> None:
        self.announced = announced
        self.received = received
        super().__init__(
            f"{collection.name} {window}: {cause}, {READS} times in a row. Nothing was written for these days; "
            "load them again later."
        )


class FilterIgnored(PermanentError):
    """An events route returned rows far outside the requested window: it ignores one of the window's parameters."""


class RepeatedIds(PermanentError):
    """One page contains an id twice: the declared id does not identify a row."""


class UnplaceableRows(PermanentError):
    """No row of the window can be placed: the declared members for id or time are not in the answer."""


class Stopped(Exception):
    """The caller stopped the read."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading a window."""

    announced: int
    received: int
    """Distinct rows."""
    bytes: int
    replaced_characters: int
    read_at: datetime
    """Start of the read, UTC: none of its rows is older."""
    kept_pages: int
    """Pages that an interrupted read had left."""
    complete: bool
    """False: only the announcement was read, since it exceeds the allowed rows."""
    witness_calls: int = 0
    """API calls that only verified the answer."""


@dataclass(slots=True)
class _Witnesses:
    """The requests that verify one window, counted."""

    client: MagnetisClient
    call: ApiCall
    calls: int = 0

    async def page(self, **changes: object) -> Page:
        """Request a page of the window's call with `changes`."""
        self.calls += 1
        return await self.client.page(replace(self.call, **changes))  # type: ignore[arg-type]

    async def one_row(self, parameters: dict[str, str]) -> Page:
        """Request one row with `parameters`, or a page if the API does not accept so small a limit."""
        try:
            return await self.page(parameters=parameters, limit=1)
        except RequestRejected:
            return await self.page(parameters=parameters)


class WindowReader:
    """Reads one window of a collection into staging, with `concurrency` pages in flight.

    Pages of a window that has several are kept until it is committed; a resumed read begins with those.
    """

    def __init__(
        self,
        client: MagnetisClient,
        collection: Collection,
        window: Window,
        pages: PageCache,
        *,
        zones: Zones,
        concurrency: int,
        progress: Progress,
        suspicions: Suspicions,
    ) -> None:
        self._client = client
        self._collection = collection
        self._window = window
        self._zones = zones
        self._pages = pages
        self._concurrency = concurrency
        self._progress = progress
        self._suspicions = suspicions
        self._stopped = asyncio.Event()
        parameters = window.parameters(collection, zones)
        self._call = ApiCall(
            collection.name, collection.route, parameters, days=(window.first, window.last)
        )
        self._witnesses = _Witnesses(client, self._call)
        self.announced: int | None = None
        """Rows announced by the first page; None before it."""
        self.nearly_asked = asyncio.Event()
        """Set once the announcement is accepted and few pages are left to request: the next window may begin.

        As many as are in flight, so that the announcement of that window comes before places stand empty.
        """

    def stop(self) -> None:
        """Request no further page: `read` raises Stopped once those in flight are received and kept."""
        self._stopped.set()

    async def read(
        self,
        staging: Staging,
        *,
        now: datetime,
        most_rows: float = math.inf,
        kept: CachedWindow | None = None,
    ) -> Reading:
        """Read the window whole, or only its announcement if that exceeds `most_rows`; begin with the pages of `kept`.

        Raises SearchCapped and WindowShortened (shorter windows may help), IncompleteWindow, FilterIgnored, RepeatedIds, UnplaceableRows, Stopped,
        QuotaExhausted and the errors of api/ and database/.
        """
        attempt = _Attempt(
            self._client,
            self._call,
            self._window,
            staging,
            self._pages,
            now,
            self._stopped,
            self._filter_ignored,
        )
        size = distinct = 0
        cause = ""
        for number in range(READS):
            if number:
                await asyncio.to_thread(staging.clear)
                await asyncio.to_thread(self._pages.forget, self._window.days)
                kept = None
            first = await attempt.begin(kept)
            pagination = attempt.pagination
            if (first.total or 0) > most_rows:
                self._suspicions.totals.setdefault(first.total or 0, self._window)
                await self._client.wait_for_settlements()
                return Reading(
                    first.total or 0,
                    0,
                    attempt.bytes,
                    0,
                    now,
                    0,
                    complete=False,
                    witness_calls=self._witnesses.calls,
                )
            if first.rows:
                await self._doubt_total(first, staging)
            self.announced = first.total
            await attempt.keep_from_now(first)
            await attempt.load(1, first)
            await self._fetch_others(attempt)
            size += attempt.bytes
            await self._client.wait_for_settlements()
            tally = await asyncio.to_thread(staging.settle)
            self._refuse_repeated_ids(staging)
            distinct = tally.received
            found = pagination.contradiction(distinct, staging.repeated) or await self._recheck(
                attempt, staging
            )
            lacks_rows = None if found else await self._doubt_end(attempt, staging)
            found = found or lacks_rows
            if found is None:
                self._refuse_unplaceable(staging, tally)
                self._doubt_rows(pagination, distinct)
                await self._doubt_edges(staging, tally)
                await self._client.wait_for_settlements()
                return Reading(
                    pagination.announced(distinct),
                    distinct,
                    size,
                    attempt.replaced,
                    attempt.read_at,
                    len(attempt.kept),
                    complete=True,
                    witness_calls=self._witnesses.calls,
                )
            cause = found
            # deep pages of a long list may never be served; a shorter window has none
            cut = lacks_rows or (pagination.starved and pagination.total)
            if cut and self._collection.window and len(self._window.days) > 1:
                await self._client.wait_for_settlements()
                raise ImplausibleResponse(f"The API {cause.removeprefix('the API ')}.")
        raise IncompleteWindow(
            self._collection, self._window, attempt.pagination.announced(distinct), distinct, cause
        )

    async def _fetch_others(self, attempt: "_Attempt") -> None:
        """Fetch and load the announced pages concurrently, then those that nothing announced, one by one."""
        pagination = attempt.pagination
        last = pagination.announced_pages
        self._progress(1, last)
        if last <= 1:
            self.nearly_asked.set()
        else:
            await self._concurrently(attempt, last)
        seen = attempt.first_ids
        while not pagination.interrupted and (number := pagination.following()) is not None:
            try:
                page, fresh = await attempt.receive(number)
            except (RequestRejected, RouteUnavailable):
                # Some APIs answer a page after the last one with 404 or 422; nothing announced this page.
                pagination.end()
                return
            ids = await asyncio.to_thread(_ids, attempt.staging, page)
            if ids and None not in ids and ids <= seen:
                pagination.end(page)
                return
            seen |= ids
            await attempt.load(number, page, fresh=fresh)
            self._progress(number, number)

    async def _concurrently(self, attempt: "_Attempt", last: int) -> None:
        """Fetch the pages 2 to `last`; once one comes without rows, no page after it is requested."""
        numbers = iter(range(2, last + 1))
        done = 1
        failures: list[Exception] = []
        received: asyncio.Queue[tuple[int, Page, bool] | None] = asyncio.Queue(LOADERS)

        async def receive() -> None:
            for number in numbers:
                if attempt.pagination.interrupted or failures:
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
            while item := await received.get():
                number, page, fresh = item
                try:
                    await attempt.load(number, page, fresh=fresh)
                except Exception as error:  # noqa: BLE001 - raised below
                    failures.append(error)
                else:
                    done += 1
                    self._progress(done, last)

        # if one page fails, or no API call is left, those in flight are paid for already: they are awaited and kept
        async with asyncio.TaskGroup() as loaders:
            for _ in range(LOADERS):
                loaders.create_task(load())
            await asyncio.gather(
                *(receive() for _ in range(min(self._concurrency + CHARGED_AHEAD, last - 1)))
            )
            for _ in range(LOADERS):
                await received.put(None)
        if failures:
            raise failures[0]

    # --- witnesses

    async def _doubt_total(self, first: Page, staging: Staging) -> None:
        """Raise SearchCapped if the announced total is a cap, FilterIgnored if a bound is ignored and rows outside come.

        A suspicious total costs two requests if the rows lie in both halves of the window, two more for each time that they do not.
        """
        cap, total = self._suspicions.cap, first.total
        if total is None or self._collection.window is None:
            return
        if cap is not None and total > cap:
            self._suspicions.cap = cap = None  # a capped search would not announce more
        at_cap = total == cap
        if at_cap and len(self._window.days) > 1:
            raise SearchCapped(total)
        if not self._suspicions.doubts(self._window, total) and not at_cap:
            return
        start, end = self._window.bounds(self._zones.partition)
        start, end = start - PADDING, end + PADDING
        if not await self._exceeds(total, start, end):
            self._suspicions.trusted.add(total)
            return
        # two parts may exceed the whole for another reason: a bound that the route ignores
        second = timedelta(seconds=1)
        ignored = (
            await self._total(end - second, end) == total,
            await self._total(start, start + second) == total,
        )
        if not any(ignored):
            await self._require_cap(total, start, end)
            return
        moments = staging.reader.read_all(
            [row for row in first.rows if isinstance(row, dict)]
        ).occurred_at
        if any(moment is not None and not start <= moment <= end for moment in moments):
            raise self._filter_ignored(
                f"a window of one second announces {total} rows, as the whole window does", ignored
            )
        self._suspicions.trusted.add(total)

    async def _require_cap(self, total: int, start: datetime, end: datetime) -> None:
        """Raise SearchCapped unless something else explains that two parts of the window announce more than the whole.

        A filter by days counts a divided day twice, one by overlaps counts the rows at the division twice, and a
        window that grows announces more when it is asked again.
        """
        noon = middle_of(start, end, self._zones.partition) + timedelta(
            hours=12 if end - start > timedelta(days=2) else 0
        )
        by_days = await self._total(noon, noon + timedelta(seconds=1)) or 0
        if by_days * 10 < total and await self._total(start, end) == total:
            raise SearchCapped(total)
        self._suspicions.trusted.add(total)

    async def _exceeds(self, total: int, start: datetime, end: datetime) -> bool:
        """Return whether two parts of an interval announce more rows together than the `total` of the whole.

        If all rows lie in one part, that part announces `total` too, and is divided in turn.
        """
        while end - start > SMALLEST_PART:
            # whether the API includes bounds is not documented: the second part begins a second after the first ends
            middle = middle_of(start, end, self._zones.partition)
            parts = [(start, middle - timedelta(seconds=1)), (middle, end)]
            asked = [
                parameters_between(self._collection, self._zones, *part)
                for part in [*parts, (start, end)]
            ]
            if asked[2] in asked[:2]:
                return False  # the format of the parameters has no times
            first, second = [await self._total(*part) for part in parts]
            if first is None or second is None:
                return False
            margin = max(MARGIN_ROWS, total // 100) if max(first, second) < total else 0
            if first + second > total + margin or max(first, second) < total:
                return first + second > total + margin
            start, end = parts[0] if first >= total else parts[1]
        return False

    def _doubt_rows(self, pagination: Pagination, distinct: int) -> None:
        """Raise ImplausibleResponse for a number of rows that looks like a cap, if no total tells and the window can be divided."""
        divisible = self._collection.window is not None and len(self._window.days) > 1
        if divisible and pagination.total is None and looks_chosen(distinct):
            raise ImplausibleResponse(
                f"The API announced no total and returned {distinct} rows, which looks like a cap."
            )

    async def _total(self, start: datetime, end: datetime) -> int | None:
        """Return the rows that the API announces between two instants."""
        page = await self._witnesses.one_row(
            parameters_between(self._collection, self._zones, start, end)
        )
        return page.total

    async def _doubt_edges(self, staging: Staging, tally: Tally) -> None:
        """Raise WindowShortened if days at an empty edge of the window have rows when they are requested alone.

        Costs one request for each empty edge. The two hours around the edge's bounds are left out: they belong to its neighbours.
        """
        if self._collection.window is None or not self._collection.is_events:
            return
        for edge in empty_edges(self._window.days, tally.by_day):
            start, end = edge.bounds(self._zones.partition)
            parameters = parameters_between(
                self._collection, self._zones, start + PADDING, end - PADDING
            )
            page = await self._witnesses.one_row(parameters)
            days = staging.reader.read_all([row for row in page.rows if isinstance(row, dict)]).days
            if any(day is not None and edge.first <= day <= edge.last for day in days):
                raise WindowShortened(edge)

    async def _doubt_end(self, attempt: "_Attempt", staging: Staging) -> str | None:
        """Return that the list was cut, if it ends with a full page, nothing announces its end, and more rows exist.

        Costs two requests: from the start of the window and up to its end, each with the time of half a page of
        known rows. A cut list in either order of time lacks rows at one of the two; one in any order, at both.
        """
        if (
            not attempt.pagination.ends_unproved
            or self._collection.window is None
            or not self._collection.is_events
        ):
            return None
        size = max(1, attempt.pagination.rows_of_page_1 // 2)
        moments = await asyncio.to_thread(staging.outer_moments, size)
        if moments is None:
            return None
        start, end = self._window.bounds(self._zones.partition)
        for part in (start - PADDING, moments[0]), (moments[1], end + PADDING):
            page = await self._witnesses.page(
                parameters=parameters_between(self._collection, self._zones, *part)
            )
            if await asyncio.to_thread(staging.lacks, page.rows, self._window.days):
                return "the API announced no total, and a search within the window has rows that its pages lack"
        return None

    async def _recheck(self, attempt: "_Attempt", staging: Staging) -> str | None:
        """Request some pages again; return that their rows differ from those received first, None if they do not."""
        pages = rechecked_pages(attempt.pagination.announced_pages)
        for number in [1, *pages[1:]] if attempt.mixes else pages:
            ids = attempt.ids.get(number)
            if ids is None or number > attempt.pagination.filled:
                continue
            page = await self._witnesses.page(page=number)
            if page.total != attempt.totals[number] or _ids(staging, page) != ids:
                return f"page {number} had other rows when it was requested again, so rows moved while they were read"
        return None

    def _filter_ignored(self, what: str, ignored: tuple[bool, bool]) -> FilterIgnored:
        window = self._collection.window
        assert window is not None
        names = " and ".join(
            name
            for name, is_ignored in zip((window.start, window.end), ignored, strict=True)
            if is_ignored
        )
        return FilterIgnored(
            f"{self._collection.name} {self._window}: {what}: the route {self._collection.route} seems to ignore {names}. "
            f"`magnetis probe` shows what it does; in MAGNETIS_CONFIG, set collections.{self._collection.name}.window to the right "
            "names, or to null to read the route whole. Nothing was written."
        )

    def _refuse_repeated_ids(self, staging: Staging) -> None:
        if staging.conflicting:
            raise RepeatedIds(
                f"{self._collection.name} {self._window}: {staging.conflicting} rows have the id of another row of the same page, "
                f"so the id does not identify a row. In MAGNETIS_CONFIG, set collections.{self._collection.name}.id_paths to the "
                "members that do, several of them as a list: [[id, leg]]. Nothing was written."
            )

    def _refuse_unplaceable(self, staging: Staging, tally: Tally) -> None:
        if tally.unplaced and not tally.by_day:
            why = "; ".join(
                f"{reason} ({number} rows)" for reason, number in sorted(tally.unplaced.items())
            )
            settings = {
                "time_fields" if " time in " in reason else "id_paths" for reason in tally.unplaced
            }
            names = " and ".join(
                f"collections.{self._collection.name}.{setting}" for setting in sorted(settings)
            )
            raise UnplaceableRows(
                f"{self._collection.name} {self._window}: none of the {tally.received} rows received can be placed: {why}. "
                f"Members of the rows: {', '.join(sorted(staging.members)[:40])}. Name the right ones in MAGNETIS_CONFIG "
                f"({names}); `magnetis probe` shows them too. Nothing was written."
            )


def _ids(staging: Staging, page: Page) -> frozenset[str | None]:
    return frozenset(
        staging.reader.read_all([row for row in page.rows if isinstance(row, dict)]).ids
    )


@dataclass(slots=True)
class _Attempt:
    """The pages of one read of one window."""

    client: MagnetisClient
    call: ApiCall
    window: Window
    staging: Staging
    pages: PageCache
    now: datetime
    stopped: asyncio.Event
    refuse: Callable[[str, tuple[bool, bool]], FilterIgnored]
    """Makes the error for rows far outside the window."""
    pagination: Pagination = field(init=False)
    bytes: int = 0
    replaced: int = 0
    kept: frozenset[int] = frozenset()
    """Numbers of the kept pages that are used."""
    mixes: bool = False
    """Whether kept pages and new ones form the list: page 1 must still have the same rows at the end."""
    read_at: datetime = field(init=False)
    ids: dict[int, frozenset[str | None]] = field(default_factory=dict)
    """Ids of the pages that are requested again at the end, by page."""
    totals: dict[int, int | None] = field(default_factory=dict)
    """Totals of those pages."""
    _watch: FilterWatch = field(init=False)
    _rechecked: frozenset[int] = frozenset()
    _keeps: bool = False

    async def begin(self, kept: CachedWindow | None) -> Page:
        """Start anew and return page 1, not loaded yet."""
        self.mixes = False
        self.bytes = self.replaced = 0
        self.ids, self.totals = {}, {}
        self._watch = FilterWatch(self.window)
        self._keeps = False
        self.pagination = Pagination(self.call.limit)
        self.kept = kept.pages if kept else frozenset()
        self.read_at = kept.read_at if kept else self.now
        if 1 in self.kept:
            page = await self._kept_page(1)
            if page is not None:
                announced = range(1, _announced_pages(page, self.call.limit) + 1)
                self.mixes = not self.kept.issuperset(announced)
        else:
            page, self.kept, self.read_at = None, frozenset(), self.now
        if page is None:
            page, _ = await self.receive(1)
        else:
            self._count(1, page)
        self._rechecked = frozenset(rechecked_pages(self.pagination.announced_pages))
        return page

    @property
    def first_ids(self) -> frozenset[str | None]:
        """Ids of page 1."""
        return self.ids.get(1, frozenset())

    async def keep_from_now(self, first: Page) -> None:
        """Keep the first page, unless it is the only one, and those that follow."""
        if self.pagination.announced_pages == 1 and self.pagination.following() is None:
            return
        self._keeps = True
        if 1 not in self.kept:
            await self.keep(1, first)

    async def keep(self, number: int, page: Page) -> None:
        """Keep a page before it is loaded."""
        await asyncio.to_thread(self.pages.keep, self.window.days, number, page.body, self.now)

    async def receive(self, number: int) -> tuple[Page, bool]:
        """Return a page, and whether it came from the API just now. Raises Stopped, and what the client raises."""
        if self.stopped.is_set():
            raise Stopped
        page = await self._kept_page(number) if number in self.kept else None
        fresh = page is None
        if page is None:
            page = await self.client.page(
                replace(self.call, page=number), partial(self.keep, number) if self._keeps else None
            )
        self._count(number, page)
        return page, fresh

    async def _kept_page(self, number: int) -> Page | None:
        body = await asyncio.to_thread(self.pages.body, self.window.days, number)
        return None if body is None else replace(read_envelope(body, self.call.limit), body=body)

    def _count(self, number: int, page: Page) -> None:
        self.pagination.add(number, page)
        self.bytes += page.bytes
        self.replaced += page.replaced_characters

    async def load(self, number: int, page: Page, *, fresh: bool = False) -> None:
        """Load a page into staging, and keep it if it is not kept yet. Raises FilterIgnored."""
        if number in self._rechecked or (
            number == 1 and (self.mixes or self.pagination.following() is not None)
        ):
            self.ids[number] = await asyncio.to_thread(_ids, self.staging, page)
            self.totals[number] = page.total
        days = await asyncio.to_thread(self._load, number, page, keep=fresh and self._keeps)
        if self.staging.collection.window is not None and (outside := self._watch.add(days)):
            raise self.refuse(outside, self._watch.ignored)

    def _load(self, number: int, page: Page, *, keep: bool) -> list[date]:
        kept = self.pages.keeping(self.window.days, number, page.body, self.now) if keep else None
        return self.staging.add(page.rows, kept)


def _announced_pages(page: Page, limit: int) -> int:
    pagination = Pagination(limit)
    pagination.add(1, page)
    return (
        pagination.announced_pages
        if pagination.announced_pages > 1
        else (pagination.following() or 1)
    )
