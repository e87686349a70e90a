"""The ledger agrees with a model, on a real PostgreSQL.

Any order of calls, responses, crashes, changes of the limit and jumps of the clock. The model keeps
every call in a list and counts by reading all of them. It shares no code with the ledger: it
computes days, floors and times in another way.

50 sequences of each kind, or as many as MODEL_EXAMPLES says: `MODEL_EXAMPLES=1000 make test
ARGS=tests/integration/quota/test_model.py`.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, text

from magnetis_dagster.quota import LANES, QuotaPolicy, QuotaWindow
from magnetis_dagster.quota.ledger import Charge, Charged, Ledger, QuotaExhausted, Settlement

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "50"))
PARIS = ZoneInfo("Europe/Paris")
KEYS = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")
FLOORS = {"schedule": 40, "manual": 20}
"""Percent."""
LONGEST_IN_FLIGHT = timedelta(minutes=5)
"""How long a call of a dead process may be in flight."""
DAY = timedelta(hours=24)
SECOND = timedelta(seconds=1)


def day_of(moment: datetime) -> date:
    return moment.astimezone(PARIS).date()


def midnight_after(moment: datetime) -> datetime:
    tomorrow = day_of(moment) + timedelta(days=1)
    return datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=PARIS).astimezone(UTC)


@dataclass
class ModelCall:
    number: int
    lane: str
    charged_at: datetime
    trial: bool
    settled_at: datetime | None = None
    status: int | None = None

    @property
    def until(self) -> datetime:
        """Return the latest time at which the API may have received it."""
        return self.settled_at or self.charged_at + LONGEST_IN_FLIGHT


@dataclass
class ModelKey:
    calls: list[ModelCall] = field(default_factory=list)
    open: list[ModelCall] = field(default_factory=list)
    """In flight: neither settled nor crashed."""
    closed_until: datetime | None = None
    trial: ModelCall | None = None
    elsewhere: Counter[date] = field(default_factory=Counter)

    def counting(self, window: QuotaWindow, now: datetime) -> list[ModelCall]:
        if window is QuotaWindow.ROLLING:
            return [call for call in self.calls if call.until > now - DAY]
        today = day_of(now)
        return [
            call for call in self.calls if day_of(call.charged_at) <= today <= day_of(call.until)
        ]

    def room(self, window: QuotaWindow, limit: int, lane: str, now: datetime) -> int:
        lanes = Counter(call.lane for call in self.counting(window, now))
        elsewhere = 0 if self.closed_until else self.elsewhere[day_of(now)]
        room = limit - lanes.total() - elsewhere
        if lane == "backfill":
            hours = (
                24.0
                if window is QuotaWindow.ROLLING
                else (midnight_after(now) - now).total_seconds() / 3600
            )
            kept = {
                of: int(share * limit / 100 * min(1.0, hours / 6) + 1e-9)
                for of, share in FLOORS.items()
            }
            room -= sum(max(0, floor - lanes[of]) for of, floor in kept.items())
        return room

    def grants(self, window: QuotaWindow, limit: int, lane: str, now: datetime) -> bool:
        if self.closed_until and now < self.closed_until:
            return False
        if self.trial and now < self.trial.charged_at + LONGEST_IN_FLIGHT:
            return False
        return self.room(window, limit, lane, now) >= 1


class LedgerMachine(RuleBasedStateMachine):
    """Rules simulate processes, the API and the clock; the test provides `window` and `engine`."""

    window: QuotaWindow
    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.keys = {key: ModelKey() for key in KEYS}
        self.limit = 4

    @initialize(
        start=st.sampled_from(
            [
                datetime(2025, 3, 29, 22, 58, tzinfo=UTC),  # before the day of 23 hours
                datetime(2025, 3, 30, 21, 57, tzinfo=UTC),  # at its end
                datetime(2025, 10, 25, 21, 59, tzinfo=UTC),  # before the day of 25 hours
                datetime(2025, 10, 26, 20, tzinfo=UTC),  # on that day, while floors shrink
                datetime(2025, 6, 1, 10, tzinfo=UTC),
            ]
        )
    )
    def begin(self, start: datetime) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "TRUNCATE magnetis_ops.api_calls, magnetis_ops.quota_days, "
                    "magnetis_ops.quota_keys"
                )
            )
        self.now = start
        self.set_clock(start)

    def set_clock(self, moment: datetime) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE OR REPLACE FUNCTION magnetis_ops.now() RETURNS timestamptz "
                    "LANGUAGE sql VOLATILE AS "
                    f"'SELECT ''{moment.isoformat()}''::timestamptz'"
                )
            )

    def ledger(self, key: str) -> Ledger:
        floors = {lane: share / 100 for lane, share in FLOORS.items()}
        policy = QuotaPolicy(limit=self.limit, zone=PARIS, window=self.window, floors=floors)
        return Ledger(self.engine, key_fingerprint=key, policy=policy)

    @rule(
        key=st.sampled_from(KEYS),
        lane=st.sampled_from(LANES),
        times=st.integers(1, 6),
        at_once=st.booleans(),
    )
    def charge(self, key: str, lane: str, times: int, at_once: bool) -> None:
        charge, known = (
            Charge(collection="calls", route="/calls", page=1, lane=lane),
            self.keys[key],
        )
        turns = [times] if at_once else [1] * times
        for answer in (
            answer
            for charges in turns
            for answer in self.ledger(key).charge_and_settle([charge] * charges)
        ):
            if not known.grants(self.window, self.limit, lane, self.now):
                assert isinstance(answer, QuotaExhausted)
                self.check_moment(key, lane, answer)
                continue
            assert isinstance(answer, Charged)
            assert answer.pause == 0
            call = ModelCall(answer.number, lane, self.now, trial=known.closed_until is not None)
            known.calls.append(call)
            known.open.append(call)
            known.trial = call if call.trial else known.trial
            assert len(known.counting(self.window, self.now)) <= self.limit

    def check_moment(self, key: str, lane: str, exhausted: QuotaExhausted) -> None:
        """Retry one second before the time that a refusal names, and at that time."""
        assert exhausted.at == self.now
        known, named = self.keys[key], exhausted.available_at
        if known.trial and self.now < known.trial.charged_at + LONGEST_IN_FLIGHT:
            assert named == self.now + 2 * SECOND
            return
        for moment, expected in ((named - SECOND, False), (named, True)):
            if moment <= self.now:
                continue
            grants = known.grants(self.window, self.limit, lane, moment)
            # An unsettled call of the last five minutes may have been received after midnight. The
            # refusal does not foresee that.
            late = (
                moment == named
                and self.window is QuotaWindow.CALENDAR
                and any(
                    call.settled_at is None and day_of(call.until) > day_of(call.charged_at)
                    for call in known.calls
                )
            )
            assert grants == expected or (late and not grants), (
                f"named {named}, and the model says {grants} at {moment}"
            )
            self.set_clock(moment)
            try:
                self.ledger(key).require(lane)
                assert grants
            except QuotaExhausted:
                assert not grants
            finally:
                self.set_clock(self.now)

    def take(self, key: str, data: st.DataObject) -> tuple[ModelKey, ModelCall]:
        known = self.keys[key]
        return known, known.open.pop(data.draw(st.integers(0, len(known.open) - 1)))

    def settle(self, key: str, call: ModelCall, settlement: Settlement) -> None:
        self.ledger(key).settle(call.number, settlement)
        known = self.keys[key]
        call.settled_at, call.status = self.now, settlement.status
        tried = known.trial is call
        if tried:
            known.trial = None
        if settlement.over_quota:
            until = midnight_after(call.charged_at)
            if settlement.retry_after is not None:
                until = self.now + timedelta(seconds=settlement.retry_after)
            known.closed_until = max(until, known.closed_until or until)
            known.trial = None
            if settlement.retry_after is None or settlement.retry_after > 60:
                self.lower_remaining(known, call, 0)
        elif tried and settlement.status is not None and settlement.status < 500:
            known.closed_until = None
            known.elsewhere[day_of(self.now)] = 0
        if settlement.remaining is not None:
            self.lower_remaining(known, call, settlement.remaining)

    def lower_remaining(self, known: ModelKey, call: ModelCall, remaining: int) -> None:
        today = day_of(self.now)
        if self.window is QuotaWindow.ROLLING or day_of(call.charged_at) == today:
            own = len(known.counting(self.window, self.now))
            known.elsewhere[today] = max(known.elsewhere[today], self.limit - own - remaining)

    @rule(
        key=st.sampled_from(KEYS),
        data=st.data(),
        status=st.sampled_from([200, 200, 200, 404, 500, None]),
    )
    def answer(self, key: str, data: st.DataObject, status: int | None) -> None:
        if self.keys[key].open:
            _, call = self.take(key, data)
            self.settle(key, call, Settlement(status=status))

    @rule(
        key=st.sampled_from(KEYS),
        data=st.data(),
        retry_after=st.sampled_from([None, None, 0.0, 20.0, 120.0, 7200.0, 100_000.0]),
    )
    def answer_429(self, key: str, data: st.DataObject, retry_after: float | None) -> None:
        if self.keys[key].open:
            _, call = self.take(key, data)
            self.settle(key, call, Settlement(status=429, over_quota=True, retry_after=retry_after))

    @rule(key=st.sampled_from(KEYS), data=st.data(), remaining=st.integers(0, 6))
    def answer_with_remaining(self, key: str, data: st.DataObject, remaining: int) -> None:
        if self.keys[key].open:
            _, call = self.take(key, data)
            self.settle(key, call, Settlement(status=200, remaining=remaining))

    @rule(key=st.sampled_from(KEYS), data=st.data())
    def crash(self, key: str, data: st.DataObject) -> None:
        if self.keys[key].open:
            self.take(key, data)

    @rule(
        by=st.sampled_from(
            [1, 30, 61, 240, 3600, 4 * 3600, 7 * 3600, 23 * 3600, 24 * 3600, 25 * 3600]
        )
    )
    def pass_time(self, by: int) -> None:
        self.now += timedelta(seconds=by)
        for known in self.keys.values():
            # the client gives up after three minutes
            late = [
                call for call in known.open if call.charged_at < self.now - timedelta(minutes=3)
            ]
            known.open = [call for call in known.open if call not in late]
        self.set_clock(self.now)

    @rule()
    def pass_to_the_edge_of_the_day(self) -> None:
        self.pass_time(int((midnight_after(self.now) - self.now).total_seconds()) - 1 or 1)

    @rule(
        key=st.sampled_from(KEYS),
        lane=st.sampled_from(LANES),
        remaining=st.sampled_from([None, 0, 1]),
        data=st.data(),
    )
    def answer_after_midnight(
        self, key: str, lane: str, remaining: int | None, data: st.DataObject
    ) -> None:
        self.pass_to_the_edge_of_the_day()
        self.charge(key, lane, 1, at_once=False)
        self.pass_time(3)
        if self.keys[key].open:
            _, call = self.take(key, data)
            over = remaining is None
            self.settle(
                key,
                call,
                Settlement(status=429 if over else 200, over_quota=over, remaining=remaining),
            )
        self.charge(key, lane, 1, at_once=False)

    @rule(
        key=st.sampled_from(KEYS),
        lane=st.sampled_from(LANES),
        status=st.sampled_from([200, 503, 429]),
    )
    def close_and_try_again(self, key: str, lane: str, status: int) -> None:
        self.charge(key, lane, 1, at_once=False)
        if self.keys[key].open:
            call = self.keys[key].open.pop()
            self.settle(key, call, Settlement(status=429, over_quota=True, retry_after=120.0))
            self.pass_time(121)
            self.charge(key, lane, 2, at_once=True)
        if self.keys[key].open:
            call = self.keys[key].open.pop()
            self.settle(
                key, call, Settlement(status=status, over_quota=status == 429, retry_after=120.0)
            )
        self.charge(key, lane, 2, at_once=True)

    @rule(limit=st.sampled_from([1, 2, 3, 4, 5, 8, 10]))
    def change_the_limit(self, limit: int) -> None:
        self.limit = limit

    @invariant()
    def ledger_and_model_agree(self) -> None:
        with self.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT key_fingerprint, id, lane, day, charged_at, settled_at, status "
                    "FROM magnetis_ops.api_calls ORDER BY id"
                )
            ).all()
            days = (
                connection.execute(text("SELECT * FROM magnetis_ops.quota_days")).mappings().all()
            )
            closed: dict[str, Any] = {
                row.key_fingerprint: row
                for row in connection.execute(
                    text(
                        "SELECT key_fingerprint, closed_until, trial_call "
                        "FROM magnetis_ops.quota_keys"
                    )
                )
            }
        model = sorted(
            (
                call.number,
                key,
                call.lane,
                day_of(call.charged_at),
                call.charged_at,
                call.settled_at,
                call.status,
            )
            for key, known in self.keys.items()
            for call in known.calls
        )
        assert [(row.id, row.key_fingerprint, *row[2:]) for row in rows] == model
        counts = Counter(
            (key, day_of(call.charged_at), call.lane)
            for key, known in self.keys.items()
            for call in known.calls
        )
        found = Counter(
            {
                (row["key_fingerprint"], row["day"], lane): row[lane]
                for row in days
                for lane in LANES
            }
        )
        assert +found == counts
        for key, known in self.keys.items():
            recorded = {
                row["day"]: row["used_elsewhere"] for row in days if row["key_fingerprint"] == key
            }
            assert +Counter(recorded) == +known.elsewhere
            if key in closed:
                assert closed[key].closed_until == known.closed_until
                assert closed[key].trial_call == (known.trial.number if known.trial else None)


@pytest.mark.parametrize("window", list(QuotaWindow))
def test_the_ledger_does_what_the_model_does(engine: Engine, window: QuotaWindow) -> None:
    machine = type("Machine", (LedgerMachine,), {"window": window, "engine": engine})
    limits = settings(
        max_examples=EXAMPLES,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=limits)
