"""Asking the API what it serves: one call with `limit=1` a collection, more only where the first route does not answer.

Most routes and member names of the catalogue are assumptions; this is how a user with a key learns which hold. What is shown of
it, and the overlay that comes of it, belong to `probe_report.py`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from magnetis_dagster.api import (
    AccessForbidden,
    BodyTooLarge,
    Call,
    ClientLimits,
    ConfirmingGate,
    Gate,
    MagnetisClient,
    Outcome,
    Page,
    RedirectRefused,
    RequestRejected,
    RouteUnavailable,
    ServerUnwell,
    UnexpectedAnswer,
)
from magnetis_dagster.catalog import Catalogue, Collection, ColumnType
from magnetis_dagster.catalog.names import fold
from magnetis_dagster.catalog.reader import RowReader, as_moment, shown_name
from magnetis_dagster.errors import MagnetisError, NeedsChange
from magnetis_dagster.ingest.probe_report import Finding, Found, ProbeReport
from magnetis_dagster.ingest.windows import Zones

LIMITS = ClientLimits(attempts=2, read=30.0, total=60.0)
_WIDEST_ZONE = timedelta(hours=14)
"""No zone is further from UTC: a row further outside the window was not let in by a misread zone."""
_MOST_NAMES = 80

Name = tuple[str, ...]
"""Member names from the row down; not dotted text, since a member may have a dot in its own name."""


def run_probe(
    catalogue: Catalogue,
    zones: Zones,
    gate: Gate,
    *,
    origin: str,
    key: str,
    today: date | None = None,
    limits: ClientLimits = LIMITS,
    progress: Callable[[str], None] = lambda _line: None,
) -> ProbeReport:
    """Ask every enabled collection of `catalogue` and return what answered. Blocks; for the command line.

    `today` is a day in the partition zone (the machine's own where None). Every call is charged at `gate`. `progress` is told a
    line a collection. An error that would meet every other call too (key refused, no connection, quota spent) ends the probe:
    it is told in the report's `stopped`, not raised. Raises KeyRefused and NeedsChange where no client can be opened.
    """
    today = today or datetime.now(zones.partition).date()
    return asyncio.run(_Probe(catalogue, zones, gate, probe_window(today, zones), progress).run(origin, key, limits))


def probe_window(today: date, zones: Zones) -> tuple[datetime, datetime]:
    """Return the 24 hours that events are asked for, as instants: noon to noon in the partition zone, Monday to Friday.

    Its edges lie in working hours, so that rows come close to them and a misread zone shows; three days back, so that the newest
    row of all is not mistaken for one of the window where the filter is ignored. No padding, which would blur both.
    """
    day = today - timedelta(days=3)
    while day.weekday() not in {1, 2, 3, 4}:
        day -= timedelta(days=1)
    noons = (datetime.combine(at, time(12), zones.partition).astimezone(UTC) for at in (day - timedelta(days=1), day))
    return next(noons), next(noons)


class _Watch:
    """A gate before the gate: counts the calls and remembers the last status."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.calls = 0
        self.status: int | None = None

    async def charge(self, call: Call) -> int:
        charge = await self._gate.charge(call)
        self.calls += 1
        return charge

    async def confirm(self, charge: int) -> int:
        return await self._gate.confirm(charge) if isinstance(self._gate, ConfirmingGate) else charge

    async def settle(self, charge: int, outcome: Outcome) -> None:
        self.status = outcome.status
        await self._gate.settle(charge, outcome)


class _Probe:
    def __init__(
        self,
        catalogue: Catalogue,
        zones: Zones,
        gate: Gate,
        window: tuple[datetime, datetime],
        progress: Callable[[str], None],
    ) -> None:
        self._collections = catalogue.enabled
        self._zones = zones
        self._watch = _Watch(gate)
        self._window = window
        self._progress = progress
        self._findings = {one.name: Finding(one.name, one.route, Found.NOT_ASKED) for one in self._collections}
        self._serves: dict[str, str] = {}
        """Route to the collection that it answered for."""
        self._absent: dict[str, int | None] = {}
        """Route to the status that says that nothing is there."""

    async def run(self, origin: str, key: str, limits: ClientLimits) -> ProbeReport:
        stopped, for_good = None, False
        async with MagnetisClient(origin, key, self._watch, concurrency=1, limits=limits) as client:
            try:
                # First routes before candidates: a candidate that is another collection's first route belongs to that one.
                for collection in self._collections:
                    await self._ask(client, collection, collection.route)
                for collection in self._collections:
                    await self._ask_candidates(client, collection)
            except MagnetisError as error:
                stopped, for_good = str(error), isinstance(error, NeedsChange)
        start, end = self._window
        return ProbeReport(
            list(self._findings.values()), self._watch.calls, (start.isoformat(), end.isoformat()), stopped, for_good
        )

    async def _ask_candidates(self, client: MagnetisClient, collection: Collection) -> None:
        finding = self._findings[collection.name]
        for route in (route.path for route in collection.routes[1:]):
            if finding.found is not Found.NOTHING:
                return
            if route in self._serves:
                finding.shared[route] = self._serves[route]
            elif route in self._absent:
                finding.tried[route] = self._absent[route]
            else:
                await self._ask(client, collection, route)

    async def _ask(self, client: MagnetisClient, collection: Collection, route: str) -> None:
        """Ask once and note what it means. Raises the errors that would meet every other call too."""
        finding = self._findings[collection.name]
        call = Call(collection.name, route, self._parameters(collection), limit=1)
        try:
            page = await client.page(call)
            await client.settled()
        except RouteUnavailable as error:
            self._absent[route] = self._watch.status
            finding.found, finding.message = Found.NOTHING, finding.message or str(error)
        except AccessForbidden as error:
            finding.found, finding.message = Found.FORBIDDEN, str(error)
        except (RequestRejected, UnexpectedAnswer, RedirectRefused, BodyTooLarge, ServerUnwell) as error:
            finding.found, finding.message = Found.UNCLEAR, str(error)
        else:
            finding.found, finding.message, finding.answered = Found.YES, None, route
            finding.evidence = next(one.evidence.value for one in collection.routes if one.path == route)
            if (other := self._serves.setdefault(route, collection.name)) != collection.name:
                finding.shared[route] = other
            self._examine(collection, page, finding)
        finding.status = finding.tried[route] = self._watch.status
        self._progress(f"{collection.name}: GET {route}: {self._watch.status}")

    def _parameters(self, collection: Collection) -> dict[str, str]:
        if collection.window is None:
            return dict(collection.parameters)
        asked = [moment.astimezone(self._zones.query).strftime(collection.window.format) for moment in self._window]
        return dict(collection.parameters) | {collection.window.start: asked[0], collection.window.end: asked[1]}

    def _examine(self, collection: Collection, page: Page, finding: Finding) -> None:
        """Compare the first row with the declaration; names go to the finding, values stay here."""
        finding.announced = page.total
        row = next((row for row in page.rows if isinstance(row, dict)), None)
        if row is None:
            return
        reader = RowReader(collection, response_zone=self._zones.response, partition_zone=self._zones.partition)
        parsed = reader.read(row)
        leaves = dict(_leaves(row))
        moments = {fold(".".join(name)) for name, value in leaves.items() if as_moment(value, UTC)}
        held = {fold(path) for name in leaves for path in _with_parents(name)}
        for name, column in collection.columns.items():
            if path := next((path for path in column.paths if fold(path) in held), None):
                finding.columns[name] = path
        finding.misfits = list(parsed.misfits)
        finding.unknown = _unknown(leaves, collection)
        finding.times = _shown(name for name in leaves if fold(".".join(name)) in moments)
        finding.time_field = next((path for path in collection.time_fields if fold(path) in moments), None)
        found = {*finding.columns, *(["id"] if parsed.id else []), *(["occurred_at"] if parsed.occurred_at else [])}
        expected = ["id", *(["occurred_at"] if collection.is_events else []), *collection.columns]
        finding.missing = [name for name in expected if name not in found]
        if collection.window is not None and parsed.occurred_at is not None:
            self._compare_times(parsed.occurred_at, finding)

    def _compare_times(self, moment: datetime, finding: Finding) -> None:
        start, end = self._window
        outside = min(moment - start, timedelta(0)) + max(moment - end, timedelta(0))
        finding.outside_seconds = round(outside.total_seconds())
        finding.edge_seconds = round(min(abs(moment - start), abs(end - moment)).total_seconds())
        finding.filter_ignored = abs(outside) > _WIDEST_ZONE


def _leaves(value: dict[str, Any], above: Name = ()) -> Iterator[tuple[Name, Any]]:
    """Yield the name and the value of every member that is not itself an object with members."""
    for name, member in value.items():
        if isinstance(member, dict) and member:
            yield from _leaves(member, (*above, name))
        else:
            yield (*above, name), member


def _with_parents(name: Name) -> Iterator[str]:
    return (".".join(name[:length]) for length in range(1, len(name) + 1))


def _unknown(names: Iterable[Name], collection: Collection) -> list[str]:
    declared = {*collection.key_paths, *collection.time_fields}
    declared |= {path for column in collection.columns.values() for path in column.paths}
    known = set(map(fold, declared))
    wholes = {fold(path) for column in collection.columns.values() if column.type is ColumnType.JSON for path in column.paths}
    return _shown(name for name in names if fold(".".join(name)) not in known and wholes.isdisjoint(map(fold, _with_parents(name))))


def _shown(names: Iterable[Name]) -> list[str]:
    """Return dotted names fit to be shown."""
    return sorted({".".join(map(shown_name, name)) for name in names})[:_MOST_NAMES]
