"""The ledger: one conditional statement grants a call, in its own transaction, before anything is sent.

The budget row of the quota day is the only lock, so any number of processes on any number of machines cannot pass the limit, and a
process that dies after a grant has spent it: nothing is given back. The moment and the day come from the database's clock, the one
clock that all processes share.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, text

from magnetis_dagster.database import guarded
from magnetis_dagster.errors import TryAgain

_NOW = "(clock_timestamp() + CAST(:shift AS interval))"

_CHARGE = text(f"""
    WITH moment AS (
        SELECT at, (at AT TIME ZONE :zone)::date AS day FROM (SELECT {_NOW} AS at) AS clock
    ), granted AS (
        INSERT INTO magnetis_ops.quota_days AS q (key_fingerprint, day, daily_quota, used)
        SELECT :key, day, :daily_quota, 1 FROM moment
        WHERE NOT EXISTS (
            SELECT 1 FROM magnetis_ops.quota_days AS c WHERE c.key_fingerprint = :key AND c.closed_until > moment.at
        )
        ON CONFLICT (key_fingerprint, day) DO UPDATE SET used = q.used + 1, daily_quota = excluded.daily_quota
        WHERE q.used < excluded.daily_quota AND (q.closed_until IS NULL OR q.closed_until <= (SELECT at FROM moment))
        RETURNING day
    )
    INSERT INTO magnetis_ops.api_calls
        (key_fingerprint, day, charged_at, collection, route, first_day, last_day, page, run_id, lane)
    SELECT :key, granted.day, moment.at, :collection, :route, :first_day, :last_day, :page, :run_id, :lane
    FROM granted, moment
    RETURNING id
""")

_SETTLE = text(f"""
    UPDATE magnetis_ops.api_calls
    SET settled_at = {_NOW}, status = :status, error = :error, rows = :rows, bytes = :bytes, milliseconds = :milliseconds
    WHERE id = :id
""")

_CLOSE = text(f"""
    INSERT INTO magnetis_ops.quota_days AS q (key_fingerprint, day, daily_quota, used, closed_until)
    SELECT :key, day, :daily_quota, 0,
           CASE WHEN CAST(:retry_after AS float8) IS NULL THEN (day + 1)::timestamp AT TIME ZONE :zone
                ELSE at + make_interval(secs => :retry_after) END
    FROM (SELECT at, (at AT TIME ZONE :zone)::date AS day FROM (SELECT {_NOW} AS at) AS clock) AS moment
    ON CONFLICT (key_fingerprint, day) DO UPDATE SET closed_until = greatest(q.closed_until, excluded.closed_until)
    RETURNING closed_until
""")

_STATE = text(f"""
    SELECT moment.at, moment.day, coalesce(q.used, 0) AS used,
           (SELECT max(c.closed_until) FROM magnetis_ops.quota_days AS c
             WHERE c.key_fingerprint = :key AND c.closed_until > moment.at) AS closed_until,
           (moment.day + 1)::timestamp AT TIME ZONE :zone AS next_day
    FROM (SELECT at, (at AT TIME ZONE :zone)::date AS day FROM (SELECT {_NOW} AS at) AS clock) AS moment
    LEFT JOIN magnetis_ops.quota_days AS q ON q.key_fingerprint = :key AND q.day = moment.day
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
class QuotaState:
    """The budget of one key at one moment."""

    at: datetime
    """Moment of the reading, by the database's clock, UTC."""
    day: date
    """Quota day, in the ledger's zone."""
    daily_quota: int
    used: int
    closed_until: datetime | None
    """Set while the API says that no call is left."""
    next_day: datetime
    """Start of the next quota day, UTC."""

    @property
    def left(self) -> int:
        """Calls left today; 0 while the key is closed."""
        return 0 if self.closed_until else max(0, self.daily_quota - self.used)

    @property
    def available_at(self) -> datetime:
        """When a call can be had: now, when the key reopens, or when the next quota day begins; UTC."""
        if self.closed_until:
            return self.closed_until
        return self.at if self.used < self.daily_quota else self.next_day


class QuotaExhausted(TryAgain):
    """No call is left for now. `available_at` (UTC) says when calls are available again; nothing was sent."""

    def __init__(self, state: QuotaState, zone: ZoneInfo) -> None:
        self.state = state
        self.available_at = state.available_at
        when = state.available_at.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")
        if state.closed_until:
            reason = f"the API answered that this key has no calls left ({state.used} of {state.daily_quota} charged here today)"
        else:
            reason = f"all {state.daily_quota} calls of {state.day} are spent (MAGNETIS_DAILY_QUOTA)"
        super().__init__(
            f"Out of quota: {reason}. Calls are available again at {when}. Nothing was sent; what was read before is kept."
        )


class Ledger:
    """Charges and settles calls of one key. Thread-safe; every method is one short transaction.

    `zone` is the zone of the quota day. `shift` moves the clock, for tests.
    """

    def __init__(
        self, engine: Engine, *, key_fingerprint: str, daily_quota: int, zone: ZoneInfo, shift: timedelta = timedelta(0)
    ) -> None:
        self._engine = engine
        self.zone = zone
        self.daily_quota = daily_quota
        self.shift = shift
        self._key = key_fingerprint

    def charge(self, charge: Charge) -> int:
        """Charge one call and return its number in `api_calls`, durably: the call may be sent now.

        Raises QuotaExhausted where none is left, DatabaseUnwell where the ledger cannot be reached (then nothing may be sent).
        """
        parameters = self._parameters() | {
            "daily_quota": self.daily_quota,
            "collection": charge.collection,
            "route": charge.route,
            "first_day": charge.first_day,
            "last_day": charge.last_day,
            "page": charge.page,
            "run_id": charge.run_id,
            "lane": charge.lane,
        }
        with guarded(self._engine, "charge an API call (so none was sent)"), self._engine.begin() as connection:
            granted = connection.execute(_CHARGE, parameters).scalar()
        if granted is None:
            raise QuotaExhausted(self.state(), self.zone)
        return int(granted)

    def settle(self, number: int, *, status: int | None, error: str | None, rows: int | None, size: int, milliseconds: int) -> None:
        """Note what became of the call `number`; `size` in bytes. The charge stands whatever became of it."""
        with guarded(self._engine, "note an API call's outcome"), self._engine.begin() as connection:
            # losing this note in a crash loses no charge, so it need not wait for the disk
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            connection.execute(
                _SETTLE,
                {
                    "shift": self.shift,
                    "id": number,
                    "status": status,
                    "error": error,
                    "rows": rows,
                    "bytes": size,
                    "milliseconds": milliseconds,
                },
            )

    def close(self, retry_after: float | None) -> datetime:
        """Close the key for every process for `retry_after` seconds, or until the next quota day where None; return until when."""
        parameters = self._parameters() | {"daily_quota": self.daily_quota, "retry_after": retry_after}
        with guarded(self._engine, "close the key"), self._engine.begin() as connection:
            closed: datetime = connection.execute(_CLOSE, parameters).scalar_one()
        return closed

    def state(self) -> QuotaState:
        """Return the budget as it is now."""
        with guarded(self._engine, "read the quota"), self._engine.connect() as connection:
            row = connection.execute(_STATE, self._parameters()).one()
        return QuotaState(
            at=row.at,
            day=row.day,
            daily_quota=self.daily_quota,
            used=row.used,
            closed_until=row.closed_until,
            next_day=row.next_day,
        )

    def _parameters(self) -> dict[str, object]:
        return {"key": self._key, "zone": self.zone.key, "shift": self.shift}
