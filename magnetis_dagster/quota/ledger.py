"""The ledger: every call is charged in its own transaction, before anything is sent, under the lock of its key's row.

Any number of processes on any number of machines queue at that row, so they cannot pass the limit together, and a process that dies
after a grant has spent it: nothing is given back. What may be granted is decided by `policy.py`; the moment comes from the
database's clock, `magnetis_ops.now()`, the one clock that all processes share (tests move it by replacing that function).

A call counts in every quota window in which the API may have received it: it is on its way from its charge until it is settled, or
until LONGEST_CALL where its process died. So a call charged just before midnight counts on the next day too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, text

from magnetis_dagster.database import guarded
from magnetis_dagster.errors import NeedsChange, TryAgain
from magnetis_dagster.quota.policy import LANES, Granted, QuotaPolicy, QuotaWindow, Refused, Usage, allowance, decide, most_ever

LONGEST_CALL = timedelta(minutes=5)
"""No call is under way longer: the client gives up after three minutes."""
SHORT_PAUSE = 60.0
"""Seconds: a 429 that asks for less is a throttle, and says nothing about the day."""

_LOCK = text("""
    SELECT closed_until, trial_until, trial_call, last_sent, lanes_last_sent
    FROM magnetis_ops.quota_keys WHERE key_fingerprint = :key FOR UPDATE
""")
_LOOK = text("""
    SELECT closed_until, trial_until, trial_call, last_sent, lanes_last_sent
    FROM magnetis_ops.quota_keys WHERE key_fingerprint = :key
""")
_ADD_KEY = text("INSERT INTO magnetis_ops.quota_keys (key_fingerprint) VALUES (:key) ON CONFLICT DO NOTHING")

_CALENDAR = text("""
    WITH moment AS MATERIALIZED (SELECT magnetis_ops.now() AS at),
         today AS (SELECT at, (at AT TIME ZONE :zone)::date AS day FROM moment),
         start AS (SELECT at, day, day::timestamp AT TIME ZONE :zone AS begun FROM today)
    SELECT s.at, d.used_elsewhere, d.schedule, d.settings, d.manual, d.backfill,
           (SELECT jsonb_object_agg(lane, number) FROM (
                SELECT a.lane, count(*) AS number FROM magnetis_ops.api_calls AS a
                WHERE a.key_fingerprint = :key AND a.charged_at >= s.begun - :longest AND a.charged_at < s.begun
                  AND coalesce(a.settled_at, a.charged_at + :longest) >= s.begun
                GROUP BY a.lane) AS late) AS late
    FROM start AS s LEFT JOIN magnetis_ops.quota_days AS d ON d.key_fingerprint = :key AND d.day = s.day
""")
_ROLLING = text("""
    WITH moment AS MATERIALIZED (SELECT magnetis_ops.now() AS at)
    SELECT m.at, d.used_elsewhere,
           (SELECT jsonb_object_agg(lane, number) FROM (
                SELECT a.lane, count(*) AS number FROM magnetis_ops.api_calls AS a
                WHERE a.key_fingerprint = :key AND a.charged_at > m.at - interval '24 hours' - :longest
                  AND coalesce(a.settled_at, a.charged_at + :longest) > m.at - interval '24 hours'
                GROUP BY a.lane) AS counted) AS late
    FROM moment AS m
    LEFT JOIN magnetis_ops.quota_days AS d ON d.key_fingerprint = :key AND d.day = (m.at AT TIME ZONE :zone)::date
""")
_AGED = text("""
    SELECT coalesce(a.settled_at, a.charged_at + :longest) + interval '24 hours' AS aged
    FROM magnetis_ops.api_calls AS a
    WHERE a.key_fingerprint = :key AND a.charged_at > :at - interval '24 hours' - :longest
      AND coalesce(a.settled_at, a.charged_at + :longest) > :at - interval '24 hours'
    ORDER BY aged OFFSET :missing - 1 LIMIT 1
