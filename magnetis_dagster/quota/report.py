"""What has become of one key's calls: read from the ledger's tables, as plain numbers. For `magnetis quota` and for Dagster.

Reads only, and takes no lock; shows nothing of other keys but how many there are. How it looks is for `screen.py` and `defs`.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, TextClause, text

from magnetis_dagster.api_calls import LONGEST_CALL
from magnetis_dagster.database import guarded
from magnetis_dagster.quota.ledger import Ledger, QuotaExhausted
from magnetis_dagster.quota.rules import (
    BACKFILL,
    DAY,
    LANES,
    QuotaPolicy,
    QuotaWindow,
    Usage,
    allowance,
)

DAYS = 30
"""As many as the vendor's own screen shows."""
TOP = 10
"""Collections and runs of today that are listed."""

PREPARED = text(
    "SELECT to_regclass('magnetis_ops.quota_keys') IS NOT NULL AS prepared, clock_timestamp() AS at"
)
"""Whether the tables are there; reading makes none."""
_COUNTS = """
    count(*) AS calls,
    count(*) FILTER (WHERE status BETWEEN 200 AND 299) AS ok,
    count(*) FILTER (WHERE status = 429) AS over_quota,
    count(*) FILTER (WHERE status NOT BETWEEN 200 AND 299 AND status <> 429
                        OR status IS NULL AND (settled_at IS NOT NULL OR charged_at < :lost)) AS failed,
    coalesce(sum(rows), 0) AS rows
"""


def _tallies(name: str, also: str = "") -> TextClause:
    return text(f"""
        SELECT {name} AS name, {also} {_COUNTS} FROM magnetis_ops.api_calls
        WHERE key_fingerprint = :key AND charged_at >= :begun GROUP BY 1 ORDER BY calls DESC, 1
    """)


_BY_DAY = _tallies("day::text")
_BY_ROUTE = _tallies("route")
_BY_COLLECTION = _tallies("collection")
_BY_RUN = _tallies("coalesce(run_id, 'unknown')", "min(lane) AS lane,")
_DAYS = text("""
    SELECT day, daily_quota, used_elsewhere FROM magnetis_ops.quota_days WHERE key_fingerprint = :key AND day >= :first
""")
_CALLS = text("""
    SELECT lane, charged_at, least(coalesce(settled_at, charged_at + :longest), charged_at + :longest) AS until
    FROM magnetis_ops.api_calls
    WHERE key_fingerprint = :key AND charged_at >= :begun - :longest
      AND coalesce(settled_at, charged_at + :longest) >= :begun
    ORDER BY id
""")
_OTHER_KEYS = text(
    "SELECT count(DISTINCT key_fingerprint) FROM magnetis_ops.quota_days WHERE key_fingerprint <> :key"
)


@dataclass(frozen=True, slots=True)
class LaneToday:
    """What one lane has used and may use."""

    lane: str
    used: int
    floor: int
    """Calls that backfill leaves to the lane at this moment, used ones included."""
    remaining: int
    """Calls that it may send now, if nobody else does; 0 while the key is closed."""
    calls_again_at: datetime | None
    """When it may send its next call; None: now."""
    reason: str | None
    """Why not now."""

    @property
    def kept(self) -> int:
        """Calls of its floor that it has not used: backfill may not have them now."""
        return max(0, self.floor - self.used)


