"""Charge every call in its own transaction, before it is sent.

Any number of processes on any number of machines queue for the row lock of the key, so they cannot
exceed the limit together. Nothing is refunded, even if a process dies after a grant. `rules.py`
decides what may be granted. The time comes from the database's clock, `magnetis_ops.now()`, which
tests replace.

A call counts in every quota window in which the API may have received it. That is from its charge
until it is settled, or until LONGEST_CALL has passed if its process died. A charge that waited is
renewed directly before its request is sent. If the quota window has changed, the call is charged
again.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Engine

from magnetis_dagster.api_calls import LONGEST_CALL, NOT_SENT
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import driver_of, guarded
from magnetis_dagster.dates import DAY
from magnetis_dagster.errors import TransientError
from magnetis_dagster.quota import ledger_sql as sql
from magnetis_dagster.quota.rules import (
    KEY_REFUSED,
    LANES,
    Granted,
    QuotaPolicy,
    Refused,
    Usage,
    allowance,
    decide,
    usage_after,
)

SHORT_PAUSE = 60.0
"""Seconds. A 429 that requests a shorter wait is a throttle and says nothing about the day."""
REFUSED_PAUSE = 900.0
"""Seconds until a key that the API rejected is tried again; `magnetis quota --reopen` tries it now.
"""


@dataclass(frozen=True, slots=True)
class Charge:
    """A call to be charged; written to `magnetis_ops.api_calls`."""

    collection: str
    route: str
    page: int
    lane: str
    run_id: str | None = None
    backfill_id: str | None = None
    first_day: date | None = None
    last_day: date | None = None
    renews: int | None = None
    """Earlier charge of this call, not sent: it is renewed, or settled and charged again."""
    trial: bool = False
    """If the key is closed, charge a trial call now."""


@dataclass(frozen=True, slots=True)
class Charged:
    """A charged call."""

    number: int
    pause: float
    """Seconds until it may be sent; 0 unless calls are paced."""
    valid_seconds: float
    """The quota window of the charge lasts this long from the grant."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The outcome of a charged call."""

    status: int | None
    error: str | None = None
    rows: int | None = None
    size: int = 0
    """Bytes."""
    milliseconds: int = 0
    over_quota: bool = False
    throttled: bool = False
    """Whether that quota is per minute or hour, not per day."""
    key_refused: bool = False
    """Whether the API rejects the key itself."""
    retry_after: float | None = None
    """Seconds that the API requests to wait; None: until the next quota day."""
    remaining: int | None = None
    """Calls left according to the API; None if it does not report them."""
    signal: str | None = None
    """Status and rate-limit headers; stored if the response closes the key."""

    @property
    def closes(self) -> bool:
        """Whether it closes the key for every process."""
        return self.over_quota or self.key_refused

    @property
    def opens(self) -> bool:
        """Whether it reopens the key, if its call was the trial."""
        return self.status is not None and self.status < 500 and not self.closes


class QuotaExhausted(TransientError):
    """The lane has no call left for now; nothing was sent.

    `available_at` (UTC) is when to retry, `at` when the ledger decided.
    """

    def __init__(self, lane: str, refused: Refused, usage: Usage, policy: QuotaPolicy) -> None:
        self.lane = lane
        self.at = usage.at
        self.available_at = refused.available_at
        self.reason = refused.reason
        self.key_refused = usage.key_refused and allowance(policy, usage, lane) > 0
        signal = ""
        if usage.is_closed and usage.closed_signal:
            signal = f" The API said: {usage.closed_signal}."
        when = refused.available_at.astimezone(policy.zone).strftime("%Y-%m-%d %H:%M:%S %Z")
        if self.key_refused:
            super().__init__(
                f"The API rejected this key before, so nothing was sent.{signal} Check "
                "MAGNETIS_API_KEY, or the key of the connection, in the Magnetis interface: "
                "API & connecteurs > API. The key is "
                f"tried again at {when}; `magnetis quota --reopen` tries it now."
            )
            return
        super().__init__(
            f"Out of quota for lane {lane}: {refused.reason} ({usage.used} of {policy.limit} used, "
            f"MAGNETIS_DAILY_QUOTA).{signal} Calls are available again at {when}. Nothing was "
            "sent; rows loaded before are kept."
        )


# not asdict: it copies each value, and takes 50 us while the key is locked
_CHARGED = ("collection", "route", "first_day", "last_day", "page", "run_id", "backfill_id")
_SETTLED = ("status", "error", "rows", "size", "milliseconds")


class _Cursor(psycopg.Cursor[Any]):
    """A cursor in a transaction that is sent as one `pipeline`."""

    def __init__(self, connection: psycopg.Connection[Any], pipeline: psycopg.Pipeline) -> None:
        super().__init__(connection, row_factory=namedtuple_row)
        self.pipeline = pipeline


