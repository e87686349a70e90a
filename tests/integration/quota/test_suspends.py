"""The API never receives more than the limit, even with suspended machines and moved clocks.

Two processes, which may die, share a key through real guards on a real PostgreSQL. The API counts
the requests that it receives by its own clock: per calendar day, or within any 24 hours. A request
is received when the client has confirmed its charge, whatever happened since the grant.

30 sequences of each kind, or as many as MODEL_EXAMPLES says.
"""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Engine, text

from magnetis_dagster import clocks as moments
from magnetis_dagster.api import ApiCall, CallOutcome
from magnetis_dagster.ingest import LedgerGuard, RunIdentity
from magnetis_dagster.quota import QuotaPolicy, QuotaWindow
from magnetis_dagster.quota import guard as gate
from magnetis_dagster.quota.ledger import Ledger, QuotaExhausted

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "30"))
PARIS = ZoneInfo("Europe/Paris")
LIMIT = 4
DAY = timedelta(hours=24)


class SuspendMachine(RuleBasedStateMachine):
    """Rules simulate processes, their machine and the clocks.

    The test provides `window`, `engine` and `patch`.
    """

    window: QuotaWindow
    engine: Engine
    patch: pytest.MonkeyPatch

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.received: list[datetime] = []
        self.waiting: list[tuple[LedgerGuard, int]] = []
        """Charged but not sent."""
        self.in_flight: list[tuple[LedgerGuard, int]] = []
        self.wall_error = 0.0
        self.awake = 0.0
        self.patch.setattr(gate, "PATIENCE_SECONDS", -1.0)
        self.patch.setattr(moments.Moment, "now", self.instant)

    @initialize(hour=st.sampled_from([9, 21, 22]))
    def begin(self, hour: int) -> None:
        self.now = datetime(2025, 3, 29, hour, 59, 50, tzinfo=UTC)
        self.booted = self.now
        self.set_clock()
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "TRUNCATE magnetis_ops.api_calls, magnetis_ops.quota_days, "
                    "magnetis_ops.quota_keys"
                )
            )
        policy = QuotaPolicy(limit=LIMIT, zone=PARIS, window=self.window, floors={})
        ledger = Ledger(self.engine, key_fingerprint="aaaaaaaaaaaa", policy=policy)
        self.guards = [LedgerGuard(ledger, RunIdentity(name, "manual")) for name in ("one", "two")]

    def instant(self) -> moments.Moment:
        return moments.Moment(
            self.now.timestamp() + self.wall_error, (self.now - self.booted).total_seconds()
        )

    def set_clock(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE OR REPLACE FUNCTION magnetis_ops.now() RETURNS timestamptz "
                    "LANGUAGE sql VOLATILE AS "
                    f"'SELECT ''{self.now.isoformat()}''::timestamptz'"
                )
            )

    @rule(which=st.integers(0, 1), times=st.integers(1, 3))
    def charge(self, which: int, times: int) -> None:
        for _ in range(times):
            try:
                number = self.loop.run_until_complete(
                    self.guards[which].charge(ApiCall("calls", "/calls", {}))
                )
            except QuotaExhausted:
                return
            self.waiting.append((self.guards[which], number))

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        if not self.waiting:
            return
        of, number = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        try:
            number = self.loop.run_until_complete(of.confirm(number))
        except QuotaExhausted:
            self.settle(of, number, CallOutcome(None, error="NotSent"))
            return
        self.received.append(self.now)
        self.in_flight.append((of, number))
        self.check()

    @rule(data=st.data(), status=st.sampled_from([200, 500, None]))
    def answer(self, data: st.DataObject, status: int | None) -> None:
        if self.in_flight:
            self.settle(
                *self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1))),
                CallOutcome(status),
            )

    def settle(self, of: LedgerGuard, number: int, outcome: CallOutcome) -> None:
        self.loop.run_until_complete(of.settle(number, outcome))

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        for calls in (self.waiting, self.in_flight):
            if calls:
                calls.pop(data.draw(st.integers(0, len(calls) - 1)))

    @rule(
        seconds=st.sampled_from(
            [
                0.5,
                2,
                9,
                11,
                40,
                301,
                3_600,
                3 * 3_600,
                23 * 3_600,
                24 * 3_600 - 5,
                25 * 3_600,
                72 * 3_600,
            ]
        )
    )
    def pass_time(self, seconds: float) -> None:
        """Pass time awake or suspended: the clock since boot counts both."""
        self.now += timedelta(seconds=seconds)
        self.set_clock()

    @rule(seconds=st.sampled_from([-90_000.0, -3_600.0, -1.0, 1.0, 3_600.0, 90_000.0]))
    def set_the_wall_clock(self, seconds: float) -> None:
        self.wall_error += seconds

    @rule()
    def charge_sleep_and_send(self) -> None:
        self.charge(0, 3)
        self.pass_time(11)
        self.charge(1, 3)
        for of, number in list(self.waiting):
            self.waiting.remove((of, number))
            self.waiting.append((of, number))
        while self.waiting:
            before = len(self.waiting)
            of, number = self.waiting.pop(0)
            try:
                number = self.loop.run_until_complete(of.confirm(number))
            except QuotaExhausted:
                self.settle(of, number, CallOutcome(None, error="NotSent"))
            else:
                self.received.append(self.now)
                self.in_flight.append((of, number))
            assert len(self.waiting) < before
        self.check()

    def check(self) -> None:
        if self.window is QuotaWindow.CALENDAR:
            days = Counter(moment.astimezone(PARIS).date() for moment in self.received)
            assert max(days.values()) <= LIMIT, days
        else:
            latest = [moment for moment in self.received if moment > self.now - DAY]
            assert len(latest) <= LIMIT, latest

    def teardown(self) -> None:
        self.loop.close()


@pytest.mark.parametrize("window", list(QuotaWindow))
def test_the_api_never_receives_more_than_the_limit(
    engine: Engine, window: QuotaWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = type(
        "Machine", (SuspendMachine,), {"window": window, "engine": engine, "patch": monkeypatch}
    )
    limits = settings(
        max_examples=EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(machine, settings=limits)


def test_the_clock_since_boot_counts_while_a_machine_sleeps() -> None:
    if moments._BOOT_CLOCK is None:
        pytest.skip("no such clock on this system; the wall clock is compared everywhere")
    before, after = moments.Moment.now(), moments.Moment.now()
    assert 0 <= before.seconds_until(after) < 1
    assert moments.Moment(100, 5).seconds_until(moments.Moment(101, 605)) == 600, (
        "asleep, and the wall clock was set back since"
    )
    assert moments.Moment(100, 5).seconds_until(moments.Moment(99, 6)) == float("inf")