@dataclass(frozen=True, slots=True)
class Today:
    """The budget at one moment. In a rolling window, what counts is the last 24 hours instead of the day."""

    key_fingerprint: str
    at: datetime
    """By the database's clock, in the quota's zone like every moment here."""
    day: date
    ends_at: datetime | None
    """When the quota day ends; None in a rolling window, which has no end."""
    window: str
    limit: int
    used: int
    """By all lanes and elsewhere."""
    used_elsewhere: int
    """Calls of the same key that others made, as far as the API lets know."""
    remaining: int
    closed_until: datetime | None
    """The API said that no call is left until then."""
    trial: bool
    """That moment has passed: the next call is the one that tells whether the API has reopened."""
    key_refused: bool
    """The API refused the key itself; that, not a used-up quota, is why it is closed."""
    closed_signal: str | None
    """Status and rate-limit headers of the response that closed the key; None if it is open."""
    lanes: tuple[LaneToday, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """Calls by what came of them. What `calls` has more than the other three together is still under way."""

    name: str
    calls: int = 0
    ok: int = 0
    over_quota: int = 0
    """Answered with 429."""
    failed: int = 0
    """Any other answer, or none."""
    rows: int = 0


@dataclass(frozen=True, slots=True)
class DayTally(Tally):
    """One quota day; `name` is its date."""

    limit: int = 0
    used_elsewhere: int = 0


@dataclass(frozen=True, slots=True)
class RunTally(Tally):
    """One run of today; `name` is its id, or the command that called."""

    lane: str = ""


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """The budget of one key today, and where its calls went."""

    today: Today
    days: tuple[DayTally, ...]
    """The last 30 days, the oldest first, days without a call included."""
    routes: tuple[Tally, ...]
    """The same 30 days by route, the most called first."""
    collections: tuple[Tally, ...]
    """Today's ten that called most."""
    runs: tuple[RunTally, ...]
    """Today's ten that called most."""
    other_keys: int
    """Other keys that have called into this database; each has a budget of its own."""

    def as_json(self) -> str:
        """Return the report as JSON; moments are ISO 8601 with offset."""
        return orjson.dumps(self).decode()


def read_today(engine: Engine, *, key_fingerprint: str, policy: QuotaPolicy) -> Today:
    """Return the budget now; a database that no load has touched yet has all of it. Raises DatabaseUnavailable, DatabaseRefused."""
    ledger = Ledger(engine, key_fingerprint=key_fingerprint, policy=policy)
    with guarded(engine, "read the quota"), engine.connect() as connection:
        found = connection.execute(PREPARED).one()
    usage = (
        ledger.usage() if found.prepared else Usage(at=found.at, by_lane=dict.fromkeys(LANES, 0))
    )
    closed = usage.closed_until is not None and usage.closed_until > usage.at
    return Today(
        key_fingerprint=key_fingerprint,
        at=usage.at.astimezone(policy.zone),
        day=policy.day_of(usage.at),
        ends_at=None
        if policy.window is QuotaWindow.ROLLING
        else policy.day_end(usage.at).astimezone(policy.zone),
        window=policy.window.value,
        limit=policy.limit,
        used=usage.used,
        used_elsewhere=usage.elsewhere,
        remaining=max(0, policy.limit - usage.used),
        closed_until=usage.closed_until.astimezone(policy.zone)
        if usage.closed_until and closed
        else None,
        trial=usage.closed_until is not None and not closed,
        key_refused=usage.key_refused,
        closed_signal=usage.closed_signal if usage.closed_until else None,
        lanes=tuple(
            _lane(lane, usage, policy, ledger if found.prepared else None, closed=closed)
            for lane in LANES
        ),
    )


def read_report(engine: Engine, *, key_fingerprint: str, policy: QuotaPolicy) -> QuotaReport:
    """Return the whole report. Raises DatabaseUnavailable, DatabaseRefused."""
    today = read_today(engine, key_fingerprint=key_fingerprint, policy=policy)
    first = today.day - timedelta(days=DAYS - 1)
    dates = [first + timedelta(days=number) for number in range(DAYS)]
    with guarded(engine, "read the calls of the last 30 days"), engine.connect() as connection:
        if not connection.execute(PREPARED).one().prepared:
            return QuotaReport(
                today, tuple(DayTally(str(day), limit=policy.limit) for day in dates), (), (), (), 0
            )
        asked = {
            "key": key_fingerprint,
            "begun": policy.day_start(first),
            "lost": today.at - LONGEST_CALL,
        }
        this_day = asked | {"begun": policy.day_start(today.day)}
        called = {row["name"]: row for row in _rows(connection, _BY_DAY, asked)}
        kept = {
            row.day: row
            for row in connection.execute(_DAYS, {"key": key_fingerprint, "first": first})
        }
        return QuotaReport(
            today=today,
            days=tuple(
                DayTally(
                    **called.get(str(day), {"name": str(day)}),
                    limit=kept[day].daily_quota if day in kept else policy.limit,
                    used_elsewhere=kept[day].used_elsewhere if day in kept else 0,
                )
                for day in dates
            ),
            routes=tuple(Tally(**row) for row in _rows(connection, _BY_ROUTE, asked)),
            collections=tuple(
                Tally(**row) for row in _rows(connection, _BY_COLLECTION, this_day)[:TOP]
            ),
            runs=tuple(RunTally(**row) for row in _rows(connection, _BY_RUN, this_day)[:TOP]),
            other_keys=connection.execute(_OTHER_KEYS, {"key": key_fingerprint}).scalar_one(),
        )


def _lane(
    lane: str, usage: Usage, policy: QuotaPolicy, ledger: Ledger | None, *, closed: bool
) -> LaneToday:
    exhausted = None
    if ledger is not None:
        try:
            ledger.require(lane)
        except QuotaExhausted as error:
            exhausted = error
    return LaneToday(
        lane=lane,
        used=usage.by_lane[lane],
        floor=policy.floor(lane, usage.at),
        remaining=0 if closed else allowance(policy, usage, lane),
        calls_again_at=exhausted.available_at.astimezone(policy.zone) if exhausted else None,
        reason=exhausted.reason if exhausted else None,
    )


def _rows(
    connection: Connection, statement: TextClause, parameters: Mapping[str, object]
) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(statement, parameters).mappings()]


