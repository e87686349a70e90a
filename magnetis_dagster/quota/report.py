"""Report one key's quota and calls, and replay past grants.

Reads the ledger's tables and takes no lock. Shows nothing about other keys except their number.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import orjson
from sqlalchemy import Engine, TextClause, text

from magnetis_dagster.api_calls import LONGEST_CALL
from magnetis_dagster.database import fetch, guarded
from magnetis_dagster.dates import DAY, days_between
from magnetis_dagster.quota.ledger import Ledger, QuotaExhausted
from magnetis_dagster.quota.rules import (
    BACKFILL,
    LANES,
    QuotaPolicy,
    Usage,
    allowance,
)

_DAYS_SHOWN = 30
"""As many as on the vendor's own screen."""
_TOP = 10
"""Number of today's collections and runs in the report."""

_PREPARED = text(
    "SELECT to_regclass('magnetis_ops.quota_keys') IS NOT NULL AS prepared, clock_timestamp() AS at"
)
_COUNTS = """
    count(*) AS calls,
    count(*) FILTER (WHERE status BETWEEN 200 AND 299) AS ok,
    count(*) FILTER (WHERE status = 429) AS over_quota,
    count(*) FILTER (WHERE status NOT BETWEEN 200 AND 299 AND status <> 429
                        OR status IS NULL AND (settled_at IS NOT NULL OR charged_at < :lost))
        AS failed,
    coalesce(sum(rows), 0) AS rows
"""


def _counts_by(name: str, also: str = "") -> TextClause:
    return text(f"""
        SELECT {name} AS name, {also} {_COUNTS} FROM magnetis_ops.api_calls
        WHERE key_fingerprint = :key AND charged_at >= :start GROUP BY 1 ORDER BY calls DESC, 1
    """)


_BY_DAY = _counts_by("day::text")
_BY_ROUTE = _counts_by("route")
_BY_COLLECTION = _counts_by("collection")
_BY_RUN = _counts_by("coalesce(run_id, 'unknown')", "min(lane) AS lane,")
_DAYS = text("""
    SELECT day, daily_quota, used_elsewhere FROM magnetis_ops.quota_days
    WHERE key_fingerprint = :key AND day >= :first
""")
_CALLS = text("""
    SELECT lane, charged_at,
           least(coalesce(settled_at, charged_at + :longest), charged_at + :longest) AS until
    FROM magnetis_ops.api_calls
    WHERE key_fingerprint = :key AND charged_at >= :start - :longest
      AND coalesce(settled_at, charged_at + :longest) >= :start
    ORDER BY id
""")
_OTHER_KEYS = text("""
    SELECT count(DISTINCT key_fingerprint) FROM magnetis_ops.quota_days
    WHERE key_fingerprint <> :key
""")


@dataclass(frozen=True, slots=True)
class LaneToday:
    """The quota of one lane."""

    lane: str
    used: int
    floor: int
    """Calls of the lane's floor at this moment, including used ones."""
    remaining: int
    """Calls that the lane may send now if no other lane sends any; 0 while the key is closed."""
    calls_again_at: datetime | None
    """When the lane may send its next call; None: now."""
    reason: str | None
    """Reason of the refusal; None if a call may be sent now."""

    @property
    def kept(self) -> int:
        """Unused calls of the floor, which backfill may not use now."""
        return max(0, self.floor - self.used)


@dataclass(frozen=True, slots=True)
class Today:
    """The quota at one moment.

    With a rolling quota, the last 24 hours count instead of the day.
    """

    key_fingerprint: str
    at: datetime
    """By the database's clock. All times are in the quota's zone."""
    day: date
    ends_at: datetime | None
    """When the quota day ends; None for a rolling quota, which has no end."""
    window: str
    limit: int
    used: int
    """Calls by all lanes and elsewhere."""
    used_elsewhere: int
    """Calls that other programs sent, by the API's count."""
    remaining: int
    closed_until: datetime | None
    """The API reported an exhausted quota until then."""
    trial: bool
    """That time has passed: the next call finds out whether the API reopened."""
    key_refused: bool
    """Whether the key is closed because the API rejected it."""
    closed_signal: str | None
    """Status and rate-limit headers of the response that closed the key; None if it is open."""
    lanes: tuple[LaneToday, ...]


