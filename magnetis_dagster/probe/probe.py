"""Compare the catalogue with the API: routes, members, query parameters.

Price: one request per collection, with `limit=1` unless the caller wants more ids, and one per
further route if the first does not answer. Then, for each events collection, a page of 50 rows, and
two requests that decide whether the bounds of the window are honoured. For a snapshot, a page of 50
rows only if its first row has no id or looks like an event. `report.py` contains the findings.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Collection as Names
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from magnetis_dagster.api import (
    AccessForbidden,
    ApiCall,
    CallOutcome,
    ClientLimits,
    ConfirmingGuard,
    MagnetisClient,
    Page,
    QuotaGuard,
    RedirectRefused,
    RequestRejected,
    ResponseTooLarge,
    RouteUnavailable,
    ServerUnavailable,
    UnexpectedResponse,
)
from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.errors import MagnetisError, PermanentError
from magnetis_dagster.ingest.windows import Zones, parameters_between
from magnetis_dagster.privacy.plan import Plan, load_plan
from magnetis_dagster.probe.comparison import examine
from magnetis_dagster.probe.events import event_members, is_recent, may_be_events
from magnetis_dagster.probe.filters import (
    Verdict,
    hours_without_rows,
    limit_honoured,
    page_honoured,
)
from magnetis_dagster.probe.proposals import propose, with_proposals
from magnetis_dagster.probe.report import Availability, Finding, ProbeReport
from magnetis_dagster.probe.rows import WIDEST_ZONE, Interval, Sample

LIMITS = ClientLimits(attempts=2, read=30.0, total=60.0)
SAMPLE = 50
"""Rows of the page whose members are compared."""
FULL_PAGE = 250
"""Rows of the first page of a collection whose ids the caller wants."""
_QUIET = timedelta(days=30)
"""Length of the window that a sample is taken from if the probe's window has no row."""
_UNCLEAR = (
    RequestRejected,
    UnexpectedResponse,
    RedirectRefused,
    ResponseTooLarge,
    ServerUnavailable,
)


def run_probe(
    catalogue: Catalogue,
    zones: Zones,
    guard: QuotaGuard,
    *,
    origin: str,
    key: str,
    today: date | None = None,
    limits: ClientLimits = LIMITS,
    progress: Callable[[str], None] = lambda _line: None,
    wanted: Names[str] = (),
    plan: Plan | None = None,
) -> ProbeReport:
    """Probe every enabled collection of `catalogue`. Blocks.

    `wanted`: snapshot collections whose first request fetches FULL_PAGE rows, for more ids.
    `today` is a day in the partition zone (None: by the machine's clock). `guard` charges every
    request. `progress` receives one line per request. An error that would stop every other request
    too (key refused, no connection, quota exhausted) ends the probe; the report contains it.
    `plan`: what it classifies is not proposed (None: the default plan).

    Raises: KeyRefused or PermanentError if no client can be opened.
    """
    today = today or datetime.now(zones.partition).date()
    return asyncio.run(
        _Probe(
            catalogue, zones, guard, today, progress, wanted, plan or load_plan(None, catalogue)
        ).run(origin, key, limits)
    )


def probe_window(today: date, zones: Zones) -> tuple[datetime, datetime]:
    """Return the 24 hours of the requested events, from noon to noon of working days.

    The edges lie in working hours, so that rows lie close to them and a misread time zone shows.
    The window ends three days ago, so that the newest row lies outside. Padding would blur both.
    """
    day = today - timedelta(days=3)
    while day.weekday() not in {1, 2, 3, 4}:
        day -= timedelta(days=1)
    end = datetime.combine(day, time(12), zones.partition)
    return (end - timedelta(days=1)).astimezone(UTC), end.astimezone(UTC)