class Ledger:
    """Charges and settles the calls of one key according to its quota rules.

    Thread-safe; every method is one short transaction, and may raise DatabaseUnavailable or
    DatabaseRefused. A call whose charge raises must not be sent.

    The API counts per key, so connections that share a key share its quota. The rows record which
    connection charged.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        key_fingerprint: str,
        policy: QuotaPolicy,
        connection_name: str = UNNAMED,
    ) -> None:
        self.policy = policy
        self.key_fingerprint = key_fingerprint
        self.connection_name = connection_name
        self._engine = engine
        self._parameters = {
            "key": key_fingerprint,
            "zone": policy.zone.key,
            "longest": LONGEST_CALL,
            "daily_quota": policy.limit,
            "connection": connection_name,
        }

    def charge(self, charge: Charge) -> Charged:
        """Charge one call durably. Raises QuotaExhausted if the lane may not send one now."""
        [answer] = self.charge_and_settle([charge])
        if isinstance(answer, QuotaExhausted):
            raise answer
        return answer

    def settle(self, number: int, settlement: Settlement) -> None:
        """Record the outcome of call `number`; see `charge_and_settle`."""
        self.charge_and_settle(settlements={number: settlement})

    def charge_and_settle(
        self,
        charges: Sequence[Charge] = (),
        settlements: Mapping[int, Settlement] = MappingProxyType({}),
    ) -> list[Charged | QuotaExhausted]:
        """Record outcomes by call number, then charge calls of one lane, in one transaction.

        An over-quota outcome closes the key. Returns the answer to each charge in order.
        """
        if len({charge.lane for charge in charges}) > 1:
            raise ValueError("all charges of one transaction must have the same lane")
        action = (
            "charge an API call (so none was sent)" if charges else "record an API call's outcome"
        )
        with self._transaction(action) as cursor:
            if not charges:
                cursor.execute(sql.COMMIT_WITHOUT_WAITING)
            for number, settlement in settlements.items():
                self._settle(cursor, number, settlement)
            grants = self._charge_each(cursor, charges) if charges else []
        # fetched after the commit: before it, each number would cost a round trip under the lock
        return [
            replace(grant, number=next(number).id)
            if number and isinstance(grant, Charged)
            else grant
            for number, grant in grants
        ]

    def usage(self, lane: str = "manual") -> Usage:
        """Return the current usage; `lane` only matters for pacing."""
        with self._transaction("read the quota") as cursor:
            return self._usage(cursor, sql.KEY_STATE, lane)[1]

    def left(self, lane: str) -> int:
        """Return how many calls `lane` may still send now; 0 while the key is closed."""
        usage = self.usage(lane)
        return 0 if usage.is_closed else allowance(self.policy, usage, lane)

    def expiries(self, at: datetime) -> list[tuple[datetime, str]]:
        """Return when each call counted at `at` stops counting, and its lane (rolling quota)."""
        if not self.policy.is_rolling:
            return []
        with self._transaction("read the quota") as cursor:
            return self._expiries(cursor, at)

    def require(self, lane: str) -> None:
        """Raise QuotaExhausted unless `lane` can send a call now. Charges nothing."""
        with self._transaction("read the quota") as cursor:
            self._decide(cursor, self._usage(cursor, sql.KEY_STATE, lane)[1], lane)

    @contextmanager
    def _transaction(self, action: str) -> Iterator[_Cursor]:
        """Open a transaction in pipeline mode: it waits only when a result is fetched.

        So a charge keeps the lock for one round trip and its commit: benchmarks/quota.py.
        """
        with guarded(self._engine, action), self._engine.connect() as pooled:
            connection = driver_of(pooled)
            with connection.pipeline() as pipeline:
                yield _Cursor(connection, pipeline)
                connection.commit()

    def _settle(self, cursor: _Cursor, number: int, settlement: Settlement) -> None:
        outcome = {"id": number, "open": settlement.opens, "closes": settlement.closes}
        values = {name: getattr(settlement, name) for name in _SETTLED}
        cursor.execute(sql.SETTLE, self._parameters | values | outcome)
        if not settlement.closes and settlement.remaining is None:
            return
        charged_at, retry_after = next(cursor).charged_at, settlement.retry_after
        if settlement.over_quota:
            self._close(cursor, retry_after, charged_at, settlement.signal)
            if not settlement.throttled and (retry_after is None or retry_after > SHORT_PAUSE):
                self._lower_remaining(cursor, 0, charged_at)
        elif settlement.key_refused:
            self._close(cursor, REFUSED_PAUSE, None, f"{settlement.signal}{KEY_REFUSED}")
        if settlement.remaining is not None:
            self._lower_remaining(cursor, settlement.remaining, charged_at)

    def _charge_each(
        self, cursor: _Cursor, charges: Sequence[Charge]
    ) -> list[tuple[_Cursor | None, Charged | QuotaExhausted]]:
        """Return the answer to each charge, and the cursor of a new grant's number."""
        lane = charges[0].lane
        usage = self._locked_usage(cursor, lane)
        grants: list[tuple[_Cursor | None, Charged | QuotaExhausted]] = []
        for charge in charges:
            if charge.renews is not None:
                if self._renew(cursor, charge.renews, usage.at):
                    renewed = Charged(charge.renews, 0.0, self._valid_seconds(usage.at))
                    grants.append((None, renewed))
                    continue
                self._settle(cursor, charge.renews, Settlement(status=None, error=NOT_SENT))
                # the old charge may have been the trial that others wait for
                _, usage = self._usage(cursor, sql.KEY_STATE, lane)
            granting = _Cursor(cursor.connection, cursor.pipeline)
            seen = usage
            if charge.trial and usage.closed_until is not None:
                seen = replace(usage, closed_until=min(usage.closed_until, usage.at))
            try:
                granted = self._decide(granting, seen, lane)
            except QuotaExhausted as exhausted:
                grants.append((None, exhausted))
                continue
            self._grant(granting, charge, granted, usage.at)
            pause = max(0.0, (granted.send_at - usage.at).total_seconds())
            grants.append((granting, Charged(0, pause, self._valid_seconds(usage.at))))
            usage = usage_after(usage, lane, granted, LONGEST_CALL)
        return grants

    def _valid_seconds(self, at: datetime) -> float:
        window = DAY if self.policy.is_rolling else self.policy.day_end(at) - at
        return window.total_seconds()

    def _renew(self, cursor: _Cursor, number: int, at: datetime) -> bool:
        values = {"id": number, "at": at, "rolling": self.policy.is_rolling}
        cursor.execute(sql.RENEW, self._parameters | values)
        return cursor.fetchone() is not None

    def _locked_usage(self, cursor: _Cursor, lane: str) -> Usage:
        known, usage = self._usage(cursor, sql.LOCK_KEY, lane)
        if not known:
            cursor.execute(sql.ADD_KEY, self._parameters)
            _, usage = self._usage(cursor, sql.LOCK_KEY, lane)
        return usage

    def _usage(self, cursor: _Cursor, state: str, lane: str) -> tuple[bool, Usage]:
        counting = _Cursor(cursor.connection, cursor.pipeline)
        cursor.execute(state, self._parameters)
        # a separate statement after the lock, so that it sees the grants made while this one waited
        counting.execute(
            sql.ROLLING_USAGE if self.policy.is_rolling else sql.CALENDAR_USAGE, self._parameters
        )
        # Results fetched without a sync leave the session active in the server's view, so that
        # LOCK_KEY's timeout never starts.
        cursor.pipeline.sync()
        key, found = cursor.fetchone(), next(counting)
        more: Mapping[str, int] = found.more or {}
        last = key.lanes_last_sent.get(lane) if key else None
        names = ("closed_until", "trial_until", "last_sent", "closed_signal")
        return key is not None, Usage(
            at=found.at,
            by_lane={name: (getattr(found, name) or 0) + more.get(name, 0) for name in LANES},
            elsewhere=found.used_elsewhere or 0,
            lane_last_sent=datetime.fromisoformat(last) if last else None,
            **({name: getattr(key, name) for name in names} if key else {}),
        )

    def _decide(self, cursor: _Cursor, usage: Usage, lane: str) -> Granted:
        decision = decide(self.policy, usage, lane, partial(self._expiries, cursor, usage.at))
        if isinstance(decision, Refused):
            raise QuotaExhausted(lane, decision, usage, self.policy)
        return decision

    def _expiries(self, cursor: _Cursor, at: datetime) -> list[tuple[datetime, str]]:
        return cursor.execute(sql.EXPIRIES, self._parameters | {"at": at}).fetchall()

    def _grant(self, cursor: _Cursor, charge: Charge, granted: Granted, at: datetime) -> None:
        # `trial` is the decision, not the wish of the charge
        decided = {"at": at, "send_at": granted.send_at, "trial": granted.trial}
        values = {name: getattr(charge, name) for name in _CHARGED}
        cursor.execute(sql.GRANT[charge.lane], self._parameters | values | decided)

    def _close(
        self,
        cursor: _Cursor,
        retry_after: float | None,
        charged_at: datetime | None,
        signal: str | None,
    ) -> datetime:
        values = {"retry_after": retry_after, "charged_at": charged_at, "signal": signal}
        cursor.execute(sql.CLOSE, self._parameters | values)
        closed_until: datetime = next(cursor).closed_until
        return closed_until

    def _lower_remaining(
        self, cursor: _Cursor, remaining: int, charged_at: datetime | None
    ) -> None:
        """Lower the remaining calls to the number that the API reports, never raise them.

        Calls that this ledger did not count were used elsewhere. Takes the lock, because two
        simultaneous responses would overwrite each other. A response to a call of yesterday says
        nothing about today.
        """
        usage = self._locked_usage(cursor, "manual")
        elsewhere = self.policy.limit - sum(usage.by_lane.values()) - remaining
        today = charged_at is None or self.policy.day_of(charged_at) == self.policy.day_of(usage.at)
        if elsewhere > usage.elsewhere and (today or self.policy.is_rolling):
            values = {"at": usage.at, "elsewhere": elsewhere}
            cursor.execute(sql.USED_ELSEWHERE, self._parameters | values)
