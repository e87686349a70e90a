"""Verify the answer to a window with further requests.

`witnesses.py` decides which answers are suspicious; docs/delivery-guarantees.md lists the prices.
"""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

from magnetis_dagster.api import ApiCall, MagnetisClient, Page, RequestRejected
from magnetis_dagster.api.pagination import Pagination
from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.row_parser import ParsedRows
from magnetis_dagster.ingest.errors import FilterIgnored
from magnetis_dagster.ingest.window_pages import WindowPages, ids_of
from magnetis_dagster.ingest.windows import PADDING, Window, Zones, middle_of, parameters_between
from magnetis_dagster.ingest.witnesses import (
    ImplausibleResponse,
    SearchCapped,
    Suspicions,
    WindowShortened,
    empty_edges,
    looks_chosen,
    rechecked_pages,
)
from magnetis_dagster.warehouse import RowCounts, Staging

MARGIN_ROWS = 2
"""Rows that two parts may announce more than the whole, unless one percent of it is more.

Rows at the division are counted twice, and late rows arrive.
"""
SMALLEST_PART = timedelta(hours=1)
"""Not divided further, even if all rows lie in it: each step costs two requests."""
SECOND = timedelta(seconds=1)
_Part = tuple[datetime, datetime]


class WindowVerifier:
    """Requests what could prove the answer to one window wrong."""

    def __init__(
        self,
        client: MagnetisClient,
        call: ApiCall,
        collection: Collection,
        window: Window,
        zones: Zones,
        suspicions: Suspicions,
    ) -> None:
        """`call` requests page 1 of the window."""
        self.calls = 0
        """API calls so far."""
        self._client = client
        self._call = call
        self._collection = collection
        self._window = window
        self._zones = zones
        self._suspicions = suspicions
        self._is_filtered = collection.window is not None
        """Whether requests can be limited to a part of the window."""

    async def verify_total(self, first: Page, staging: Staging) -> None:
        """Verify the announced total if it looks like a cap.

        Costs two requests if both halves of the window have rows; two more for each further
        division until both parts have some.

        Raises: SearchCapped if the total is a cap; FilterIgnored if the route ignores a bound and
            returns rows outside.
        """
        cap, total = self._suspicions.cap, first.total
        if total is None or not self._is_filtered:
            return
        if cap is not None and total > cap:
            self._suspicions.cap = cap = None  # a capped search would not announce more
        if total == cap and len(self._window.days) > 1:
            raise SearchCapped(total)
        if not self._suspicions.doubts(self._window, total) and total != cap:
            return
        start, end = self._window.padded_bounds(self._zones.partition)
        if await self._parts_exceed(total, start, end):
            # two parts may exceed the whole for another reason: a bound that the route ignores
            ignored = (
                await self._total(end - SECOND, end) == total,
                await self._total(start, start + SECOND) == total,
            )
            if any(ignored):
                moments = _parse(staging, first).occurred_at
                if any(moment is not None and not start <= moment <= end for moment in moments):
                    evidence = f"a window of one second announces {total} rows, as the whole does"
                    raise FilterIgnored(self._collection, self._window, evidence, ignored)
            elif await self._is_cap(total, start, end):
                raise SearchCapped(total)
        self._suspicions.trusted.add(total)

    async def _is_cap(self, total: int, start: datetime, end: datetime) -> bool:
        """Return whether only a cap explains that two parts announce more than the whole.

        A filter by days counts the divided day twice, a filter by overlaps counts the rows at the
        division twice, and a window that grows announces more at the next request.
        """
        noon = middle_of(start, end, self._zones.partition)
        if end - start > timedelta(days=2):
            noon += timedelta(hours=12)
        rows_of_one_second = await self._total(noon, noon + SECOND) or 0
        return rows_of_one_second * 10 < total and await self._total(start, end) == total

    async def _parts_exceed(self, total: int, start: datetime, end: datetime) -> bool:
        """Return whether two parts of an interval announce more than its `total`.

        If all rows lie in one part, that part announces `total` too, and is divided in turn.
        """
        while end - start > SMALLEST_PART:
            middle = middle_of(start, end, self._zones.partition)
            # bounds may be inclusive: the second part begins a second after the first ends
            parts = [(start, middle - SECOND), (middle, end)]
            of_parts = [self._parameters(*part) for part in parts]
            if self._parameters(start, end) in of_parts:
                return False  # the format of the parameters has no times
            first, second = [await self._total(*part) for part in parts]
            if first is None or second is None:
                return False
            is_divided = max(first, second) < total
            margin = max(MARGIN_ROWS, total // 100) if is_divided else 0
            if is_divided or first + second > total + margin:
                return first + second > total + margin
            start, end = parts[0] if first >= total else parts[1]
        return False

    def verify_row_count(self, pagination: Pagination, rows: int) -> None:
        """Raise ImplausibleResponse for a row count that looks like a cap.

        Only if the API announced no credible total, and the window can be divided.
        """
        is_divisible = self._is_filtered and len(self._window.days) > 1
        if is_divisible and pagination.credible_total(rows) is None and looks_chosen(rows):
            raise ImplausibleResponse(
                f"The API announced no credible total and returned {rows} rows, which looks like a "
                "cap."
            )

    async def verify_edges(self, staging: Staging, tally: RowCounts) -> None:
        """Raise WindowShortened if a part without rows at either end has rows when requested alone.

        Costs one request per empty edge, two if it is longer than a week, and up to two for a
        window of a suspicious length.
        """
        if not self._is_filtered or not self._collection.is_events:
            return
        edges = empty_edges(self._window.days, tally.by_day)
        first_days, last_days = {edge.first for edge in edges}, {edge.last for edge in edges}
        first, last = self._window.first, self._window.last
        doubts = self._suspicions.doubts_ends(len(self._window.days))
        before, after = await self._outside_of_rows(staging)
        if before and (doubts or first in first_days):
            await self._require_no_rows(staging, *before)
            edges = [edge for edge in edges if edge.first != first]
        if after and (doubts or last in last_days):
            await self._require_no_rows(staging, *after)
            edges = [edge for edge in edges if edge.last != last]
        for edge in edges:
            start, end = edge.bounds(self._zones.partition)
            # the two hours around the bounds belong to the neighbours
            await self._require_no_rows(staging, start + PADDING, end - PADDING)

    async def _outside_of_rows(self, staging: Staging) -> tuple[_Part | None, _Part | None]:
        """Return the parts of the request before the first row and after the last.

        None for an end that a row in the padding proves, and if no row came.
        """
        moments = await asyncio.to_thread(staging.outer_moments, 1)
        if moments is None:
            return None, None
        start, end = self._window.bounds(self._zones.partition)
        padded_start, padded_end = self._window.padded_bounds(self._zones.partition)
        before = (padded_start, moments[0] - SECOND) if moments[0] >= start else None
        after = (moments[1] + SECOND, padded_end) if moments[1] < end else None
        return before, after

    async def _require_no_rows(self, staging: Staging, start: datetime, end: datetime) -> None:
        page = await self._request(parameters=self._parameters(start, end))
        if await asyncio.to_thread(staging.lacks, page.rows, self._window.days):
            self._suspicions.shortens = True
            raise WindowShortened(f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")

    async def find_cut(self, pages: WindowPages, staging: Staging) -> str | None:
        """Return that the list was cut, if a search within the window proves it.

        Only if the list ends with a full page and nothing announces its end. Costs two requests:
        from the start of the window and up to its end, each over the time of half a page of known
        rows. A cut list sorted by time lacks rows at one end, an unsorted one at both.
        """
        if (
            not pages.pagination.has_unproved_end(staging.row_counts.received)
            or not self._is_filtered
            or not self._collection.is_events
        ):
            return None
        half_a_page = max(1, pages.pagination.rows_of_page_1 // 2)
        moments = await asyncio.to_thread(staging.outer_moments, half_a_page)
        if moments is None:
            return None
        start, end = self._window.padded_bounds(self._zones.partition)
        for part in (start, moments[0]), (moments[1], end):
            page = await self._request(parameters=self._parameters(*part))
            if await asyncio.to_thread(staging.lacks, page.rows, self._window.days):
                return (
                    "the API announced no credible total, and a search within the window has rows "
                    "that its pages lack"
                )
        return None

    async def recheck_pages(self, pages: WindowPages, staging: Staging) -> str | None:
        """Request some pages again; return that their rows differ, None if they do not."""
        numbers = rechecked_pages(pages.pagination.announced_pages)
        for number in [1, *numbers[1:]] if pages.is_mixed else numbers:
            ids = pages.ids.get(number)
            if ids is None or number > pages.pagination.last_page_with_rows:
                continue
            page = await self._request(page=number)
            if page.total != pages.totals[number] or ids_of(staging, page) != ids:
                return (
                    f"page {number} had other rows when it was requested again, so rows moved "
                    "while they were read"
                )
        return None

    async def _request(self, **changes: object) -> Page:
        """Request a page of the window's call with `changes`."""
        self.calls += 1
        return await self._client.page(replace(self._call, **changes))  # type: ignore[arg-type]

    async def _one_row(self, parameters: dict[str, str]) -> Page:
        """Request one row, or a whole page if the API rejects so small a limit."""
        try:
            return await self._request(parameters=parameters, limit=1)
        except RequestRejected:
            return await self._request(parameters=parameters)

    async def _total(self, start: datetime, end: datetime) -> int | None:
        """Return the rows that the API announces between two instants."""
        return (await self._one_row(self._parameters(start, end))).total

    def _parameters(self, start: datetime, end: datetime) -> dict[str, str]:
        return parameters_between(self._collection, self._zones, start, end)


def _parse(staging: Staging, page: Page) -> ParsedRows:
    return staging.reader.read_all([row for row in page.rows if isinstance(row, dict)])