@dataclass(frozen=True, slots=True)
class CallCounts:
    """Calls by result. Calls in none of the three results are still in flight."""

    name: str
    calls: int = 0
    ok: int = 0
    over_quota: int = 0
    """Answered with HTTP 429."""
    failed: int = 0
    """Answered in another way, or not at all."""
    rows: int = 0


@dataclass(frozen=True, slots=True)
class DayCounts(CallCounts):
    """One quota day; `name` is its date."""

    limit: int = 0
    used_elsewhere: int = 0


@dataclass(frozen=True, slots=True)
class RunCounts(CallCounts):
    """One run of today; `name` is its id, or the command that sent the calls."""

    lane: str = ""


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """The quota of one key today, and its calls by day, route, collection and run."""

    today: Today
    days: tuple[DayCounts, ...]
    """The last 30 days, oldest first, including days without a call."""
    routes: tuple[CallCounts, ...]
    """The same 30 days by route, most calls first."""
    collections: tuple[CallCounts, ...]
    """Today's ten collections with the most calls."""
    runs: tuple[RunCounts, ...]
    """Today's ten runs with the most calls."""
    other_keys: int
    """Number of other keys that sent calls into this database; each has its own quota."""

    def as_json(self) -> str:
        """Return the report as JSON; times are ISO 8601 with offset."""
        return orjson.dumps(self).decode()


def read_today(engine: Engine, *, key_fingerprint: str, policy: QuotaPolicy) -> Today:
    """Return the current quota; a database without a load has all of it."""
    ledger = Ledger(engine, key_fingerprint=key_fingerprint, policy=policy)
    [found] = fetch(engine, "read the quota", _PREPARED)
    usage = (
        ledger.usage() if found.prepared else Usage(at=found.at, by_lane=dict.fromkeys(LANES, 0))
    )

    def local(moment: datetime | None) -> datetime | None:
        return moment and moment.astimezone(policy.zone)

    def lane_today(lane: str) -> LaneToday:
        exhausted = None
        if found.prepared:
            try:
                ledger.require(lane)
            except QuotaExhausted as error:
                exhausted = error
        return LaneToday(
            lane=lane,
            used=usage.by_lane[lane],
            floor=policy.floor(lane, usage.at),
            remaining=0 if usage.is_closed else allowance(policy, usage, lane),
            calls_again_at=local(exhausted.available_at) if exhausted else None,
            reason=exhausted.reason if exhausted else None,
        )

    return Today(
        key_fingerprint=key_fingerprint,
        at=usage.at.astimezone(policy.zone),
        day=policy.day_of(usage.at),
        ends_at=None if policy.is_rolling else local(policy.day_end(usage.at)),
        window=policy.window.value,
        limit=policy.limit,
        used=usage.used,
        used_elsewhere=usage.elsewhere,
        remaining=max(0, policy.limit - usage.used),
        closed_until=local(usage.closed_until) if usage.is_closed else None,
        trial=usage.closed_until is not None and not usage.is_closed,
        key_refused=usage.key_refused,
        closed_signal=usage.closed_signal if usage.closed_until else None,
        lanes=tuple(map(lane_today, LANES)),
    )


