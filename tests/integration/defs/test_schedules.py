"""The requests of the schedules at each tick, and one run that loads the range in one window."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_daemon import daemon
from small_api import PARIS, SmallApi, call

from magnetis_dagster.dagster_support.partition_tags import days_of
from magnetis_dagster.definitions import build_defs

EVENTS = ("calls", "conversions", "emails", "leads", "visits")
TUESDAY, MONDAY = date(2025, 4, 1), date(2025, 3, 31)


def requested(schedule: str, moment: datetime) -> tuple[str, str] | str | None:
    """Return the first and last day, or the skip reason."""
    defs = build_defs()
    context = dg.build_schedule_context(
        scheduled_execution_time=moment, repository_def=defs.get_repository_def()
    )
    data = defs.resolve_schedule_def(schedule).evaluate_tick(context)
    if not data.run_requests:
        return data.skip_message
    [request] = data.run_requests
    days = days_of(request.tags)
    assert request.run_key == str(days[-1]), "one run for each scheduled day"
    assert "magnetis/lane" not in request.tags
    assert request.tags["dagster/schedule_name"] == schedule
    return str(days[0]), str(days[-1])


def at(day: date, hour: int = 1) -> datetime:
    return datetime(day.year, day.month, day.day, hour, 30, tzinfo=PARIS)


@pytest.mark.parametrize(
    ("settings", "day", "expected"),
    [
        ({}, TUESDAY, ("2025-03-24", "2025-03-31")),
        ({}, MONDAY, ("2025-02-28", "2025-03-30")),
        ({"LOOKBACK_DAYS": "0"}, TUESDAY, ("2025-03-31", "2025-03-31")),
        ({"LOOKBACK_DAYS": "0"}, MONDAY, ("2025-02-28", "2025-03-30")),
        ({"LOOKBACK_DAYS": "0", "WEEKLY_LOOKBACK_DAYS": "0"}, MONDAY, ("2025-03-30", "2025-03-30")),
        ({"WEEKLY_LOOKBACK_DAYS": "0"}, MONDAY, ("2025-03-23", "2025-03-30")),
        ({"LOOKBACK_DAYS": "40"}, MONDAY, ("2025-02-18", "2025-03-30")),
        ({"START_DATE": "2025-03-29"}, TUESDAY, ("2025-03-29", "2025-03-31")),
        ({"START_DATE": "2025-03-29"}, MONDAY, ("2025-03-29", "2025-03-30")),
        ({"START_DATE": "2025-03-31"}, TUESDAY, ("2025-03-31", "2025-03-31")),
        (
            {"START_DATE": "2025-04-01"},
            TUESDAY,
            "No day since MAGNETIS_START_DATE (2025-04-01) has ended yet.",
        ),
        (
            {"TIMEZONE": "America/New_York"},
            TUESDAY,
            ("2025-03-23", "2025-03-30"),
        ),  # still Monday evening there, with the daily look-back
    ],
)
def test_yesterday_and_the_look_back_days_are_requested(
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    day: date,
    expected: tuple[str, str] | str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"MAGNETIS_{name}", value)
    if "TIMEZONE" in settings:
        monkeypatch.setenv("MAGNETIS_WEEKLY_LOOKBACK_DAYS", "0")
    assert requested("daily_events", at(day)) == expected


@pytest.mark.parametrize("change", [date(2025, 3, 30), date(2025, 10, 26)])
def test_days_with_a_clock_change_are_requested_normally(change: date) -> None:
    for shift in range(-1, 3):
        day = change + timedelta(days=shift)
        first, last = requested("daily_events", at(day)) or ("", "")
        assert date.fromisoformat(last) == day - timedelta(days=1)
        assert date.fromisoformat(first) == day - timedelta(days=31 if day.weekday() == 0 else 8)
        assert requested("daily_snapshots", at(day, 0)) == (str(day), str(day))


def test_a_snapshot_that_was_missed_before_midnight_is_skipped() -> None:
    today = datetime.now(PARIS).date()
    assert requested("daily_snapshots", at(today, 0)) == (str(today), str(today))
    assert "the API returns only the current state" in str(
        requested("daily_snapshots", at(today - timedelta(days=1), 0))
    )


def test_schedules_are_on_and_describe_their_days(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("daily_events", "daily_snapshots"):
        schedule = build_defs().resolve_schedule_def(name)
        assert (schedule.execution_timezone, schedule.default_status) == (
            "Europe/Paris",
            dg.DefaultScheduleStatus.RUNNING,
        )
    description = str(build_defs().resolve_schedule_def("daily_events").description)
    assert (
        "re-reads the 7 days before it (MAGNETIS_LOOKBACK_DAYS); on Mondays, re-reads the 30 days"
    ) in description
    monkeypatch.setenv("MAGNETIS_WEEKLY_LOOKBACK_DAYS", "0")
    monkeypatch.setenv("MAGNETIS_LOOKBACK_DAYS", "0")
    assert str(build_defs().resolve_schedule_def("daily_events").description).startswith(
        "Loads yesterday of every events collection. "
    )


def test_the_daemon_launches_one_run_that_reads_the_whole_range(
    tmp_path: Path, api: SmallApi, query: Callable[..., list[Any]]
) -> None:
    api.rows["/calls"] = [call(day, f"2025-03-{day:02} 10:00:00") for day in range(20, 32)]
    with daemon(tmp_path) as running:
        tick = running.schedule_tick("daily_events", at(TUESDAY))
        run = running.run_of(tick)
        assert (run.status, run.job_name) == (dg.DagsterRunStatus.SUCCESS, "daily_events")
        green = {
            name: running.instance.get_materialized_partitions(dg.AssetKey(["magnetis", name]))
            for name in EVENTS
        }
        again = running.schedule_tick("daily_events", at(TUESDAY))
        assert again.run_ids == tick.run_ids, "one run for each scheduled day"
    assert green == {name: {f"2025-03-{day}" for day in range(24, 32)} for name in EVENTS}
    assert query("SELECT array_agg(day::text ORDER BY day) FROM magnetis.calls") == [
        ([f"2025-03-{day}" for day in range(24, 32)],)
    ]
    assert query(
        "SELECT DISTINCT collection, first_day::text, last_day::text FROM magnetis_ops.windows "
        "ORDER BY 1"
    ) == [(name, "2025-03-24", "2025-03-31") for name in EVENTS]
    assert query("SELECT lane, count(*) FROM magnetis_ops.api_calls GROUP BY lane") == [
        ("schedule", 5 + 4)
    ], "empty weeks of four collections are verified"


def test_a_look_back_finds_late_changes(
    tmp_path: Path, api: SmallApi, query: Callable[..., list[Any]]
) -> None:
    api.rows["/calls"] = [
        call(day, f"2025-03-{day:02} 10:00:00", status="missed") for day in range(20, 32)
    ]
    with daemon(tmp_path) as running:
        running.schedule_tick("daily_events", at(TUESDAY))
        for row in api.rows["/calls"]:
            row["status"] = "answered"
        running.schedule_tick("daily_events", at(TUESDAY + timedelta(days=1)))
    assert query(
        "SELECT status, array_agg(day::text ORDER BY day) FROM magnetis.calls GROUP BY status "
        "ORDER BY status"
    ) == [
        ("answered", [f"2025-03-{day}" for day in range(25, 32)]),
        ("missed", ["2025-03-24"]),
    ]
