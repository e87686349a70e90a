"""Fetch the pages of one window from cache or API, and cache and stage them."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import partial

from magnetis_dagster.api import ApiCall, MagnetisClient, Page, read_envelope
from magnetis_dagster.api.pagination import Pagination
from magnetis_dagster.ingest.errors import FilterIgnored
from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.ingest.witnesses import FilterWatch, rechecked_pages
from magnetis_dagster.warehouse import CachedWindow, PageCache, Staging

Ids = frozenset[str | None]
"""The ids of a page's rows; None for a row without one."""


class Stopped(Exception):
    """The caller stopped the read."""


def ids_of(staging: Staging, page: Page) -> Ids:
    """Return the ids of the page's rows."""
    rows = [row for row in page.rows if isinstance(row, dict)]
    return frozenset(staging.reader.read_all(rows).ids)


@dataclass(slots=True)
class WindowPages:
    """Pages, ids and counts of the current attempt to read one window."""

    client: MagnetisClient
    call: ApiCall
    window: Window
    staging: Staging
    cache: PageCache
    now: datetime
    stopped: asyncio.Event
    pagination: Pagination = field(init=False)
    bytes: int = 0
    replaced_characters: int = 0
    reused: frozenset[int] = frozenset()
    """Numbers of the cached pages that this attempt uses."""
    is_mixed: bool = False
    """Whether cached and new pages form the list; then page 1 is requested again at the end."""
    read_at: datetime = field(init=False)
    ids: dict[int, Ids] = field(default_factory=dict)
    """Ids of the pages that are requested again at the end, by page."""
    totals: dict[int, int | None] = field(default_factory=dict)
    """Announced totals of those pages."""
    _filter_watch: FilterWatch = field(init=False)
    _rechecked: frozenset[int] = frozenset()
    _is_caching: bool = False

    async def begin(self, cached: CachedWindow | None) -> Page:
        """Start an attempt and return page 1, not staged yet."""
        self.is_mixed = self._is_caching = False
        self.bytes = self.replaced_characters = 0
        self.ids, self.totals = {}, {}
        self._filter_watch = FilterWatch(self.window)
        self.pagination = Pagination(self.call.limit)
        self.reused = cached.pages if cached else frozenset()
        self.read_at = cached.read_at if cached else self.now
        page = None
        if 1 not in self.reused:
            self.reused, self.read_at = frozenset(), self.now
        elif (page := await self._cached_page(1)) is not None:
            announced = range(1, _announced_pages(page, self.call.limit) + 1)
            self.is_mixed = not self.reused.issuperset(announced)
            self._count(1, page)
        if page is None:
            page, _ = await self.fetch(1)
        self._rechecked = frozenset(rechecked_pages(self.pagination.announced_pages))
        return page

    @property
    def first_ids(self) -> Ids:
        """Ids of page 1."""
        return self.ids.get(1, frozenset())

    async def start_caching(self, first: Page) -> None:
        """Cache page 1 and all pages after it, unless the window has one page only."""
        if self.pagination.announced_pages == 1 and self.pagination.next_page() is None:
            return
        self._is_caching = True
        if 1 not in self.reused:
            await self._cache_page(1, first)

    async def _cache_page(self, number: int, page: Page) -> None:
        if await asyncio.to_thread(self.staging.may_cache, page.rows):
            await asyncio.to_thread(self.cache.keep, self.window.days, number, page.body, self.now)

    async def fetch(self, number: int) -> tuple[Page, bool]:
        """Return a page, and whether the API has just sent it.

        Raises: Stopped, and the errors of the client.
        """
        if self.stopped.is_set():
            raise Stopped
        page = await self._cached_page(number) if number in self.reused else None
        is_new = page is None
        if page is None:
            keep = partial(self._cache_page, number) if self._is_caching else None
            page = await self.client.page(replace(self.call, page=number), keep)
        self._count(number, page)
        return page, is_new

    async def _cached_page(self, number: int) -> Page | None:
        body = await asyncio.to_thread(self.cache.body, self.window.days, number)
        return None if body is None else replace(read_envelope(body, self.call.limit), body=body)

    def _count(self, number: int, page: Page) -> None:
        self.pagination.add(number, page)
        self.bytes += page.bytes
        self.replaced_characters += page.replaced_characters

    async def stage(self, number: int, page: Page, *, is_new: bool = False) -> None:
        """Write a page to staging, and a new one to the cache too.

        Raises: FilterIgnored if too many rows lie outside the window.
        """
        is_followed = self.is_mixed or self.pagination.next_page() is not None
        if number in self._rechecked or (number == 1 and is_followed):
            self.ids[number] = await asyncio.to_thread(ids_of, self.staging, page)
            self.totals[number] = page.total
        is_cached = is_new and self._is_caching
        days = await asyncio.to_thread(self._stage, number, page, is_cached=is_cached)
        collection = self.staging.collection
        if collection.window is not None and (evidence := self._filter_watch.add(days)):
            ignored = self._filter_watch.ignored
            raise FilterIgnored(collection, self.window, evidence, ignored)

    def _stage(self, number: int, page: Page, *, is_cached: bool) -> list[date]:
        keep = None
        if is_cached:
            keep = self.cache.keeping(self.window.days, number, page.body, self.now)
        return self.staging.add(page.rows, keep)


def _announced_pages(page: Page, limit: int) -> int:
    pagination = Pagination(limit)
    pagination.add(1, page)
    if pagination.announced_pages > 1:
        return pagination.announced_pages
    return pagination.next_page() or 1
