"""Forecasts compared with spent API calls and completed days, in the real tables."""

from datetime import date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from magnetis_dagster.database import connect
from magnetis_dagster.warehouse.forecasts import UnknownBackfill, error_percent, record, report

WORK = "abcdefgh"


def june(day: int) -> date:
    return date(2025, 6, day)


def spend(
    engine: Engine,
    calls: int,
    *,
    collection: str = "calls",
    backfill: str | None = WORK,
    run: str = "run-1",
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO magnetis_ops.api_calls (key_fingerprint, day, charged_at, collection, "
                "route, page, run_id, lane, backfill_id) "
                "SELECT '0123456789ab', '2025-06-12', magnetis_ops.now(), :collection, "
                "'/x', 1, :run, 'backfill', :backfill FROM generate_series(1, :calls)"
            ),
            {"collection": collection, "run": run, "backfill": backfill, "calls": calls},
        )


def complete(
    engine: Engine,
    *days: date,
    collection: str = "calls",
    run: str = "run-1",
    ago: timedelta = timedelta(0),
) -> None:
    with engine.begin() as connection:
        at = connection.execute(text("SELECT magnetis_ops.now()")).scalar_one() - ago
        for day in days:
            parameters: dict[str, Any] = {
                "collection": collection,
                "day": day,
                "at": at,
                "run": run,
            }
            window = connection.execute(
                text(
                    "INSERT INTO magnetis_ops.windows (collection, first_day, last_day, read_at, "
                    "committed_at, announced, received, padding, held, quarantined, inserted, "
                    "changed, deleted, api_calls, bytes, milliseconds) "
                    "VALUES (:collection, :day, :day, :at, :at, "
                    "30, 30, 0, 30, 0, 30, 0, 0, 1, 1, 1) RETURNING id"
                ),
                parameters,
            ).scalar_one()
            connection.execute(
                text(
                    "INSERT INTO magnetis_ops.days "
                    "(collection, day, window_id, read_at, announced, held, run_id) "
                    "VALUES (:collection, :day, :window, :at, 30, 30, :run)"
                ),
                parameters | {"window": window},
            )


def test_the_report_compares_forecast_and_spent_calls_during_and_after_the_backfill(
    engine: Engine,
) -> None:
    complete(engine, june(9), run="an earlier run", ago=timedelta(hours=1))
    complete(engine, june(4), june(20), run="a run of a day between")
    record(engine, WORK, "calls", june(1), june(2), 2, 60, 3, planned=True)
    record(engine, WORK, "calls", june(9), june(10), 2, 60, 2, planned=True)
    record(engine, WORK, "visits", june(1), june(1), 1, 90, 1, planned=True)
    record(engine, "another0", "calls", june(1), june(30), 30, 900, 40, planned=True)
    calls, visits = report(engine, WORK)
    assert (
        calls.collection,
        calls.first_day,
        calls.last_day,
        calls.days,
        calls.rows,
        calls.calls,
    ) == (
        "calls",
        june(1),
        june(10),
        4,
        120,
        5,
    )
    assert (calls.spent, calls.days_done, calls.rows_done, calls.error_percent) == (0, 0, 0, None)
    spend(engine, 3)
    spend(engine, 7, backfill="another0", run="run-2")
    spend(engine, 7, backfill=None, run="run-3")
    spend(engine, 2, collection="visits")
    complete(engine, june(1), june(2), june(10))
    calls, visits = report(engine, WORK)
    assert (calls.spent, calls.days_done, calls.rows_done, calls.error_percent) == (3, 3, 90, None)
    assert (visits.spent, visits.days_done) == (2, 0)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM magnetis_ops.days WHERE day = '2025-06-09'"))
    complete(engine, june(9))
    spend(engine, 1)
    calls, _ = report(engine, WORK)
    assert (calls.spent, calls.days_done, calls.error_percent) == (4, 4, 25.0)


def test_a_planned_forecast_replaces_the_forecasts_of_runs(engine: Engine) -> None:
    record(engine, WORK, "calls", june(1), june(10), 10, 300, 9)
    record(engine, WORK, "calls", june(1), june(10), 10, 310, 99)
    assert [line.calls for line in report(engine, WORK)] == [9], "the first run's forecast stays"
    record(engine, WORK, "calls", june(1), june(10), 10, 305, 4, planned=True)
    record(engine, WORK, "calls", june(1), june(10), 10, 310, 99)
    record(engine, WORK, "calls", june(6), june(10), 5, 155, 2)
    record(engine, WORK, "calls", june(1), june(10), 10, 310, 98, planned=True)
    [line] = report(engine, WORK)
    assert (line.calls, line.days, line.rows) == (4, 10, 305)


def test_the_forecast_of_a_backfill_from_the_ui_is_the_sum_of_its_runs(engine: Engine) -> None:
    record(engine, WORK, "calls", june(1), june(10), 10, 300, 9)
    record(engine, WORK, "calls", june(6), june(10), 5, 155, 2)
    record(engine, WORK, "calls", june(20), june(21), 2, 60, 1)
    [line] = report(engine, WORK)
    assert (line.calls, line.days, line.last_day) == (10, 12, june(21)), (
        "days that a resumed run forecasts again do not count twice"
    )
    # a run starts to read before it records its forecast
    complete(engine, june(1), ago=timedelta(seconds=30))
    assert report(engine, WORK)[0].days_done == 0
    spend(engine, 1)
    assert report(engine, WORK)[0].days_done == 1, "a run of the backfill completed the day"


def test_an_unknown_backfill_and_a_database_without_tables(
    engine: Engine, empty_database_url: str
) -> None:
    with pytest.raises(UnknownBackfill, match="'nope'"):
        report(engine, "nope")
    empty = connect(empty_database_url)
    with pytest.raises(UnknownBackfill):
        report(empty, WORK)
    empty.dispose()


def test_the_error_is_a_percentage_of_the_calls_spent() -> None:
    assert error_percent(105, 100) == 5.0
    assert error_percent(95, 100) == -5.0
    assert error_percent(3, 0) is None


def test_a_forecast_records_its_time(engine: Engine) -> None:
    record(engine, WORK, "calls", june(1), june(10), 10, 300, 9)
    with engine.connect() as connection:
        at, now = connection.execute(
            text("SELECT forecast_at, magnetis_ops.now() FROM magnetis_ops.forecasts")
        ).one()
    assert isinstance(at, datetime)
    assert timedelta(0) <= now - at < timedelta(minutes=1)