def read_report(engine: Engine, *, key_fingerprint: str, policy: QuotaPolicy) -> QuotaReport:
    """Return the whole report. Raises DatabaseUnavailable, DatabaseRefused."""
    today = read_today(engine, key_fingerprint=key_fingerprint, policy=policy)
    first = today.day - timedelta(days=_DAYS_SHOWN - 1)
    days = days_between(first, today.day)
    parameters = {
        "key": key_fingerprint,
        "first": first,
        "start": policy.day_start(first),
        "lost": today.at - LONGEST_CALL,
    }
    this_day = parameters | {"start": policy.day_start(today.day)}
    with guarded(engine, "read the calls of the last 30 days"), engine.connect() as connection:
        if not connection.execute(_PREPARED).one().prepared:
            empty = tuple(DayCounts(str(day), limit=policy.limit) for day in days)
            return QuotaReport(today, empty, (), (), (), 0)
        calls = {row["name"]: row for row in connection.execute(_BY_DAY, parameters).mappings()}
        quotas = {row.day: row for row in connection.execute(_DAYS, parameters)}
        routes = connection.execute(_BY_ROUTE, parameters).mappings().all()
        collections = connection.execute(_BY_COLLECTION, this_day).mappings().fetchmany(_TOP)
        runs = connection.execute(_BY_RUN, this_day).mappings().fetchmany(_TOP)
        other_keys = connection.execute(_OTHER_KEYS, parameters).scalar_one()
    return QuotaReport(
        today=today,
        days=tuple(
            DayCounts(
                **calls.get(str(day), {"name": str(day)}),
                limit=quotas[day].daily_quota if day in quotas else policy.limit,
                used_elsewhere=quotas[day].used_elsewhere if day in quotas else 0,
            )
            for day in days
        ),
        routes=tuple(CallCounts(**row) for row in routes),
        collections=tuple(CallCounts(**row) for row in collections),
        runs=tuple(RunCounts(**row) for row in runs),
        other_keys=other_keys,
    )


@dataclass(frozen=True, slots=True)
class Grant:
    """One charged call."""

    lane: str
    charged_at: datetime
    until: datetime
    """Latest time at which the API may have received it."""


@dataclass(frozen=True, slots=True)
class FloorReplay:
    """The result of a replay."""

    judged: int
    broken: int
    """Backfill calls that were granted although only the floors of other lanes were left."""
    first_broken: datetime | None = None


def check_grants(policy: QuotaPolicy, grants: Iterable[Grant], since: datetime) -> FloorReplay:
    """Check the grants from `since` on against the quota rules.

    The grants are in the order in which they were given. Earlier ones count but are not checked:
    the variables of that time are unknown. Calls used elsewhere are ignored, because their times
    are unknown; so a broken floor is reported only if the rows prove it.
    """
    counted: Counter[str] = Counter()
    expiries: list[tuple[datetime, str]] = []
    judged = broken = 0
    first_broken = None
    for grant in grants:
        while expiries and expiries[0][0] <= grant.charged_at:
            counted[heapq.heappop(expiries)[1]] -= 1
        if grant.lane == BACKFILL and grant.charged_at >= since:
            judged += 1
            if allowance(policy, Usage(at=grant.charged_at, by_lane=counted), BACKFILL) < 1:
                broken += 1
                first_broken = first_broken or grant.charged_at
        counted[grant.lane] += 1
        if policy.is_rolling:
            heapq.heappush(expiries, (grant.until + DAY, grant.lane))
    return FloorReplay(judged, broken, first_broken)


def replay_floors(
    engine: Engine, *, key_fingerprint: str, policy: QuotaPolicy, since: datetime, now: datetime
) -> FloorReplay:
    """Check backfill's calls from `since` on, of the quota day of `now` or the last 24 hours."""
    judged_from = counted_from = policy.day_start(policy.day_of(now))
    if policy.is_rolling:
        judged_from, counted_from = now - DAY, now - 2 * DAY
    parameters = {"key": key_fingerprint, "start": counted_from, "longest": LONGEST_CALL}
    with guarded(engine, "read today's calls"), engine.connect() as connection:
        if not connection.execute(_PREPARED).one().prepared:
            return FloorReplay(0, 0)
        grants = [Grant(*row) for row in connection.execute(_CALLS, parameters)]
    return check_grants(policy, grants, max(since, judged_from))
