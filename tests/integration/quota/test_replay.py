"""The replay finds every grant that the quota rules would have refused, and no other."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from magnetis_dagster.database import connect
from magnetis_dagster.quota import LANES, QuotaPolicy, QuotaWindow
from magnetis_dagster.quota.ledger import Charge, Charged, Ledger, QuotaExhausted, Settlement
from magnetis_dagster.quota.report import FloorReplay, Grant, check_grants, replay_floors

PARIS = ZoneInfo("Europe/Paris")
KEY = "aaaaaaaaaaaa"
NOON = datetime(2025, 6, 15, 10, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def policy(limit: int = 20, **changes: Any) -> QuotaPolicy:
    return QuotaPolicy(limit=limit, zone=PARIS, **changes)


def at(lane: str, moment: datetime) -> Grant:
    return Grant(lane, moment, moment + timedelta(seconds=1))


def check_floors(
    engine: Engine, of: QuotaPolicy, now: datetime, since: datetime = LONG_AGO
) -> FloorReplay:
    return replay_floors(engine, key_fingerprint=KEY, policy=of, since=since, now=now)


def charge(engine: Engine, of: QuotaPolicy, lane: str) -> Charged:
    return Ledger(engine, key_fingerprint=KEY, policy=of).charge(
        Charge(collection="calls", route="/calls", page=1, lane=lane)
    )


def test_an_excess_grant_is_found_at_its_position() -> None:
    rules = policy()  # 20 calls with floors of 4, 1 and 1: backfill has 14
    grants = [at("backfill", NOON + timedelta(seconds=n)) for n in range(16)]
    assert check_grants(rules, grants[:14], LONG_AGO) == FloorReplay(14, 0)
    assert check_grants(rules, grants, LONG_AGO) == FloorReplay(16, 2, NOON + timedelta(seconds=14))
    assert check_grants(rules, grants, NOON + timedelta(seconds=15)) == FloorReplay(
        1, 1, NOON + timedelta(seconds=15)
    )


def test_used_floors_are_not_reserved_twice_and_expired_ones_not_at_all() -> None:
    rules = policy()
    others = [at(lane, NOON) for lane in ("schedule", "schedule", "settings", "manual")]
    backfill = [at("backfill", NOON + timedelta(seconds=n)) for n in range(15)]
    assert check_grants(rules, others + backfill, LONG_AGO) == FloorReplay(
        15, 1, NOON + timedelta(seconds=14)
    )
    late = datetime(2025, 6, 15, 21, 59, tzinfo=UTC)
    assert check_grants(rules, [at("backfill", late)] * 20, LONG_AGO) == FloorReplay(20, 0)


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(LANES), st.integers(0, 7200)), min_size=1, max_size=120
    ),
    window=st.sampled_from(QuotaWindow),
    release=st.sampled_from([0.0, 6.0, 24.0]),
)
def test_grants_of_the_rules_are_never_reported(
    steps: Sequence[tuple[str, int]], window: QuotaWindow, release: float
) -> None:
    rules = policy(window=window, release_hours=release)
    day = rules.day_of(NOON)
    now = rules.day_start(day)
    given_out: list[Grant] = []
    for lane, seconds in steps:
        now += timedelta(seconds=seconds)
        if window is QuotaWindow.CALENDAR and rules.day_of(now) != day:
            break
        start = now - timedelta(hours=24) if window is QuotaWindow.ROLLING else rules.day_start(day)
        counted = [grant.lane for grant in given_out if grant.until > start]
        model = 20 - len(counted)
        if lane == "backfill":
            model -= sum(
                max(0, rules.floor(other, now) - counted.count(other)) for other in LANES[:3]
            )
        if model >= 1:
            given_out.append(at(lane, now))
        elif lane == "backfill":
            assert check_grants(rules, [*given_out, at(lane, now)], LONG_AGO).broken == 1
    assert check_grants(rules, given_out, LONG_AGO).broken == 0


@pytest.mark.parametrize("window", list(QuotaWindow))
def test_the_ledger_respects_the_floors_and_other_floors_are_reported_as_broken(
    engine: Engine, clock: Any, window: QuotaWindow
) -> None:
    clock.set(NOON)
    rules = policy(window=window)
    for _ in range(14):
        charge(engine, rules, "backfill")
    with pytest.raises(QuotaExhausted):
        charge(engine, rules, "backfill")
    assert check_floors(engine, rules, NOON + timedelta(minutes=1)) == FloorReplay(14, 0)
    charge(engine, policy(window=window, floors={}), "backfill")
    found = check_floors(engine, rules, NOON + timedelta(minutes=1))
    assert (found.judged, found.broken) == (15, 1)
    assert check_floors(
        engine, rules, NOON + timedelta(minutes=1), since=NOON + timedelta(minutes=1)
    ) == FloorReplay(0, 0)
    assert check_floors(engine, rules, NOON + timedelta(days=2)) == FloorReplay(0, 0)


def test_a_call_in_flight_at_midnight_counts_on_both_days(engine: Engine, clock: Any) -> None:
    rules = policy(2, floors={"schedule": 0.5}, release_hours=0)
    clock.set(datetime(2025, 6, 14, 21, 59, 58, tzinfo=UTC))
    late = charge(engine, rules, "backfill")
    clock.set(datetime(2025, 6, 14, 22, 0, 5, tzinfo=UTC))
    Ledger(engine, key_fingerprint=KEY, policy=rules).settle(late.number, Settlement(status=200))
    with pytest.raises(QuotaExhausted):
        charge(engine, rules, "backfill")
    charge(engine, policy(2, floors={}), "backfill")
    assert check_floors(engine, rules, NOON).broken == 1


def test_a_database_without_tables_has_nothing_to_check(empty_database_url: str) -> None:
    engine = connect(empty_database_url)
    assert check_floors(engine, policy(), NOON) == FloorReplay(0, 0)
    engine.dispose()