""")


def _grant(lane: str) -> Any:
    return text(f"""
        WITH called AS (
            INSERT INTO magnetis_ops.api_calls
                (key_fingerprint, day, charged_at, collection, route, first_day, last_day, page, run_id, lane)
            VALUES (:key, :day, :at, :collection, :route, :first_day, :last_day, :page, :run_id, :lane)
            RETURNING id
        ), counted AS (
            INSERT INTO magnetis_ops.quota_days AS q (key_fingerprint, day, daily_quota, {lane})
            VALUES (:key, :day, :daily_quota, 1)
            ON CONFLICT (key_fingerprint, day) DO UPDATE SET {lane} = q.{lane} + 1, daily_quota = excluded.daily_quota
        ), noted AS (
            UPDATE magnetis_ops.quota_keys SET last_sent = :send_at,
                lanes_last_sent = lanes_last_sent || jsonb_build_object(CAST(:lane AS text), CAST(:send_at AS timestamptz)),
                trial_call = CASE WHEN :trial THEN (SELECT id FROM called) ELSE trial_call END,
                trial_until = CASE WHEN :trial THEN :at + :longest ELSE trial_until END
            WHERE key_fingerprint = :key
        )
        SELECT id FROM called
    """)


_GRANT = {lane: _grant(lane) for lane in LANES}

_SETTLE = text("""
    WITH settled AS (
        UPDATE magnetis_ops.api_calls SET settled_at = magnetis_ops.now(),
            status = :status, error = :error, rows = :rows, bytes = :bytes, milliseconds = :milliseconds
        WHERE id = :id
    ), tried AS (
        UPDATE magnetis_ops.quota_keys SET trial_call = NULL, trial_until = NULL,
            closed_until = CASE WHEN :open THEN NULL ELSE closed_until END
        WHERE key_fingerprint = :key AND trial_call = :id
        RETURNING closed_until IS NULL AS open
    )
    SELECT open FROM tried
""")
_CLOSE = text("""
    INSERT INTO magnetis_ops.quota_keys AS k (key_fingerprint, closed_until)
    SELECT :key, CASE WHEN CAST(:retry_after AS float8) IS NULL
                      THEN ((at AT TIME ZONE :zone)::date + 1)::timestamp AT TIME ZONE :zone
                      ELSE at + make_interval(secs => :retry_after) END
    FROM (SELECT magnetis_ops.now() AS at) AS moment
    ON CONFLICT (key_fingerprint) DO UPDATE
        SET closed_until = greatest(k.closed_until, excluded.closed_until), trial_call = NULL, trial_until = NULL
    RETURNING closed_until
""")
_ELSEWHERE = text("""
    INSERT INTO magnetis_ops.quota_days AS q (key_fingerprint, day, daily_quota, used_elsewhere)
    SELECT :key, (magnetis_ops.now() AT TIME ZONE :zone)::date, :daily_quota, :elsewhere
    ON CONFLICT (key_fingerprint, day) DO UPDATE SET used_elsewhere = excluded.used_elsewhere
""")


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call is charged for; written to `magnetis_ops.api_calls`."""

    collection: str
    route: str
    page: int
    lane: str
    run_id: str | None = None
    first_day: date | None = None
    last_day: date | None = None


@dataclass(frozen=True, slots=True)
class Charged:
    """A call that is charged, and may be sent after `pause` seconds (0 unless calls are paced)."""

    number: int
    """Its number in `magnetis_ops.api_calls`."""
    pause: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a charged call."""

    status: int | None
    error: str | None = None
    rows: int | None = None
    size: int = 0
    """Bytes."""
    milliseconds: int = 0
    over_quota: bool = False
    """The API says that no call is left."""
    retry_after: float | None = None
    """Seconds that it asks to wait then; None: until the next quota day."""
    remaining: int | None = None
    """Calls left by the API's own word, where it gives one."""