@dataclass(frozen=True, slots=True)
class Grant:
    """One charged call."""

    lane: str
    charged_at: datetime
    until: datetime
    """The latest moment at which the API may have received it."""


@dataclass(frozen=True, slots=True)
class FloorsKept:
    """What the replay found."""

    judged: int
    """Calls of backfill that were judged."""
    broken: int
    """Those that were granted although only the others' floors were left."""
    first_broken: datetime | None = None


def replay(policy: QuotaPolicy, grants: Iterable[Grant], since: datetime) -> FloorsKept:
    """Judge the grants from `since` on. They come in the order in which they were given, earlier ones that count included."""
    counted: Counter[str] = Counter()
    ageing: list[tuple[datetime, str]] = []
    judged = broken = 0
    first_broken = None
    for grant in grants:
        while ageing and ageing[0][0] <= grant.charged_at:
            counted[heapq.heappop(ageing)[1]] -= 1
        if grant.lane == BACKFILL and grant.charged_at >= since:
            judged += 1
            if allowance(policy, Usage(at=grant.charged_at, by_lane=counted), BACKFILL) < 1:
                broken += 1
                first_broken = first_broken or grant.charged_at
        counted[grant.lane] += 1
        if policy.window is QuotaWindow.ROLLING:
            heapq.heappush(ageing, (grant.until + DAY, grant.lane))
    return FloorsKept(judged, broken, first_broken)


def floors_kept(
    engine: Engine, *, key_fingerprint: str, policy: QuotaPolicy, since: datetime, now: datetime
) -> FloorsKept:
    """Judge backfill's calls of the quota day of `now` (rolling: of the last 24 hours), from `since` on.

    Raises DatabaseUnavailable, DatabaseRefused.
    """
    judged_from = (
        now - DAY if policy.window is QuotaWindow.ROLLING else policy.day_start(policy.day_of(now))
    )
    counted_from = judged_from - DAY if policy.window is QuotaWindow.ROLLING else judged_from
    parameters = {"key": key_fingerprint, "begun": counted_from, "longest": LONGEST_CALL}
    with guarded(engine, "read today's calls"), engine.connect() as connection:
        if not connection.execute(PREPARED).one().prepared:
            return FloorsKept(0, 0)
        grants = [Grant(*row) for row in connection.execute(_CALLS, parameters)]
    return replay(policy, grants, max(since, judged_from))
