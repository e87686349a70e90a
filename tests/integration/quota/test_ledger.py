"""The ledger on a real PostgreSQL.

It never exceeds the limit, a 429 closes the key for all processes, and the next local day opens it.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy
from closed_key import close_key
from sqlalchemy import Engine, text

from magnetis_dagster.api_calls import LONGEST_CALL
from magnetis_dagster.database import DatabaseUnavailable, connect, driver_of
from magnetis_dagster.errors import TransientError
from magnetis_dagster.quota import QuotaPolicy, QuotaWindow, ledger_sql
from magnetis_dagster.quota.ledger import (
    REFUSED_PAUSE,
    Charge,
    Charged,
    Ledger,
    QuotaExhausted,
    Settlement,
)

PARIS = ZoneInfo("Europe/Paris")
CHARGE = Charge(
    collection="calls",
    route="/calls",
    page=3,
    lane="manual",
    run_id="run-1",
    first_day=date(2025, 3, 1),
    last_day=date(2025, 3, 2),
)


def ledger(engine: Engine, *, quota: int = 3, key: str = "aaaaaaaaaaaa", **policy: Any) -> Ledger:
    policy = {"floors": {}} | policy
    return Ledger(
        engine, key_fingerprint=key, policy=QuotaPolicy(limit=quota, zone=PARIS, **policy)
    )


def settle_ok(book: Ledger, charged: Charged) -> None:
    book.settle(charged.number, Settlement(status=200))


def one(engine: Engine, statement: str) -> tuple[object, ...]:
    with engine.connect() as connection:
        return tuple(connection.execute(text(statement)).one())


def test_two_connections_that_share_a_key_share_its_quota(engine: Engine) -> None:
    policy = QuotaPolicy(limit=3, zone=PARIS, floors={})
    first, second = (
        Ledger(engine, key_fingerprint="aaaaaaaaaaaa", policy=policy, connection_name=name)
        for name in ("magnetis", "north")
    )
    settle_ok(first, first.charge(CHARGE))
    second.charge(CHARGE)
    first.charge(CHARGE)
    with pytest.raises(QuotaExhausted):
        second.charge(CHARGE)
    assert (first.usage().used, second.usage().used) == (3, 3)
    assert one(
        engine,
        "SELECT array_agg(connection ORDER BY id) FROM magnetis_ops.api_calls",
    ) == (["magnetis", "north", "magnetis"],)
    for table in ("quota_keys", "quota_days"):
        assert one(engine, f"SELECT count(*), min(connection) FROM magnetis_ops.{table}") == (
            1,
            "magnetis",
        ), "the connection that charged last"
    close_key(second, 7200)
    assert first.left("manual") == 0


def test_a_charge_is_written_before_the_call_and_settled_after_it(engine: Engine) -> None:
    book = ledger(engine)
    charged = book.charge(CHARGE)
    assert charged.pause == 0
    assert one(
        engine,
        "SELECT collection, route, page, lane, run_id, first_day::text, last_day::text, "
        "settled_at, status "
        "FROM magnetis_ops.api_calls",
    ) == ("calls", "/calls", 3, "manual", "run-1", "2025-03-01", "2025-03-02", None, None)
    book.settle(charged.number, Settlement(status=200, rows=250, size=1234, milliseconds=56))
    assert one(
        engine,
        "SELECT settled_at IS NOT NULL, status, rows, bytes, milliseconds, error "
        "FROM magnetis_ops.api_calls",
    ) == (
        True,
        200,
        250,
        1234,
        56,
        None,
    )


def test_the_limit_holds_and_the_error_names_the_next_local_midnight(
    engine: Engine, clock: Any
) -> None:
    # 31 March 2025 in Paris begins at 22:00 UTC on the 30th, the day on which the clocks go forward
    clock.set(datetime(2025, 3, 30, 12, tzinfo=UTC))
    book = ledger(engine)
    for _ in range(3):
        book.charge(CHARGE)
    with pytest.raises(
        QuotaExhausted, match=r"all 3 API calls are used.*2025-03-31 00:00:00 CEST"
    ) as raised:
        book.charge(CHARGE)
    assert isinstance(raised.value, TransientError)
    assert raised.value.available_at == datetime(2025, 3, 30, 22, tzinfo=UTC)
    assert one(
        engine,
        "SELECT manual, (SELECT count(*) FROM magnetis_ops.api_calls) FROM magnetis_ops.quota_days",
    ) == (3, 3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (datetime(2025, 3, 29, 22, 59, tzinfo=UTC), datetime(2025, 3, 29, 23, 1, tzinfo=UTC)),
        (datetime(2025, 3, 30, 21, 59, tzinfo=UTC), datetime(2025, 3, 30, 22, 1, tzinfo=UTC)),
        (datetime(2025, 10, 26, 22, 59, tzinfo=UTC), datetime(2025, 10, 26, 23, 1, tzinfo=UTC)),
    ],
    ids=["winter", "23-hour day", "25-hour day"],
)
def test_the_quota_day_begins_at_local_midnight(
    engine: Engine, clock: Any, before: datetime, after: datetime
) -> None:
    clock.set(before)
    book = ledger(engine, quota=1)
    settle_ok(book, book.charge(CHARGE))
    with pytest.raises(QuotaExhausted):
        book.charge(CHARGE)
    clock.set(after)
    book.charge(CHARGE)
    assert book.usage().used == 1


def test_a_call_that_may_have_arrived_after_midnight_counts_on_both_days(
    engine: Engine, clock: Any
) -> None:
    clock.set(datetime(2025, 6, 1, 21, 59, 58, tzinfo=UTC))
    book = ledger(engine, quota=2)
    settle_ok(book, book.charge(CHARGE))
    late = book.charge(CHARGE)
    clock.set(datetime(2025, 6, 1, 22, 0, 5, tzinfo=UTC))
    assert book.usage().used == 1
    settle_ok(book, late)
    assert book.usage().used == 1
    book.charge(CHARGE)
    with pytest.raises(QuotaExhausted):
        book.charge(CHARGE)


def test_each_key_has_its_own_quota(engine: Engine) -> None:
    first, second = ledger(engine, quota=1), ledger(engine, quota=1, key="bbbbbbbbbbbb")
    first.charge(CHARGE)
    second.charge(CHARGE)
    assert (first.left("manual"), second.left("manual")) == (0, 0)


def test_the_limit_may_change_during_the_day(engine: Engine) -> None:
    book = ledger(engine, quota=1)
    book.charge(CHARGE)
    raised = ledger(engine, quota=2)
    raised.charge(CHARGE)
    with pytest.raises(QuotaExhausted):
        raised.charge(CHARGE)
    assert ledger(engine, quota=1).left("manual") == 0


def test_a_closed_key_is_closed_for_every_process_until_the_servers_time(
    engine: Engine, clock: Any
) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book, other = ledger(engine), ledger(engine)
    close_key(book, 90)
    with pytest.raises(
        QuotaExhausted, match="the API reported that this key has no calls left"
    ) as raised:
        other.charge(CHARGE)
    assert (
        timedelta(seconds=80) < raised.value.available_at - raised.value.at <= timedelta(seconds=90)
    )
    clock.advance(timedelta(seconds=91))
    other.charge(CHARGE)


def test_a_trial_call_succeeds_before_the_key_reopens(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book, other = ledger(engine, quota=10), ledger(engine, quota=10)
    close_key(book, 30)
    clock.advance(timedelta(seconds=31))
    trial = book.charge(CHARGE)
    with pytest.raises(QuotaExhausted, match="a trial call is in flight"):
        other.charge(CHARGE)
    book.settle(
        trial.number, Settlement(status=429, error="RateLimited", over_quota=True, retry_after=30)
    )
    with pytest.raises(QuotaExhausted, match="the API reported that this key has no calls left"):
        other.charge(CHARGE)
    clock.advance(timedelta(seconds=31))
    trial = other.charge(CHARGE)
    other.settle(trial.number, Settlement(status=503, error="ServerUnavailable"))
    # the response said nothing about the quota, so the next call is a trial again
    trial = other.charge(CHARGE)
    with pytest.raises(QuotaExhausted, match="a trial call is in flight"):
        book.charge(CHARGE)
    settle_ok(other, trial)
    book.charge(CHARGE)
    other.charge(CHARGE)


def test_a_trial_of_a_dead_process_expires(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book = ledger(engine)
    close_key(book, 30)
    clock.advance(timedelta(seconds=31))
    book.charge(CHARGE)
    clock.advance(LONGEST_CALL + timedelta(seconds=1))
    book.charge(CHARGE)


def test_closed_without_a_time_means_until_the_next_day(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book = ledger(engine)
    assert close_key(book, None) == datetime(2025, 6, 1, 22, tzinfo=UTC)
    close_key(book, 5)  # a later, shorter closing does not open it
    assert book.usage().closed_until == datetime(2025, 6, 1, 22, tzinfo=UTC)
    clock.advance(timedelta(hours=12, seconds=1))
    book.charge(CHARGE)


def test_closed_beyond_midnight_stays_closed_on_the_next_day(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 21, 59, tzinfo=UTC))
    book = ledger(engine)
    close_key(book, 3600)
    clock.advance(timedelta(minutes=30))
    with pytest.raises(QuotaExhausted):
        book.charge(CHARGE)


def test_calls_of_other_programs_are_shown_and_a_throttle_is_not_one(
    engine: Engine, clock: Any
) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book = ledger(engine, quota=10)
    settle_ok(book, book.charge(CHARGE))
    book.settle(book.charge(CHARGE).number, Settlement(status=429, over_quota=True, retry_after=20))
    assert book.usage().elsewhere == 0
    clock.advance(timedelta(seconds=21))
    book.settle(
        book.charge(CHARGE).number, Settlement(status=429, over_quota=True, retry_after=3600)
    )
    assert (book.usage().elsewhere, book.usage().used, book.left("manual")) == (7, 10, 0)
    clock.advance(timedelta(seconds=3601))
    settle_ok(book, book.charge(CHARGE))
    assert (book.usage().elsewhere, book.left("manual")) == (0, 6)


def test_the_apis_count_lowers_the_remaining_calls_and_never_raises_them(engine: Engine) -> None:
    book = ledger(engine, quota=10)
    book.settle(book.charge(CHARGE).number, Settlement(status=200, remaining=4))
    assert book.left("manual") == 4
    book.settle(book.charge(CHARGE).number, Settlement(status=200, remaining=9))
    assert book.left("manual") == 3


def test_backfill_stops_at_the_floors_of_other_lanes(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 6, tzinfo=UTC))
    book = ledger(engine, quota=20, floors={"schedule": 0.2, "manual": 0.1})
    for _ in range(14):
        book.charge(replace(CHARGE, lane="backfill"))
    with pytest.raises(
        QuotaExhausted,
        match="the remaining 6 API calls are reserved for the schedule, settings and manual lanes",
    ) as raised:
        book.charge(replace(CHARGE, lane="backfill"))
    # The floors of 4 and 2 shrink from 18:00 to 24:00. The first whole call becomes free within the
    # first hours.
    assert (
        datetime(2025, 6, 1, 16, tzinfo=UTC)
        < raised.value.available_at
        < datetime(2025, 6, 1, 22, tzinfo=UTC)
    )
    for _ in range(6):
        book.charge(replace(CHARGE, lane="settings"))
    with pytest.raises(QuotaExhausted, match="all 20 API calls are used"):
        book.charge(replace(CHARGE, lane="schedule"))


def test_floors_shrink_towards_the_end_of_the_day(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 6, tzinfo=UTC))
    book = ledger(engine, quota=20, floors={"schedule": 0.5})
    left = []
    for hour in (15, 17, 19, 21):
        clock.set(datetime(2025, 6, 1, hour, 30, tzinfo=UTC))
        left.append(book.left("backfill"))
    assert left == [10, 13, 16, 20]


def test_a_rolling_quota_counts_any_24_hours(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book = ledger(engine, quota=2, window=QuotaWindow.ROLLING)
    settle_ok(book, book.charge(CHARGE))
    clock.advance(timedelta(hours=1))
    settle_ok(book, book.charge(CHARGE))
    clock.set(datetime(2025, 6, 2, 9, 59, tzinfo=UTC))
    with pytest.raises(QuotaExhausted) as raised:
        book.charge(CHARGE)
    assert abs(raised.value.available_at - datetime(2025, 6, 2, 10, tzinfo=UTC)) < timedelta(
        seconds=5
    )
    clock.set(datetime(2025, 6, 2, 10, 0, 10, tzinfo=UTC))
    book.charge(CHARGE)
    with pytest.raises(QuotaExhausted):
        book.charge(CHARGE)


def test_paced_calls_get_a_pause_and_later_ones_a_retry_time(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book = ledger(engine, quota=100, calls_per_second=2)
    pauses = [book.charge(CHARGE).pause for _ in range(4)]
    assert pauses == pytest.approx([0, 0.5, 1.0, 1.5], abs=0.2)


def test_a_spread_lane_distributes_its_calls_over_the_rest_of_the_day(
    engine: Engine, clock: Any
) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))  # twelve hours before midnight in Paris
    book = ledger(engine, quota=12, spread=frozenset({"backfill"}))
    book.charge(replace(CHARGE, lane="backfill"))
    with pytest.raises(QuotaExhausted, match="are paced") as raised:
        book.charge(replace(CHARGE, lane="backfill"))
    assert (
        timedelta(minutes=55) < raised.value.available_at - raised.value.at < timedelta(minutes=65)
    )
    book.charge(CHARGE)


def test_an_unreachable_ledger_grants_nothing() -> None:
    book = ledger(connect("postgresql://nobody:secret-password@127.0.0.1:1/none"))
    with pytest.raises(
        DatabaseUnavailable, match="charge an API call \\(so none was sent\\)"
    ) as raised:
        book.charge(CHARGE)
    assert "secret-password" not in str(raised.value)


def test_a_password_in_the_query_of_the_url_is_not_shown() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be reached") as raised:
        ledger(
            connect("postgresql://nobody@127.0.0.1:1/none?password=secret-password&sslmode=disable")
        ).usage()
    assert "secret-password" not in str(raised.value)
    assert "sslmode=disable" in str(raised.value)


def _spend(url: str, tries: int) -> int:
    engine = connect(url)
    book = ledger(engine, quota=100)
    granted = 0
    for _ in range(tries):
        try:
            book.charge(CHARGE)
            granted += 1
        except QuotaExhausted:
            pass
    engine.dispose()
    return granted


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    # multiprocessing.Pool was seen to wait indefinitely for a process after SIGTERM
    with ProcessPoolExecutor(6, multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_processes_together_never_exceed_the_limit(
    database_url: str, engine: Engine, processes: ProcessPoolExecutor
) -> None:
    granted = list(processes.map(_spend, [database_url] * 6, [30] * 6))
    assert sum(granted) == 100
    assert one(
        engine,
        "SELECT manual, (SELECT count(*) FROM magnetis_ops.api_calls) FROM magnetis_ops.quota_days",
    ) == (100, 100)


def test_statement_parameters_are_hidden_in_driver_errors(engine: Engine) -> None:
    with pytest.raises(sqlalchemy.exc.DBAPIError) as raised, engine.connect() as connection:
        connection.execute(
            text("SELECT 1 / :zero, :number"), {"zero": 0, "number": "0033199000001"}
        )
    assert "0033199000001" not in str(raised.value)


def errors(engine: Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [
            tuple(row)
            for row in connection.execute(
                text("SELECT id, error FROM magnetis_ops.api_calls ORDER BY id")
            )
        ]


@pytest.mark.parametrize("window", list(QuotaWindow))
def test_a_renewed_charge_counts_from_now_and_costs_nothing(
    engine: Engine, clock: Any, window: QuotaWindow
) -> None:
    clock.set(datetime(2025, 6, 1, 21, 50, tzinfo=UTC))
    book = ledger(engine, quota=1, window=window)
    waiting = book.charge(CHARGE)
    clock.set(datetime(2025, 6, 1, 21, 59, 30, tzinfo=UTC))
    renewed = book.charge(replace(CHARGE, renews=waiting.number))
    assert (renewed.number, renewed.pause) == (waiting.number, 0)
    clock.set(datetime(2025, 6, 1, 22, 1, tzinfo=UTC))
    assert book.usage().used == 1, "it may be received within the first minutes of the new day"
    with pytest.raises(QuotaExhausted):
        book.charge(CHARGE)
    assert errors(engine) == [(waiting.number, None)]


def test_a_charge_of_yesterday_is_charged_again(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 21, 59, 58, tzinfo=UTC))
    book = ledger(engine, quota=1)
    yesterday = book.charge(CHARGE)
    assert yesterday.valid_seconds == pytest.approx(2, abs=1)
    clock.set(datetime(2025, 6, 1, 22, 0, 1, tzinfo=UTC))
    today = book.charge(replace(CHARGE, renews=yesterday.number))
    assert today.number != yesterday.number
    assert errors(engine) == [(yesterday.number, "NotSent"), (today.number, None)]
    assert one(engine, "SELECT sum(manual), count(*) FROM magnetis_ops.quota_days") == (2, 2), (
        "nothing is refunded"
    )
    assert book.usage().used == 1, "a call that was not sent counts on its own day only"


def test_a_charge_of_yesterday_is_settled_even_if_today_has_no_call_left(
    engine: Engine, clock: Any
) -> None:
    clock.set(datetime(2025, 6, 1, 21, 50, tzinfo=UTC))
    book = ledger(engine, quota=1)
    yesterday = book.charge(CHARGE)
    clock.set(datetime(2025, 6, 1, 22, 1, tzinfo=UTC))
    settle_ok(book, book.charge(CHARGE))
    with pytest.raises(QuotaExhausted):
        book.charge(replace(CHARGE, renews=yesterday.number))
    assert errors(engine)[0] == (yesterday.number, "NotSent")


def test_a_closed_key_renews_only_its_trial(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book = ledger(engine, quota=10)
    waiting = book.charge(CHARGE)
    close_key(book, 30)
    with pytest.raises(QuotaExhausted):
        book.charge(replace(CHARGE, renews=waiting.number))
    clock.advance(timedelta(seconds=31))
    trial = book.charge(CHARGE)
    clock.advance(LONGEST_CALL - timedelta(seconds=1))
    assert book.charge(replace(CHARGE, renews=trial.number)).number == trial.number
    clock.advance(timedelta(seconds=2))
    with pytest.raises(QuotaExhausted, match="a trial call is in flight"):
        book.charge(CHARGE)


def test_a_trial_of_yesterday_is_replaced_by_its_successor(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 21, 58, tzinfo=UTC))
    book = ledger(engine, quota=10)
    close_key(book, 30)
    clock.advance(timedelta(seconds=31))
    trial = book.charge(CHARGE)
    clock.set(datetime(2025, 6, 1, 22, 0, 1, tzinfo=UTC))
    assert book.charge(replace(CHARGE, renews=trial.number)).number != trial.number


@pytest.mark.parametrize("window", list(QuotaWindow))
def test_a_call_counts_in_the_window_in_which_it_is_settled_however_late(
    engine: Engine, clock: Any, window: QuotaWindow
) -> None:
    """A machine slept while the request was in flight.

    The API may have received the request after the machine woke up.
    """
    clock.set(datetime(2025, 6, 1, 20, tzinfo=UTC))
    book = ledger(engine, quota=2, window=window)
    asleep = book.charge(CHARGE)
    clock.set(datetime(2025, 6, 4, 6, tzinfo=UTC))
    settle_ok(book, asleep)
    assert book.usage().used == 1
    clock.advance(timedelta(hours=23))
    assert book.usage().used == (1 if window is QuotaWindow.ROLLING else 0)
    clock.advance(timedelta(hours=2))
    assert book.usage().used == 0


@pytest.mark.parametrize("window", list(QuotaWindow))
def test_late_calls_are_found_by_their_index(engine: Engine, window: QuotaWindow) -> None:
    statement = {
        QuotaWindow.CALENDAR: ledger_sql.CALENDAR_USAGE,
        QuotaWindow.ROLLING: ledger_sql.ROLLING_USAGE,
    }[window]
    with engine.connect() as connection:
        cursor = driver_of(connection).cursor()
        cursor.execute("SET LOCAL enable_seqscan = off")
        parameters = {"key": "a", "zone": "UTC", "longest": LONGEST_CALL}
        plan = "\n".join(row[0] for row in cursor.execute(f"EXPLAIN {statement}", parameters))
    assert "ix_api_calls_late" in plan


def test_a_rejected_key_is_tried_once_after_a_pause(engine: Engine, clock: Any) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book, other = ledger(engine, quota=10), ledger(engine, quota=10)
    refused = Settlement(status=401, error="KeyRefused", key_refused=True, signal="HTTP 401")
    book.settle(book.charge(CHARGE).number, refused)
    with pytest.raises(
        QuotaExhausted, match=r"rejected this key .*HTTP 401, key refused.*--reopen"
    ) as raised:
        other.charge(CHARGE)
    assert raised.value.key_refused
    assert raised.value.available_at - raised.value.at <= timedelta(seconds=REFUSED_PAUSE)
    assert book.usage().elsewhere == 0, "it does not affect the quota"
    clock.advance(timedelta(seconds=REFUSED_PAUSE + 1))
    trial = other.charge(CHARGE)
    with pytest.raises(QuotaExhausted, match="rejected this key"):
        book.charge(CHARGE)
    settle_ok(other, trial)
    assert not book.usage().key_refused
    book.charge(CHARGE)


def test_a_throttle_does_not_affect_the_quota_day(engine: Engine) -> None:
    book = ledger(engine, quota=10)
    signal = "HTTP 429, Retry-After: 300, X-RateLimit-Limit: limit=60"
    throttled = Settlement(
        status=429, over_quota=True, throttled=True, retry_after=300, signal=signal
    )
    book.settle(book.charge(CHARGE).number, throttled)
    assert book.usage().elsewhere == 0
    with pytest.raises(QuotaExhausted, match=f"The API said: {signal}"):
        book.charge(CHARGE)


@pytest.mark.parametrize(
    ("answer", "closed_seconds"),
    [
        (Settlement(status=200), None),
        (Settlement(status=404, error="RouteUnavailable"), None),
        (Settlement(status=503, error="ServerUnavailable"), 7_000),
        (Settlement(status=None, error="NotConnected"), 7_000),
        (
            Settlement(
                status=429, over_quota=True, retry_after=60.0, signal="HTTP 429, Retry-After: 60"
            ),
            60,
        ),
        (Settlement(status=401, key_refused=True, signal="HTTP 401"), REFUSED_PAUSE),
    ],
)
def test_a_trial_may_be_requested_while_the_key_is_closed(
    engine: Engine, clock: Any, answer: Settlement, closed_seconds: float | None
) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    book = ledger(engine, quota=10)
    close_key(book, 7_000)
    trial = book.charge(replace(CHARGE, trial=True))
    with pytest.raises(QuotaExhausted):
        book.charge(CHARGE)
    with pytest.raises(QuotaExhausted):
        book.charge(replace(CHARGE, trial=True))
    book.settle(trial.number, answer)
    usage = book.usage()
    if closed_seconds is None:
        assert (usage.closed_until, usage.elsewhere) == (None, 0)
    else:
        assert usage.closed_until is not None
        assert (usage.closed_until - usage.at).total_seconds() == pytest.approx(
            closed_seconds, abs=5
        )


def test_a_trial_respects_the_quota(engine: Engine) -> None:
    book = ledger(engine, quota=1)
    settle_ok(book, book.charge(CHARGE))
    close_key(book, 7_000)
    with pytest.raises(QuotaExhausted):
        book.charge(replace(CHARGE, trial=True))


def test_the_signal_is_that_of_the_longest_closing(engine: Engine) -> None:
    book = ledger(engine, quota=10)
    first, second = book.charge(CHARGE), book.charge(CHARGE)
    book.settle(
        first.number,
        Settlement(
            status=429, over_quota=True, retry_after=600, signal="HTTP 429, Retry-After: 600"
        ),
    )
    book.settle(
        second.number,
        Settlement(status=429, over_quota=True, retry_after=5, signal="HTTP 429, Retry-After: 5"),
    )
    assert book.usage().closed_signal == "HTTP 429, Retry-After: 600"
