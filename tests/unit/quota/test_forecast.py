"""The forecast agrees with the quota rules applied call by call.

Days of 23 and 25 hours, shrinking floors, a closed key, pacing and limits.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetis_dagster.dates import DAY
from magnetis_dagster.quota import LANES, QuotaPolicy, QuotaWindow, Usage
from magnetis_dagster.quota.forecast import (
    MOST_DAYS,
    STEP,
    Forecast,
    Pace,
    capacity,
    forecast,
    mean_a_day,
)
from magnetis_dagster.quota.rules import BACKFILL, Granted, decide

PARIS = ZoneInfo("Europe/Paris")
FLOORS = {"schedule": 0.20, "settings": 0.05, "manual": 0.05}
MORNING = datetime(2025, 6, 2, 8, tzinfo=PARIS).astimezone(UTC)


def rules(limit: int = 5000, **options: Any) -> QuotaPolicy:
    return QuotaPolicy(**{"limit": limit, "zone": PARIS, "floors": FLOORS} | options)


def usage(at: datetime = MORNING, /, **options: Any) -> Usage:
    return Usage(at=at, by_lane={lane: options.pop(lane, 0) for lane in LANES}, **options)


def pace(seconds: float = 0.1, expiries: Any = (), **mean: float) -> Pace:
    return Pace(mean, seconds, tuple(expiries))


def local(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2025, 6, day, hour, minute, tzinfo=PARIS)


def test_a_backfill_that_fits_into_today_ends_today() -> None:
    result = forecast(rules(), usage(), 600, pace(seconds=0.5))
    assert result == Forecast(((date(2025, 6, 2), 600),), local(2, 8, 5))


def test_a_backfill_of_three_days_uses_the_floors_as_they_shrink() -> None:
    # 08:00: 3,500 immediately, 1,500 more while the floors shrink from 18:00; 3,500 at the third
    # midnight
    result = forecast(rules(), usage(), 13_500, pace(seconds=0.36))
    assert result.days == (
        (date(2025, 6, 2), 5000),
        (date(2025, 6, 3), 5000),
        (date(2025, 6, 4), 3500),
    )
    assert result.done_at == local(4, 0, 21)
    found = forecast(rules(), usage(), 4_250, pace())
    assert found.done_at is not None
    assert abs(found.done_at - local(2, 21)) < timedelta(minutes=1), (
        "the floors are half as large three hours before the end"
    )


def test_calls_of_other_lanes_are_reserved() -> None:
    # schedule's own floor covers 1,000 of its 1,400 calls, and 200 are used already
    result = forecast(
        rules(), usage(schedule=200, manual=10), 20_000, pace(schedule=1_400, manual=10)
    )
    # in the last minutes, calls go to the lane that comes first
    assert [calls for _, calls in result.days[:2]] == pytest.approx([5000 - 1410] * 2, abs=15)
    assert capacity(
        rules(), usage(schedule=200, manual=10), pace(schedule=1_400, manual=10)
    ) == tuple(calls for _, calls in result.days[:2])


def test_slow_calls_are_limited_by_time() -> None:
    assert capacity(rules(), usage(), pace(seconds=60.0)) == (16 * 60, 24 * 60)
    assert capacity(rules(calls_per_second=0.01), usage(), pace()) == (576, 864)


def test_a_spread_lane_ends_with_the_day() -> None:
    result = forecast(rules(spread=frozenset({"backfill"})), usage(), 5000, pace())
    assert result.done_at is not None
    assert local(2, 22) < result.done_at <= local(3, 1)
    half = forecast(rules(spread=frozenset({"backfill"}), floors={}), usage(), 2500, pace())
    assert half.done_at is not None
    assert abs(half.done_at - local(2, 16)) < timedelta(minutes=10)


def test_a_closed_key_waits_until_it_opens() -> None:
    result = forecast(rules(), usage(closed_until=local(3, 0), elsewhere=4000), 100, pace())
    assert result.days == ((date(2025, 6, 2), 0), (date(2025, 6, 3), 100))
    assert result.done_at == local(3, 0) + timedelta(seconds=10)
    assert forecast(rules(), usage(elsewhere=4000), 100, pace()).days == ((date(2025, 6, 2), 100),)


@pytest.mark.parametrize(("day", "hours"), [(date(2025, 3, 30), 23), (date(2025, 10, 26), 25)])
def test_days_of_clock_changes(day: date, hours: int) -> None:
    begun = rules().day_start(day)
    assert capacity(rules(), usage(begun), pace(seconds=60))[0] == hours * 60


def test_a_backfill_that_never_ends_is_reported() -> None:
    others = [(MORNING + timedelta(seconds=17 * number), "manual") for number in range(1, 5001)]
    crowded = forecast(
        rules(window=QuotaWindow.ROLLING),
        usage(manual=5000),
        100,
        pace(manual=5100, expiries=others),
    )
    assert (crowded.done_at, crowded.calls_left) == (None, 100)
    for window in QuotaWindow:
        endless = forecast(rules(window=window), usage(), 10**9, pace())
        assert endless.done_at is None
        assert len(endless.days) == MOST_DAYS
        assert endless.calls_left + sum(calls for _, calls in endless.days) == 10**9
    assert forecast(rules(), usage(), 0, pace()) == Forecast((), MORNING.astimezone(PARIS))


def test_a_rolling_quota_returns_calls_a_day_later() -> None:
    spent_at = MORNING - timedelta(hours=20)
    result = forecast(
        rules(window=QuotaWindow.ROLLING),
        usage(backfill=3500),
        3501,
        pace(expiries=[(spent_at + DAY, BACKFILL)] * 3500),
    )
    assert result.days == ((date(2025, 6, 2), 3500), (date(2025, 6, 3), 1))
    assert result.done_at is not None
    assert timedelta(0) <= result.done_at - local(3, 12) < STEP


def replay(
    policy: QuotaPolicy, start: Usage, calls: int, seconds: int, used: Mapping[str, int]
) -> tuple[Counter[date], datetime]:
    """Apply the quota rules to every call, as the ledger does, while no other lane sends calls."""
    expiries = [(start.at + DAY, lane) for lane, number in used.items() for _ in range(number)]
    at, known, sent = start.at, start, Counter[date]()
    while calls:
        if policy.window is QuotaWindow.ROLLING:
            expiries = [(end, lane) for end, lane in expiries if end > at]
            known = replace(known, by_lane=Counter(lane for _, lane in expiries))
        elif policy.day_of(known.at) != policy.day_of(at):
            known = replace(known, by_lane={}, elsewhere=0)
        known = replace(known, at=at)
        decision = decide(policy, known, BACKFILL, expiries=lambda counted=expiries: counted)
        if not isinstance(decision, Granted):
            at = decision.available_at
            continue
        calls -= 1
        sent[policy.day_of(at)] += 1
        expiries.append((at + DAY, BACKFILL))
        known = replace(
            known, by_lane={**known.by_lane, BACKFILL: known.by_lane.get(BACKFILL, 0) + 1}
        )
        at += timedelta(seconds=seconds)
    return sent, at


@settings(max_examples=300, deadline=None)
@given(
    limit=st.integers(4, 40),
    shares=st.lists(st.integers(0, 30), min_size=3, max_size=3),
    release=st.sampled_from([0.0, 1.0, 6.0, 24.0]),
    window=st.sampled_from(QuotaWindow),
    minutes=st.integers(0, 24 * 60 - 1),
    day=st.sampled_from([date(2025, 3, 29), date(2025, 6, 2), date(2025, 10, 25)]),
    used=st.fixed_dictionaries({lane: st.integers(0, 4) for lane in LANES}),
    calls=st.integers(1, 150),
    seconds=st.sampled_from([1, 7, 60]),
)
def test_it_agrees_with_the_rules_applied_call_by_call(
    limit: int,
    shares: list[int],
    release: float,
    window: QuotaWindow,
    minutes: int,
    day: date,
    used: dict[str, int],
    calls: int,
    seconds: int,
) -> None:
    floors = {lane: share / 100 for lane, share in zip(LANES, shares, strict=False)}
    policy = rules(limit, floors=floors, release_hours=release, window=window)
    start = Usage(at=policy.day_start(day) + timedelta(minutes=minutes), by_lane=used)
    expiries = [(start.at + DAY, lane) for lane, number in used.items() for _ in range(number)]
    result = forecast(policy, start, calls, Pace({}, seconds, tuple(expiries)))
    sent, end = replay(policy, start, calls, seconds, used)
    assert result.done_at is not None
    # with a rolling quota, the coarse steps carry over from day to day
    coarse = STEP * (len(result.days) if window is QuotaWindow.ROLLING else 1)
    assert abs(result.done_at - end) <= coarse
    days = sorted(sent | Counter(dict(result.days)))
    if window is QuotaWindow.CALENDAR:
        assert {day: number for day, number in result.days if number} == dict(sent)
    else:
        a, b = (
            list(accumulate(found.get(day, 0) for day in days))
            for found in (sent, dict(result.days))
        )
        assert a[-1] == b[-1] == calls


def test_the_mean_counts_days_without_a_call() -> None:
    assert mean_a_day([{"schedule": 30}, {"schedule": 12, "manual": 7}], 7) == {
        "schedule": 6.0,
        "settings": 0.0,
        "manual": 1.0,
        "backfill": 0.0,
    }
    assert set(mean_a_day([], 0).values()) == {0.0}
