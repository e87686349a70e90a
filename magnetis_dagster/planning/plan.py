"""Price a backfill by one announcement per collection and arithmetic.

Loads no rows. `cli/plan_report.py` formats the plan, `dev/backfill.py` launches it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from magnetis_dagster.api import (
    AccessForbidden,
    ApiCall,
    ClientLimits,
    MagnetisClient,
    RedirectRefused,
    RequestRejected,
    ResponseTooLarge,
    RouteUnavailable,
    ServerUnavailable,
    UnexpectedResponse,
)
from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.ingest.window_splitter import CHUNK_ROWS, PAGE_ROWS, expected_calls
from magnetis_dagster.ingest.windows import Window, Zones, contiguous
from magnetis_dagster.quota.forecast import MOST_DAYS, Forecast, capacity, forecast
from magnetis_dagster.quota.guard import LedgerGuard, RunIdentity
from magnetis_dagster.quota.history import read_pace
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.quota.rules import BACKFILL, LANES
from magnetis_dagster.warehouse import MergedDay, Warehouse

LIMITS = ClientLimits(attempts=2, read=60.0, total=90.0)
COMMAND = RunIdentity(run_id="magnetis plan", lane="manual")

_ONE_COLLECTION = (
    AccessForbidden,
    ResponseTooLarge,
    RedirectRefused,
    RequestRejected,
    RouteUnavailable,
    ServerUnavailable,
    UnexpectedResponse,
)
"""Errors that affect one collection only."""


class BadPlan(PermanentError):
    """The requested days or collections cannot be planned; the text states which can."""


@dataclass(frozen=True, slots=True)
class PricedRange:
    """Contiguous days to read, and their price."""

    first: date
    last: date
    """Inclusive."""
    rows: int
    calls: int

    @property
    def days(self) -> int:
        """Number of days."""
        return (self.last - self.first).days + 1


@dataclass(frozen=True, slots=True)
class PlanLine:
    """The price of one collection."""

    collection: str
    days: int
    """Days to read."""
    ranges: tuple[PricedRange, ...]
    """Empty if no day is to read, or if there is no price."""
    problem: str | None = None
    """Why there is no price."""

    @property
    def rows(self) -> int:
        """Rows announced for the days to read, padding included."""
        return sum(each.rows for each in self.ranges)

    @property
    def calls(self) -> int:
        """API calls that the days cost."""
        return sum(each.calls for each in self.ranges)


@dataclass(frozen=True, slots=True)
class LaneUse:
    """One lane: its reserved API calls, and those it used today and on a mean day.

    With a rolling quota, today means the last 24 hours.
    """

    lane: str
    floor: int
    used: int
    mean_a_day: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The price of a backfill, and its fit into the quota."""

    first: date
    last: date
    """Inclusive."""
    missing: bool
    """Only incomplete days are read."""
    lines: tuple[PlanLine, ...]
    spent: int
    """API calls that the plan itself spent."""
    at: datetime
    """Time of the plan, in the quota's time zone, by the database's clock."""
    limit: int
    lanes: tuple[LaneUse, ...]
    seconds_per_call: float
    backfill_today: int
    """API calls available to the backfill lane in the rest of the quota day."""
    backfill_whole_day: int
    forecast: Forecast

    @property
    def calls(self) -> int:
        """API calls that the backfill costs."""
        return sum(line.calls for line in self.lines)

    @property
    def rows(self) -> int:
        """Rows announced."""
        return sum(line.rows for line in self.lines)

    @property
    def problems(self) -> list[str]:
        """The reasons why collections have no price, one sentence each."""
        return [line.problem for line in self.lines if line.problem]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for JSON; days and moments are ISO 8601."""
        return {
            "from": self.first.isoformat(),
            "to": self.last.isoformat(),
            "missing": self.missing,
            "collections": [
                {
                    "name": line.collection,
                    "days": line.days,
                    "rows": None if line.problem else line.rows,
                    "calls": None if line.problem else line.calls,
                    "problem": line.problem,
                    "ranges": [
                        {
                            "from": each.first.isoformat(),
                            "to": each.last.isoformat(),
                            "rows": each.rows,
                            "calls": each.calls,
                        }
                        for each in line.ranges
                    ],
                }
                for line in self.lines
            ],
            "rows": self.rows,
            "calls": self.calls,
            "spent": self.spent,
            "quota": {
                "limit": self.limit,
                "lanes": [asdict(lane) for lane in self.lanes],
                "seconds_per_call": self.seconds_per_call,
                "backfill_today": self.backfill_today,
                "backfill_whole_day": self.backfill_whole_day,
                "days": [
                    {"day": day.isoformat(), "calls": calls} for day, calls in self.forecast.days
                ],
                "done_at": self.forecast.done_at.isoformat() if self.forecast.done_at else None,
            },
        }


def choose_collections(
    catalogue: Catalogue, names: Sequence[str], *, every: bool
) -> list[Collection]:
    """Return the events collections to plan: those named, or `every` enabled one.

    Raises: BadPlan if a collection cannot be planned.
    """
    if every == bool(names):
        raise BadPlan(
            "Name the collections to plan, such as `magnetis plan calls visits`, or give --all for "
            "every events collection."
        )
    if every:
        return [each for each in catalogue.enabled if each.is_events]
    found = []
    for name in dict.fromkeys(names):
        if name not in catalogue.collections:
            raise BadPlan(f"No collection {name}. There are: {', '.join(catalogue.collections)}.")
        collection = catalogue[name]
        if not collection.is_events:
            raise BadPlan(
                f"{name} is a snapshot collection: the API shows only its present state, so there "
                "is no past to backfill. The schedule daily_snapshots takes today's snapshot."
            )
        if not collection.enabled:
            raise BadPlan(
                f"{name} is switched off ({collection.reason or 'enabled: false'}): there is no "
                "asset to backfill."
            )
        found.append(collection)
    return found


def parse_day(text: str, option: str) -> date:
    """Return the day that an option names.

    Raises: BadPlan if it is not a day.
    """
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise BadPlan(f"{option}: expected a day such as 2024-01-31, got {text!r}.") from None


def requested_window(first: date, last: date, *, start: date, today: date) -> Window:
    """Return the days `first` to `last`.

    Raises: BadPlan unless all of them are partitions: ended, and not before `start`.
    """
    if first > last:
        raise BadPlan(f"--from {first} is after --to {last}: give the older day to --from.")
    if first < start:
        raise BadPlan(
            f"--from {first} is before {start}, the first partition (MAGNETIS_START_DATE). Set the "
            "variable to an earlier day where the service runs, or plan later days."
        )
    if last >= today:
        raise BadPlan(
            f"--to {last} has not ended (today is {today}): plan days up to "
            f"{today - timedelta(days=1)}."
        )
    return Window(first, last)


def make_plan(
    collections: Sequence[Collection],
    window: Window,
    warehouse: Warehouse,
    ledger: Ledger,
    *,
    zones: Zones,
    origin: str,
    key: str,
    missing: bool = False,
    limits: ClientLimits = LIMITS,
    progress: Callable[[str], None] = lambda _line: None,
) -> Plan:
    """Return the price of a window; with `missing`, of its incomplete days.

    Spends one API call, charged to the lane manual, for each collection that has days to read. An
    error of one collection becomes its `problem`. Blocks.

    Raises: errors that would stop every other request too (key refused, no connection, quota
        exhausted), and the errors of the database.
    """
    complete = {
        each.name: warehouse.completed_days(each, window.days) if missing else {}
        for each in collections
    }
    ranges = {
        each.name: contiguous(day for day in window.days if day not in complete[each.name])
        for each in collections
    }
    guard = LedgerGuard(ledger, COMMAND)
    hulls = [(each, _hull(ranges[each.name])) for each in collections if ranges[each.name]]
    client = MagnetisClient(origin, key, guard, concurrency=1, limits=limits)
    announced = asyncio.run(_announce(client, hulls, zones, progress))
    lines = tuple(
        _price(each, ranges[each.name], complete[each.name], announced.get(each.name))
        for each in collections
    )
    return _schedule(window, lines, warehouse, ledger, missing=missing, spent=guard.charged.total())


def _schedule(
    window: Window,
    lines: tuple[PlanLine, ...],
    warehouse: Warehouse,
    ledger: Ledger,
    *,
    missing: bool,
    spent: int,
) -> Plan:
    """Return the plan of priced lines: when the lane backfill can send their calls."""
    policy, usage = ledger.policy, ledger.usage(BACKFILL)
    pace = read_pace(warehouse.engine, ledger, usage=usage)
    today, whole_day = capacity(policy, usage, pace)
    used, mean = usage.by_lane, pace.mean_a_day
    return Plan(
        first=window.first,
        last=window.last,
        missing=missing,
        lines=lines,
        spent=spent,
        at=usage.at.astimezone(policy.zone),
        limit=policy.limit,
        lanes=tuple(
            LaneUse(lane, policy.floor(lane, usage.at), used.get(lane, 0), mean.get(lane, 0.0))
            for lane in LANES
        ),
        seconds_per_call=pace.seconds_per_call,
        backfill_today=today,
        backfill_whole_day=whole_day,
        forecast=forecast(policy, usage, sum(line.calls for line in lines), pace),
    )


def _hull(ranges: Sequence[Window]) -> Window:
    return Window(ranges[0].first, ranges[-1].last)


async def _announce(
    client: MagnetisClient,
    windows: Sequence[tuple[Collection, Window]],
    zones: Zones,
    progress: Callable[[str], None],
) -> dict[str, int | str]:
    """Return by collection the announced rows, or the reason why they are unknown."""
    found: dict[str, int | str] = {}
    async with client:
        for collection, window in windows:
            name = collection.name
            parameters = window.parameters(collection, zones)
            days = (window.first, window.last)
            call = ApiCall(name, collection.route, parameters, limit=1, days=days)
            rows: int | str | None
            try:
                rows = (await client.page(call)).total
            except _ONE_COLLECTION as error:
                rows = str(error) if str(error).startswith(name) else f"{name}: {error}"
            if rows is None:
                rows = (
                    f"{name}: the answer has no meta.total, so only a load can count the rows of "
                    f"{window}"
                )
            found[name] = rows
            progress(f"{name} {window}: {rows} rows" if isinstance(rows, int) else rows)
    return found


def _price(
    collection: Collection,
    ranges: Sequence[Window],
    complete: Mapping[date, MergedDay],
    announced: int | str | None,
) -> PlanLine:
    days = sum(len(each.days) for each in ranges)
    if isinstance(announced, str) or announced is None:
        return PlanLine(collection.name, days, (), announced)
    if collection.window is None:
        # a route without a window returns all its rows to each request
        pages = max(1, -(-announced // PAGE_ROWS))
        whole = [PricedRange(each.first, each.last, announced, pages) for each in ranges]
        return PlanLine(collection.name, days, tuple(whole))
    hull = _hull(ranges)
    held = sum(each.held for day, each in complete.items() if hull.first <= day <= hull.last)
    rows = max(0, announced - held)
    priced = []
    for each in ranges:
        share = rows if len(ranges) == 1 else round(rows * len(each.days) / days)
        calls = expected_calls(share, chunk_rows=CHUNK_ROWS, days=len(each.days))
        priced.append(PricedRange(each.first, each.last, share, calls))
    return PlanLine(collection.name, days, tuple(priced))


def format_moment(moment: datetime, now: datetime) -> str:
    """Return `today 15:40` or `2025-12-03 01:10`, rounded up to the minute.

    Both moments are in one time zone.
    """
    if moment.second or moment.microsecond:
        moment = (moment + timedelta(minutes=1)).replace(second=0, microsecond=0)
    return f"today {moment:%H:%M}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M}"


def completion(plan: Plan) -> str:
    """Return the expected time of completion, in words."""
    done_at = plan.forecast.done_at
    if done_at is None:
        return f"not within {MOST_DAYS:,} days"
    return f"about {format_moment(done_at, plan.at)}"
