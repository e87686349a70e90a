"""The input of the forecast, measured from the real tables."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, text

from magnetis_dagster.quota import QuotaPolicy, QuotaWindow
from magnetis_dagster.quota.forecast import Pace
from magnetis_dagster.quota.history import SECONDS_PER_CALL, read_pace
from magnetis_dagster.quota.ledger import Charge, Ledger
from magnetis_dagster.quota.rules import Usage

KEY = "0123456789ab"
POLICY = QuotaPolicy(limit=100, zone=ZoneInfo("Europe/Paris"))
NOON = datetime(2025, 6, 12, 10, tzinfo=UTC)
TODAY = date(2025, 6, 12)


def pace_of(engine: Engine, usage: Usage, policy: QuotaPolicy = POLICY) -> Pace:
    return read_pace(engine, Ledger(engine, key_fingerprint=KEY, policy=policy), usage=usage)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def add_day(engine: Engine, day: date, key: str = KEY, **lanes: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO magnetis_ops.quota_days "
                f"(key_fingerprint, day, daily_quota, {', '.join(lanes)}) "
                f"VALUES (:key, :day, 100, {', '.join(str(number) for number in lanes.values())})"
            ),
            {"key": key, "day": day},
        )


def test_the_mean_is_that_of_the_last_week_without_today(engine: Engine, clock: Any) -> None:
    clock.set(NOON)
    add_day(engine, ago(8), schedule=700)
    add_day(engine, ago(7), schedule=14, manual=7)
    add_day(engine, ago(2), schedule=7)
    add_day(engine, ago(2), key="another", schedule=70)
    add_day(engine, TODAY, schedule=70)
    usage = Ledger(engine, key_fingerprint=KEY, policy=POLICY).usage()
    pace = pace_of(engine, usage)
    assert pace.mean_a_day == {"schedule": 3.0, "settings": 0.0, "manual": 1.0, "backfill": 0.0}


def test_a_new_key_is_measured_since_its_first_day(engine: Engine, clock: Any) -> None:
    clock.set(NOON)
    usage = Ledger(engine, key_fingerprint=KEY, policy=POLICY).usage()
    nothing = pace_of(engine, usage)
    assert set(nothing.mean_a_day.values()) == {0.0}
    assert (nothing.seconds_per_call, nothing.expiries) == (SECONDS_PER_CALL, ())
    add_day(engine, ago(2), schedule=8)
    assert pace_of(engine, usage).mean_a_day["schedule"] == 4.0


def test_seconds_per_call_are_those_of_long_windows(engine: Engine) -> None:
    with engine.begin() as connection:
        for calls, milliseconds in ((1, 9_000), (100, 5_000), (300, 75_000)):
            connection.execute(
                text(
                    "INSERT INTO magnetis_ops.windows (collection, first_day, last_day, read_at, "
                    "committed_at, announced, received, padding, held, quarantined, inserted, "
                    "changed, deleted, api_calls, bytes, milliseconds) VALUES ('calls', "
                    "'2025-06-01', '2025-06-01', magnetis_ops.now(), magnetis_ops.now(), "
                    "1, 1, 0, 1, 0, 1, 0, 0, :calls, 1, :ms)"
                ),
                {"calls": calls, "ms": milliseconds},
            )
    usage = Ledger(engine, key_fingerprint=KEY, policy=POLICY).usage()
    assert pace_of(engine, usage).seconds_per_call == pytest.approx(0.2)


def test_a_rolling_quota_knows_when_its_calls_return(engine: Engine, clock: Any) -> None:
    rolling = QuotaPolicy(limit=100, zone=ZoneInfo("Europe/Paris"), window=QuotaWindow.ROLLING)
    ledger = Ledger(engine, key_fingerprint=KEY, policy=rolling)
    for hours in (30, 23, 1):
        clock.set(NOON - timedelta(hours=hours))
        ledger.charge(Charge(collection="calls", route="/calls", page=1, lane="manual"))
    clock.set(NOON)
    usage = ledger.usage()
    pace = pace_of(engine, usage, rolling)
    assert len(pace.expiries) == usage.used == 2
    assert {lane for _, lane in pace.expiries} == {"manual"}
    assert min(end for end, _ in pace.expiries) - NOON == pytest.approx(
        timedelta(minutes=65), abs=timedelta(seconds=5)
    )


def test_seconds_per_call_are_those_of_the_connection_if_it_has_any(engine: Engine) -> None:
    with engine.begin() as connection:
        for name, milliseconds in (("slow", 40_000), ("magnetis", 4_000)):
            connection.execute(
                text(
                    "INSERT INTO magnetis_ops.windows (connection, collection, first_day, last_day,"
                    " read_at, committed_at, announced, bytes, received, padding, held,"
                    " quarantined, inserted, changed, deleted, api_calls, milliseconds)"
                    " VALUES (:name, 'calls', :day, :day, now(), now(),"
                    " 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, :milliseconds)"
                ),
                {"name": name, "day": TODAY, "milliseconds": milliseconds},
            )
    usage = Ledger(engine, key_fingerprint=KEY, policy=POLICY).usage()
    for name, seconds in (("slow", 2.0), ("magnetis", 0.2)):
        ledger = Ledger(engine, key_fingerprint=KEY, policy=POLICY, connection_name=name)
        assert read_pace(engine, ledger, usage=usage).seconds_per_call == pytest.approx(seconds)
    new = Ledger(engine, key_fingerprint=KEY, policy=POLICY, connection_name="new")
    assert read_pace(engine, new, usage=usage).seconds_per_call == pytest.approx(1.1)