class _CountingGuard:
    """Passes charges on, counts the requests, and remembers the last HTTP status."""

    def __init__(self, guard: QuotaGuard) -> None:
        self._guard = guard
        self.calls = 0
        self.status: int | None = None

    async def charge(self, call: ApiCall) -> int:
        charge = await self._guard.charge(call)
        self.calls += 1
        return charge

    async def confirm(self, charge: int) -> int:
        if isinstance(self._guard, ConfirmingGuard):
            return await self._guard.confirm(charge)
        return charge

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        self.status = outcome.status
        await self._guard.settle(charge, outcome)


class _Probe:
    def __init__(
        self,
        catalogue: Catalogue,
        zones: Zones,
        guard: QuotaGuard,
        today: date,
        progress: Callable[[str], None],
        wanted: Names[str],
        plan: Plan,
    ) -> None:
        self._collections = catalogue.enabled
        self._zones = zones
        self._guard = _CountingGuard(guard)
        self._today = today
        self._window = probe_window(today, zones)
        self._progress = progress
        self._wanted = wanted
        self._plan = plan
        self._ids: defaultdict[str, set[str]] = defaultdict(set)
        """Ids of the received rows, by collection."""
        self._findings = {
            one.name: Finding(one.name, one.route, Availability.NOT_PROBED)
            for one in self._collections
        }
        self._first: dict[str, Page] = {}
        """Collection to the page that answered its first request."""
        self._serves: dict[str, str] = {}
        """Route to the collection that uses it."""
        self._absent: dict[str, int | None] = {}
        """Unavailable route to its HTTP status."""

    async def run(self, origin: str, key: str, limits: ClientLimits) -> ProbeReport:
        stopped, for_good = None, False
        client = MagnetisClient(origin, key, self._guard, concurrency=1, limits=limits)
        async with client as self._client:
            try:
                # first routes first: they belong to their collection, not to one with alternatives
                for collection in self._collections:
                    await self._find(collection, collection.route)
                for collection in self._collections:
                    await self._try_candidates(collection)
                for collection in self._collections:
                    if (first := self._first.get(collection.name)) is not None:
                        await self._compare(collection, first)
            except MagnetisError as error:
                stopped, for_good = str(error), isinstance(error, PermanentError)
        start, end = self._window
        return ProbeReport(
            list(self._findings.values()),
            self._guard.calls,
            (start.isoformat(), end.isoformat()),
            str(self._today),
            stopped,
            for_good,
            ids=dict(self._ids),
        )

    async def _try_candidates(self, collection: Collection) -> None:
        finding = self._findings[collection.name]
        for route in (route.path for route in collection.routes[1:]):
            if finding.found is not Availability.NOTHING:
                return
            if route in self._serves:
                finding.shared[route] = self._serves[route]
            elif route in self._absent:
                finding.tried[route] = self._absent[route]
            else:
                await self._find(collection, route)

    async def _find(self, collection: Collection, route: str) -> None:
        """Send the first request to a route and record the response.

        Raises: MagnetisError if every other request would fail too.
        """
        finding = self._findings[collection.name]
        window = self._window if collection.window else None
        try:
            limit = FULL_PAGE if self._is_wanted(collection) else 1
            page = await self._page(collection, route, window, limit)
        except RouteUnavailable as error:
            self._absent[route] = self._guard.status
            finding.found, finding.message = Availability.NOTHING, finding.message or str(error)
        except AccessForbidden as error:
            finding.found, finding.message = Availability.FORBIDDEN, str(error)
        except _UNCLEAR as error:
            finding.found, finding.message = Availability.UNCLEAR, str(error)
        else:
            finding.found, finding.message, finding.answered = Availability.YES, None, route
            finding.evidence = next(
                one.evidence.value for one in collection.routes if one.path == route
            )
            if (other := self._serves.setdefault(route, collection.name)) != collection.name:
                finding.shared[route] = other
            finding.announced = page.total
            self._first[collection.name] = page
            sample = Sample(collection, _rows(page), self._zones, window)
            self._keep_ids(sample)
            examine(sample, finding)
        finding.status = finding.tried[route] = self._guard.status

    async def _compare(self, collection: Collection, first: Page) -> None:
        """Compare more rows and the parameters with the declaration."""
        finding = self._findings[collection.name]
        window = self._window if collection.window else None
        sample = Sample(collection, _rows(first), self._zones, window)
        if collection.is_events or (
            len(sample) and ("id" in finding.missing or may_be_events(sample))
        ):
            if window and not len(sample):
                window = (window[1] - _QUIET, window[1])
            number = self._sample_page(first, sample)
            page = await self._attempt(collection, window, limit=SAMPLE, number=number)
            first_row = sample
            if more := _distinct(_rows(page)) if page else []:
                # without the first row: a member that changes with every request would make it two
                sample = Sample(collection, more, self._zones, window)
                self._keep_ids(sample)
            if not self._is_wanted(collection):
                finding.parameters["limit"] = limit_honoured(first, page)
            finding.parameters["page"] = page_honoured(
                first_row.keys, sample.keys if more else [], number
            )
            examine(sample, finding, first_row)
        finding.proposals = propose(sample, self._plan.of(collection.name))
        finding.event_members = event_members(sample, self._today)
        if collection.window:
            names = (collection.window.start, collection.window.end)
            finding.window_names = names
            finding.parameters = dict.fromkeys(names, Verdict.UNKNOWN) | finding.parameters
            if len(sample):
                await self._verify_window(with_proposals(collection, finding.proposals), *names)

    def _is_wanted(self, collection: Collection) -> bool:
        return collection.name in self._wanted and not collection.is_events

    def _keep_ids(self, sample: Sample) -> None:
        self._ids[sample.collection.name].update(filter(None, sample.parsed.ids))

    def _sample_page(self, first: Page, sample: Sample) -> int:
        """Return the number of a page of SAMPLE recent rows.

        Not page 1, unless necessary: it does not show whether `page` is ignored.
        """
        if first.total is None or first.total < 2 * SAMPLE or not len(sample):
            return 1
        is_newest_first = sample.collection.is_events or is_recent(sample, self._today)
        return 2 if is_newest_first else first.total // SAMPLE

    async def _verify_window(self, collection: Collection, start: str, end: str) -> None:
        """Decide with two requests which bounds are honoured."""
        finding = self._findings[collection.name]
        before, after = hours_without_rows(self._today, self._zones)
        least, most = after[0] - WIDEST_ZONE, before[1] + WIDEST_ZONE
        for name, hour in ((end, before), (start, after)):
            if page := await self._attempt(collection, hour):
                moments = Sample(collection, _rows(page), self._zones).parsed.occurred_at
                honoured = all(
                    moment and (moment <= most if hour is before else moment >= least)
                    for moment in moments
                )
                finding.parameters[name] = Verdict.YES if honoured else Verdict.NO
                finding.total_ignores_window |= not page.rows and bool(page.total)

    async def _attempt(
        self, collection: Collection, window: Interval | None, *, limit: int = 1, number: int = 1
    ) -> Page | None:
        """Return a page of the route that answered; record a refusal as None."""
        finding = self._findings[collection.name]
        route = finding.answered or collection.route
        try:
            return await self._page(collection, route, window, limit, number)
        except (RouteUnavailable, AccessForbidden, *_UNCLEAR) as error:
            finding.unfinished.append(f"A further request failed: {error}")
            return None

    async def _page(
        self,
        collection: Collection,
        route: str,
        window: Interval | None,
        limit: int = 1,
        number: int = 1,
    ) -> Page:
        parameters = (
            parameters_between(collection, self._zones, *window)
            if window
            else collection.parameters
        )
        call = ApiCall(collection.name, route, parameters, page=number, limit=limit)
        try:
            page = await self._client.page(call)
            await self._client.wait_for_settlements()
            return page
        finally:
            self._progress(f"{collection.name}: GET {route}: {self._guard.status}")


def _rows(page: Page) -> list[dict[str, Any]]:
    return [row for row in page.rows if isinstance(row, dict)]


def _distinct(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for number, row in enumerate(rows) if row not in rows[:number]]