class QuotaExhausted(TryAgain):
    """The lane has no call for now; nothing was sent. `available_at` (UTC) says when to ask again, `at` when this was found."""

    def __init__(self, lane: str, refused: Refused, usage: Usage, available_at: datetime, policy: QuotaPolicy) -> None:
        self.lane = lane
        self.at = usage.at
        self.available_at = available_at
        self.reason = refused.reason
        when = available_at.astimezone(policy.zone).strftime("%Y-%m-%d %H:%M:%S %Z")
        super().__init__(
            f"Out of quota for lane {lane}: {refused.reason} ({usage.used} of {policy.limit} used, MAGNETIS_DAILY_QUOTA). "
            f"Calls are available again at {when}. Nothing was sent; what was read before is kept."
        )


class TooFewEver(NeedsChange):
    """What is asked for needs more calls in one quota day than its lane can have."""


class Ledger:
    """Charges and settles calls of one key by one policy. Thread-safe; every method is one short transaction.

    Every method may raise DatabaseUnwell or DatabaseRefused; a call whose charge raises must not be sent.
    """

    def __init__(self, engine: Engine, *, key_fingerprint: str, policy: QuotaPolicy) -> None:
        self.policy = policy
        self._engine = engine
        self._key = key_fingerprint

    def charge(self, charge: Charge) -> Charged:
        """Charge one call, durably. Raises QuotaExhausted where the lane may not send one now."""
        with guarded(self._engine, "charge an API call (so none was sent)"), self._engine.begin() as connection:
            usage = self._usage(connection, self._lock(connection), charge.lane)
            decision = decide(self.policy, usage, charge.lane)
            if isinstance(decision, Refused):
                raise self._exhausted(connection, charge.lane, decision, usage)
            number = self._grant(connection, charge, decision, usage.at)
        return Charged(number, max(0.0, (decision.send_at - usage.at).total_seconds()))

    def settle(self, number: int, settlement: Settlement) -> None:
        """Note what became of the call `number`; the charge stands whatever it was. An over-quota answer closes the key."""
        with guarded(self._engine, "note an API call's outcome"), self._engine.begin() as connection:
            # losing this note in a crash loses no charge, so it need not wait for the disk
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            reopened = connection.execute(
                _SETTLE,
                {
                    "key": self._key,
                    "id": number,
                    "open": settlement.status is not None and settlement.status < 500 and not settlement.over_quota,
                    "status": settlement.status,
                    "error": settlement.error,
                    "rows": settlement.rows,
                    "bytes": settlement.size,
                    "milliseconds": settlement.milliseconds,
                },
            ).scalar()
            if reopened:
                self._note_elsewhere(connection, 0)
            if settlement.over_quota:
                self._close(connection, settlement.retry_after)
            if settlement.remaining is not None:
                self._believe(connection, settlement.remaining)

    def close(self, retry_after: float | None) -> datetime:
        """Close the key for every process for `retry_after` seconds, or until the next calendar day; return until when."""
        with guarded(self._engine, "close the key"), self._engine.begin() as connection:
            return self._close(connection, retry_after)

    def usage(self, lane: str = "manual") -> Usage:
        """Return what counts now; `lane` matters for pacing only."""
        with guarded(self._engine, "read the quota"), self._engine.connect() as connection:
            return self._usage(connection, connection.execute(_LOOK, {"key": self._key}).one_or_none(), lane)

    def left(self, lane: str) -> int:
        """Return how many calls `lane` may still make now; 0 while the key is closed."""
        usage = self.usage(lane)
        closed = usage.closed_until is not None and usage.closed_until > usage.at
        return 0 if closed else allowance(self.policy, usage, lane)

    def require(self, lane: str, calls: int) -> None:
        """Raise QuotaExhausted unless `lane` can send `calls` calls now, TooFewEver if it never can; charges nothing."""
        if calls > (most := most_ever(self.policy, lane)):
            raise TooFewEver(
                f"{calls} API calls are needed in one quota day and lane {lane} never has more than {most} "
                f"(MAGNETIS_DAILY_QUOTA={self.policy.limit}). Raise the quota, or load with the run tag magnetis/lane: manual."
            )
        with guarded(self._engine, "read the quota"), self._engine.connect() as connection:
            usage = self._usage(connection, connection.execute(_LOOK, {"key": self._key}).one_or_none(), lane)
            decision = decide(self.policy, usage, lane, calls)
            if isinstance(decision, Refused):
                raise self._exhausted(connection, lane, decision, usage)

    # --- inside a transaction

    def _lock(self, connection: Connection) -> Row[Any]:
        found = connection.execute(_LOCK, {"key": self._key}).one_or_none()
        if found is None:
            connection.execute(_ADD_KEY, {"key": self._key})
            found = connection.execute(_LOCK, {"key": self._key}).one()
        return found

    def _usage(self, connection: Connection, key: Row[Any] | None, lane: str) -> Usage:
        # a statement of its own, after the lock: what others granted while we waited must be seen
        statement = _CALENDAR if self.policy.window is QuotaWindow.CALENDAR else _ROLLING
        found = connection.execute(statement, self._parameters()).mappings().one()
        late: Mapping[str, int] = found["late"] or {}
        lanes_last_sent = key.lanes_last_sent if key else {}
        last = lanes_last_sent.get(lane)
        return Usage(
            at=found["at"],
            by_lane={name: (found.get(name) or 0) + late.get(name, 0) for name in LANES},
            elsewhere=found["used_elsewhere"] or 0,
            closed_until=key.closed_until if key else None,
            trial_until=key.trial_until if key else None,
            last_sent=key.last_sent if key else None,
            lane_last_sent=datetime.fromisoformat(last) if last else None,
        )

    def _grant(self, connection: Connection, charge: Charge, granted: Granted, at: datetime) -> int:
        number = connection.execute(
            _GRANT[charge.lane],
            self._parameters()
            | {
                "at": at,
                "day": self.policy.day_of(at),
                "daily_quota": self.policy.limit,
                "send_at": granted.send_at,
                "trial": granted.trial,
                "collection": charge.collection,
                "route": charge.route,
                "first_day": charge.first_day,
                "last_day": charge.last_day,
                "page": charge.page,
                "run_id": charge.run_id,
                "lane": charge.lane,
            },
        ).scalar_one()
        return int(number)

    def _exhausted(self, connection: Connection, lane: str, refused: Refused, usage: Usage) -> QuotaExhausted:
        available_at = refused.available_at
        if available_at is None:
            parameters = self._parameters() | {"at": usage.at, "missing": max(1, refused.missing)}
            # where others hold more than our own calls can free, only time tells: look again within the hour
            available_at = connection.execute(_AGED, parameters).scalar() or usage.at + timedelta(hours=1)
        return QuotaExhausted(lane, refused, usage, available_at, self.policy)

    def _close(self, connection: Connection, retry_after: float | None) -> datetime:
        closed: datetime = connection.execute(_CLOSE, self._parameters() | {"retry_after": retry_after}).scalar_one()
        if retry_after is None or retry_after > SHORT_PAUSE:
            self._believe(connection, 0)
        return closed

    def _believe(self, connection: Connection, remaining: int) -> None:
        """Take the API's word for what remains, downwards only: what we did not use ourselves was used elsewhere."""
        usage = self._usage(connection, None, "manual")
        own = sum(usage.by_lane.values())
        self._note_elsewhere(connection, max(usage.elsewhere, self.policy.limit - own - remaining, 0))

    def _note_elsewhere(self, connection: Connection, elsewhere: int) -> None:
        connection.execute(_ELSEWHERE, self._parameters() | {"daily_quota": self.policy.limit, "elsewhere": elsewhere})

    def _parameters(self) -> dict[str, object]:
        return {"key": self._key, "zone": self.policy.zone.key, "longest": LONGEST_CALL}
