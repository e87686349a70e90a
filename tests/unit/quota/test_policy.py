"""The quota rules without a database: floors, closing and pacing.

A refusal names the first second of a grant.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from magnetis_dagster.dates import DAY
from magnetis_dagster.quota import (
    LANES,
    InvalidQuotaRules,
    QuotaPolicy,
    QuotaWindow,
    Usage,
    allowance,
)
from magnetis_dagster.quota.rules import (
    BACKFILL,
    LONGEST_SPACING_WAIT,
    TRIAL_POLL,
    Granted,
    Refused,
    decide,
)

PARIS = ZoneInfo("Europe/Paris")
SECOND = timedelta(seconds=1)
NOON = datetime(2025, 6, 1, 10, tzinfo=UTC)
LONG_AND_SHORT_DAYS = [
    date(2025, 3, 29),
    date(2025, 3, 30),
    date(2025, 3, 31),
    date(2025, 10, 26),
    date(2025, 10, 27),
]
ZONES = [
    PARIS,
    ZoneInfo("UTC"),
    ZoneInfo("America/New_York"),
    ZoneInfo("Australia/Lord_Howe"),
    ZoneInfo("Asia/Kathmandu"),
]
Aging = list[tuple[datetime, str]]


def policy(limit: int = 100, **options: Any) -> QuotaPolicy:
    return QuotaPolicy(**{"limit": limit, "zone": PARIS, "floors": {}} | options)


def usage(at: datetime = NOON, /, **options: Any) -> Usage:
    by_lane = {lane: options.pop(lane, 0) for lane in LANES}
    return Usage(at=at, by_lane=by_lane, **options)


@st.composite
def policies(draw: st.DrawFn, window: QuotaWindow | None = None, paced: bool = True) -> QuotaPolicy:
    shares = draw(st.lists(st.integers(0, 33), min_size=3, max_size=3))
    return QuotaPolicy(
        limit=draw(st.integers(1, 60)),
        zone=draw(st.sampled_from(ZONES)),
        window=window or draw(st.sampled_from(QuotaWindow)),
        floors={lane: share / 100 for lane, share in zip(LANES, shares, strict=False)},
        release_hours=draw(st.sampled_from([0.0, 0.5, 6.0, 23.0, 24.0])),
        spread=draw(st.frozensets(st.sampled_from(LANES))) if paced else frozenset(),
        calls_per_second=draw(st.sampled_from([None, 0.0001, 0.01, 0.5, 3.0])) if paced else None,
    )


moments = st.builds(
    lambda day, seconds: (
        datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=seconds)
    ),
    st.sampled_from(LONG_AND_SHORT_DAYS),
    st.floats(0, 86_400),
)


@st.composite
def usages(draw: st.DrawFn, limit: int) -> tuple[Usage, Aging]:
    """Draw a usage, and when each of its calls stops counting (rolling quota)."""
    at = draw(moments)
    lanes = draw(st.lists(st.sampled_from(LANES), max_size=limit))
    expiries = [(at + timedelta(seconds=draw(st.integers(1, 86_400))), lane) for lane in lanes]
    before = st.integers(0, 30_000).map(lambda seconds: at - timedelta(seconds=seconds))
    around = st.integers(-5_000, 200_000).map(lambda seconds: at + timedelta(seconds=seconds))
    last_sent = draw(st.none() | before)
    state = Usage(
        at=at,
        by_lane={lane: lanes.count(lane) for lane in LANES},
        elsewhere=draw(st.sampled_from([0, 0, 1, limit])),
        closed_until=draw(st.none() | st.none() | around),
        last_sent=last_sent,
        lane_last_sent=draw(st.sampled_from([None, last_sent])),
    )
    return state, expiries


def later(rules: QuotaPolicy, known: Usage, expiries: Aging, at: datetime) -> Usage:
    """Return the usage at a later time if no call is sent meanwhile."""
    same_day = at.astimezone(rules.zone).date() == known.at.astimezone(rules.zone).date()
    by_lane: Mapping[str, int] = known.by_lane if same_day else {}
    if rules.window is QuotaWindow.ROLLING:
        by_lane = {
            lane: sum(1 for end, of in expiries if of == lane and end > at) for lane in LANES
        }
    return replace(known, at=at, by_lane=by_lane, elsewhere=known.elsewhere if same_day else 0)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), rules=policies(), lane=st.sampled_from(LANES))
def test_a_refusal_names_the_first_second_of_a_grant(
    data: st.DataObject, rules: QuotaPolicy, lane: str
) -> None:
    fresh = Usage(at=rules.day_start(date(2025, 1, 1)), by_lane={})
    assume(allowance(rules, fresh, lane, rules.day_end(fresh.at) - SECOND) >= 1)
    now, expiries = data.draw(usages(rules.limit))
    decision = decide(rules, now, lane, lambda: expiries)
    if isinstance(decision, Granted):
        assert now.at <= decision.send_at <= now.at + LONGEST_SPACING_WAIT
        return
    assert decision.available_at > now.at

    def ask(at: datetime) -> Granted | Refused:
        return decide(
            rules,
            later(rules, now, expiries, at),
            lane,
            lambda: [(end, of) for end, of in expiries if end > at],
        )

    assert isinstance(ask(decision.available_at), Granted)
    if (earlier := decision.available_at - SECOND) > now.at:
        assert isinstance(ask(earlier), Refused)
        assert ask(earlier).available_at - decision.available_at < SECOND


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2025, 6, 1), 24), (date(2025, 3, 30), 23), (date(2025, 10, 26), 25)],
    ids=["24 hours", "23 hours", "25 hours"],
)
def test_an_exhausted_day_lasts_until_local_midnight(day: date, hours: int) -> None:
    rules = policy(limit=5)
    begun = rules.day_start(day)
    for at in (begun, begun + timedelta(hours=hours) - SECOND):
        refused = decide(rules, usage(at, manual=3, elsewhere=2), "manual")
        assert isinstance(refused, Refused)
        assert refused.available_at == begun + timedelta(hours=hours)
        assert refused.reason == "all 5 API calls are used"


@pytest.mark.parametrize(
    ("day", "midnight"),
    [
        (date(2025, 3, 30), datetime(2025, 3, 30, 22, tzinfo=UTC)),
        (date(2025, 10, 26), datetime(2025, 10, 26, 23, tzinfo=UTC)),
    ],
    ids=["23 hours", "25 hours"],
)
def test_floors_shrink_over_real_hours_before_midnight_when_the_clocks_change(
    day: date, midnight: datetime
) -> None:
    rules = policy(floors={"schedule": 0.6}, release_hours=6)
    left = [
        allowance(rules, usage(midnight - timedelta(hours=hours)), BACKFILL)
        for hours in (22, 6, 5, 3, 1)
    ]
    assert left == [40, 40, 50, 70, 90]
    assert allowance(rules, usage(rules.day_start(day)), BACKFILL) == 40
    assert allowance(rules, usage(midnight), BACKFILL) == 40


@given(
    rules=policies(QuotaWindow.CALENDAR),
    day=st.sampled_from(LONG_AND_SHORT_DAYS),
    lane=st.sampled_from(LANES[:3]),
)
def test_floors_only_shrink_and_are_zero_at_the_end_of_the_day(
    rules: QuotaPolicy, day: date, lane: str
) -> None:
    begun = rules.day_start(day)
    end = rules.day_end(begun)
    whole = int(Fraction(round(rules.floors[lane] * 100), 100) * rules.limit)
    floors = [rules.floor(lane, begun + (end - begun) * step / 500) for step in range(500)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] == whole or end - begun < timedelta(hours=rules.release_hours)
    assert all(whole >= floor >= 0 for floor in floors)
    assert rules.floor(lane, end - SECOND) == (0 if rules.release_hours else whole)
    if rules.release_hours:
        assert (
            rules.floor(lane, max(begun, end - timedelta(hours=rules.release_hours) / 2))
            <= whole / 2
        )


@given(rules=policies(QuotaWindow.ROLLING), at=moments, lane=st.sampled_from(LANES[:3]))
def test_the_floors_of_a_rolling_quota_do_not_shrink(
    rules: QuotaPolicy, at: datetime, lane: str
) -> None:
    assert rules.floor(lane, at) == int(
        Fraction(round(rules.floors[lane] * 100), 100) * rules.limit
    )


@given(data=st.data(), rules=policies(paced=False))
def test_backfill_never_uses_an_unused_floor(data: st.DataObject, rules: QuotaPolicy) -> None:
    now, _ = data.draw(usages(rules.limit))
    now = replace(now, closed_until=None)
    unused = sum(max(0, rules.floor(lane, now.at) - now.by_lane[lane]) for lane in LANES[:3])
    decision = decide(rules, now, BACKFILL)
    assert isinstance(decision, Granted) == (rules.limit - now.used > unused)
    assert allowance(rules, now, BACKFILL) == max(0, rules.limit - now.used - unused)


@given(data=st.data(), rules=policies(paced=False), lane=st.sampled_from(LANES[:3]))
def test_the_other_lanes_may_use_everything(
    data: st.DataObject, rules: QuotaPolicy, lane: str
) -> None:
    now, _ = data.draw(usages(rules.limit))
    now = replace(now, closed_until=None)
    assert isinstance(decide(rules, now, lane), Granted) == (rules.limit > now.used)


@given(data=st.data(), rules=policies(), lane=st.sampled_from(LANES))
def test_nothing_is_granted_while_the_key_is_closed(
    data: st.DataObject, rules: QuotaPolicy, lane: str
) -> None:
    now, expiries = data.draw(usages(rules.limit))
    closed = replace(now, closed_until=now.at + timedelta(seconds=data.draw(st.floats(0.001, 1e6))))
    decision = decide(rules, closed, lane, expiries=lambda: expiries)
    assert isinstance(decision, Refused)
    assert decision.reason == "the API reported that this key has no calls left"
    assert decision.available_at >= closed.closed_until  # type: ignore[operator]


def test_a_closed_key_reopens_with_one_trial_despite_calls_used_elsewhere() -> None:
    closed = usage(manual=4, elsewhere=96, closed_until=NOON)
    assert decide(policy(), closed, "manual") == Granted(NOON, trial=True)
    assert decide(policy(), replace(closed, closed_until=None), "manual") != Granted(NOON)
    tried = replace(closed, trial_until=NOON + timedelta(minutes=5))
    for lane in LANES:
        assert decide(policy(), tried, lane) == Refused(
            "a trial call is in flight to find out whether the API has reopened", NOON + TRIAL_POLL
        )
    assert decide(policy(), replace(tried, at=NOON + timedelta(minutes=5)), "manual") == Granted(
        NOON + timedelta(minutes=5), True
    )


def test_a_trial_needs_a_call_of_the_quota() -> None:
    decision = decide(policy(), usage(manual=100, closed_until=NOON), "manual")
    assert decision == Refused("all 100 API calls are used", datetime(2025, 6, 1, 22, tzinfo=UTC))


def test_a_shrinking_floor_frees_calls_for_backfill() -> None:
    rules = policy(limit=10, floors={"schedule": 0.3})
    # The floor of 3 shrinks from 18:00 in Paris: 2, then 1 and then 0 calls are reserved after
    # 18:00:01, 20:00:01 and 22:00:01.
    for used, hour in ((7, 16), (8, 18), (9, 20)):
        reserved = "reserved for the schedule, settings and manual lanes"
        reason = f"the remaining {10 - used} API calls are {reserved}"
        assert decide(rules, usage(manual=used), BACKFILL) == Refused(
            reason, datetime(2025, 6, 1, hour, 0, 1, tzinfo=UTC)
        )
    assert decide(rules, usage(manual=6), BACKFILL) == Granted(NOON)


def send_calls(rules: QuotaPolicy, lane: str, begin: datetime, span: timedelta) -> list[datetime]:
    """Send each call when it is granted or a refusal allows it; return their times."""
    sent: list[datetime] = []
    at = begin
    while at < begin + span:
        last = sent[-1] if sent else None
        if rules.window is QuotaWindow.ROLLING:
            counted = [moment for moment in sent if moment > at - DAY]
        else:
            counted = [moment for moment in sent if rules.day_of(moment) == rules.day_of(at)]
        now = Usage(at=at, by_lane={lane: len(counted)}, last_sent=last, lane_last_sent=last)
        decision = decide(
            rules,
            now,
            lane,
            expiries=lambda: [(moment + DAY, lane) for moment in counted],  # noqa: B023
        )
        if isinstance(decision, Granted):
            sent.append(decision.send_at)
        at = decision.send_at if isinstance(decision, Granted) else decision.available_at
    return sent


@pytest.mark.parametrize("day", [date(2025, 6, 1), date(2025, 3, 30), date(2025, 10, 26)])
def test_a_spread_lane_uses_its_whole_day_evenly(day: date) -> None:
    rules = policy(limit=25, spread=frozenset({BACKFILL}))
    begun = rules.day_start(day)
    length = rules.day_end(begun) - begun
    sent = send_calls(rules, BACKFILL, begun, length)
    assert len(sent) == 25
    gaps = [after - before for before, after in pairwise(sent)]
    assert max(gaps) - min(gaps) < SECOND
    assert abs(gaps[0] - length / 25) < SECOND


def test_a_spread_rolling_quota_is_used_completely() -> None:
    rules = policy(limit=24, window=QuotaWindow.ROLLING, spread=frozenset({"manual"}))
    sent = send_calls(rules, "manual", NOON, 3 * DAY)
    assert len(sent) == pytest.approx(72, abs=1)
    assert all(sum(1 for other in sent if moment - DAY < other <= moment) <= 24 for moment in sent)


def test_pacing_one_lane_does_not_affect_the_others() -> None:
    rules = policy(limit=10, spread=frozenset({BACKFILL}))
    now = usage(backfill=1, last_sent=NOON, lane_last_sent=NOON)
    assert decide(rules, now, "manual") == Granted(NOON)
    assert isinstance(decide(rules, now, BACKFILL), Refused)


def test_calls_per_second_are_limited_and_a_long_queue_retries() -> None:
    rules = policy(limit=1000, calls_per_second=0.25)
    now = usage(NOON)
    sent = []
    while isinstance(decision := decide(rules, now, "manual"), Granted):
        sent.append(decision.send_at)
        now = replace(now, last_sent=decision.send_at)
    assert sent == [
        NOON + timedelta(seconds=4 * n) for n in range(8)
    ]  # the next would wait 32 seconds
    assert decision == Refused("the calls of lane manual are paced", NOON + timedelta(seconds=2))


def test_a_paced_call_is_sent_on_the_day_that_it_is_charged_to() -> None:
    midnight = datetime(2025, 6, 1, 22, tzinfo=UTC)
    rules = policy(calls_per_second=0.1)
    now = usage(
        midnight - timedelta(seconds=3), manual=1, last_sent=midnight - timedelta(seconds=5)
    )
    assert decide(rules, now, "manual") == Refused("the calls of lane manual are paced", midnight)
    assert decide(replace(rules, window=QuotaWindow.ROLLING), now, "manual") == Granted(
        midnight + timedelta(seconds=5)
    )


@pytest.mark.parametrize(
    ("share", "limit", "floor"),
    [(0.29, 100, 29), (0.57, 100, 57), (0.07, 5000, 350), (0.2, 4, 0), (0.999, 1000, 999)],
)
def test_a_share_is_a_whole_number_of_calls(share: float, limit: int, floor: int) -> None:
    assert policy(limit=limit, floors={"manual": share}).floor("manual", NOON) == floor


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"limit": 0}, "MAGNETIS_DAILY_QUOTA: expected at least 1 call a day, got 0"),
        ({"limit": -5}, "MAGNETIS_DAILY_QUOTA: expected at least 1 call a day, got -5"),
        (
            {"floors": {"schedule": 0.6, "manual": 0.4}},
            r"MAGNETIS_QUOTA_FLOORS: expected shares .* a sum of 1: backfill would",
        ),
        ({"floors": {"schedule": -0.1}}, "MAGNETIS_QUOTA_FLOORS: expected shares of at least 0"),
        (
            {"floors": {"schedule": float("nan")}},
            "MAGNETIS_QUOTA_FLOORS: expected shares of at least 0",
        ),
        (
            {"floors": {"night": 0.1}},
            (
                "MAGNETIS_QUOTA_FLOORS: unknown lane 'night'. "
                "Lanes: schedule, settings, manual, backfill"
            ),
        ),
        ({"floors": {"backfill": 0.1}}, "MAGNETIS_QUOTA_FLOORS: backfill cannot have a floor"),
        ({"spread": frozenset({"night"})}, "MAGNETIS_QUOTA_SPREAD: unknown lane 'night'"),
        ({"release_hours": -1}, "MAGNETIS_QUOTA_RELEASE_HOURS: expected 0 to 24 hours, got -1"),
        ({"release_hours": 25}, "MAGNETIS_QUOTA_RELEASE_HOURS: expected 0 to 24 hours, got 25"),
        (
            {"release_hours": float("nan")},
            "MAGNETIS_QUOTA_RELEASE_HOURS: expected 0 to 24 hours, got nan",
        ),
        ({"calls_per_second": 0}, "MAGNETIS_CALLS_PER_SECOND: expected more than 0"),
        ({"calls_per_second": -2}, "MAGNETIS_CALLS_PER_SECOND: expected more than 0"),
        ({"calls_per_second": float("nan")}, "MAGNETIS_CALLS_PER_SECOND: expected more than 0"),
        ({"calls_per_second": 1e-300}, "MAGNETIS_CALLS_PER_SECOND: expected more than 0"),
    ],
)
def test_invalid_rules_are_refused_with_the_variables_name(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidQuotaRules, match=text):
        policy(**options)


def test_an_unknown_lane_is_refused() -> None:
    with pytest.raises(
        InvalidQuotaRules,
        match=r"unknown lane 'night'. Lanes: schedule, settings, manual, backfill",
    ):
        decide(policy(), usage(), "night")
