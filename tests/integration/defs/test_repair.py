"""The repair sensor, run by the daemon.

It loads missing days, requests a day at most three times, and skips collections that a run loads.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster_daemon import Daemon, daemon
from small_api import PARIS, Request, SmallApi

from magnetis_dagster.dagster_support.partition_tags import days_of, days_tags
from magnetis_dagster.dates import days_between
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.defs.missing_days import read_closed_days
from magnetis_dagster.settings import Settings

CALLS = dg.AssetKey(["magnetis", "calls"])


def ago(days: int) -> date:
    return datetime.now(PARIS).date() - timedelta(days=days)


@pytest.fixture(autouse=True)
def _only_calls_and_visits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    off = "".join(
        f"  {name}: {{enabled: false, reason: not tested}}\n"
        for name in ("conversions", "emails", "leads")
    )
    overlay.write_text(f"collections:\n{off}")
    monkeypatch.setenv("MAGNETIS_CONFIG", str(overlay))
    monkeypatch.setenv("MAGNETIS_START_DATE", str(ago(40)))


@pytest.fixture
def running(tmp_path: Path, _only_calls_and_visits: None) -> Iterator[Daemon]:
    with daemon(tmp_path) as running:
        yield running


@pytest.fixture
def tick(running: Daemon) -> Callable[[], InstigatorTick]:
    def tick() -> InstigatorTick:
        ticked = running.sensor_tick("repair_sensor")
        assert ticked.status in {TickStatus.SUCCESS, TickStatus.SKIPPED}, ticked.error
        return ticked

    return tick


def mark(running: Daemon, collection: str, days: list[date]) -> None:
    """Record a materialization of each day, as a run would."""
    key = dg.AssetKey(["magnetis", collection])
    for day in days:
        running.instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition=str(day))
        )


def missing(running: Daemon, collection: str) -> list[date]:
    key = dg.AssetKey(["magnetis", collection])
    days = read_closed_days(running.instance, key, Settings.load())
    return list(days.missing)


def requested(running: Daemon) -> list[tuple[str, date, date, str]]:
    """Return collection, first and last day and attempt of each run of the sensor, in order."""
    found = []
    for run in reversed(
        running.instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": "repair_sensor"}))
    ):
        [key] = run.asset_selection or [dg.AssetKey("none")]
        days = days_of(run.tags)
        found.append((key.path[-1], days[0], days[-1], run.tags["magnetis/repair"]))
    return found


def refuse(api: SmallApi, path: str, *days: date) -> None:
    """Fail each window that touches one of the days."""

    def respond(request: Request) -> Any:
        if request.path != path:
            return None
        first, last = (
            datetime.strptime(request.query[name], "%Y%m%d%H%M%S").replace(tzinfo=UTC) + shift
            for name, shift in (("from", timedelta(hours=2)), ("to", timedelta(hours=-2)))
        )
        window = days_between(
            first.astimezone(PARIS).date(), (last - timedelta(seconds=1)).astimezone(PARIS).date()
        )
        return (403, {}, b"{}") if set(window) & set(days) else None

    api.respond = respond


def test_missing_days_are_loaded_newest_first_in_the_backfill_lane(
    running: Daemon, tick: Callable[[], InstigatorTick], query: Callable[..., list[Any]]
) -> None:
    mark(running, "visits", days_between(ago(40), ago(1)))
    mark(running, "calls", [*days_between(ago(40), ago(36)), ago(3)])
    assert len(tick().run_ids) == 1
    assert len(tick().run_ids) == 1
    assert tick().run_ids
    last = tick()
    assert requested(running) == [
        ("calls", ago(2), ago(1), "1 of 3"),
        ("calls", ago(34), ago(4), "1 of 3"),
        ("calls", ago(35), ago(35), "1 of 3"),
    ]
    assert missing(running, "calls") == []
    assert (last.run_ids, last.skip_reason) == ([], f"Every closed day since {ago(40)} is green.")
    assert last.cursor == "{}"
    assert query("SELECT DISTINCT lane FROM magnetis_ops.api_calls") == [("backfill",)]


def test_a_day_that_is_missing_again_is_requested_again(
    running: Daemon, tick: Callable[[], InstigatorTick], api: SmallApi
) -> None:
    mark(running, "visits", days_between(ago(40), ago(2)))
    mark(running, "calls", days_between(ago(40), ago(2)))
    assert len(tick().run_ids) == 2
    assert tick().cursor == "{}"
    refuse(api, "/calls", ago(1))
    job = build_defs().resolve_implicit_global_asset_job_def()
    failed = job.execute_in_process(
        instance=running.instance,
        asset_selection=[CALLS],
        tags=days_tags(ago(1), ago(1)),
        raise_on_error=False,
    )
    assert not failed.success
    assert missing(running, "calls") == [ago(1)]
    refuse(api, "/calls")
    tick()
    assert missing(running, "calls") == []
    assert [each for each in requested(running) if each[0] == "calls"][-1] == (
        "calls",
        ago(1),
        ago(1),
        "1 of 3",
    )


def test_a_bad_day_is_requested_three_times_and_does_not_block_other_days(
    running: Daemon, tick: Callable[[], InstigatorTick], api: SmallApi
) -> None:
    bad = ago(7)
    refuse(api, "/calls", bad)
    mark(running, "visits", days_between(ago(40), ago(1)))
    mark(running, "calls", days_between(ago(40), ago(9)))
    ticks = 0
    while tick().run_ids:
        ticks += 1
        assert ticks < 30
    assert missing(running, "calls") == [bad]
    attempts = Counter(
        day for _, first, last, _ in requested(running) for day in days_between(first, last)
    )
    assert attempts[bad] == 3
    assert max(attempts.values()) == 3
    assert ticks == len(requested(running)) == 1 + 2 + 2  # eight days; 6 and 2; two single days
    assert tick().skip_reason == f"calls: gave up after 3 attempts on {bad}."
    assert len(requested(running)) == ticks, "no further request"

    check = dg.AssetCheckKey(CALLS, "no_missing_days")
    job = (
        build_defs()
        .resolve_implicit_global_asset_job_def()
        .get_subset(asset_check_selection={check}, asset_selection=set())
    )
    job.execute_in_process(instance=running.instance)
    found = running.check("no_missing_days", "calls")
    assert f"repair_sensor gave up on {bad}. Its runs contain the reasons;" in found.description
    assert found.metadata["days given up"].value == 1
    assert [record.data["why"] for record in found.metadata["ranges"].records] == [
        "repair_sensor gave up after 3 attempts"
    ]


def test_at_most_three_runs_are_requested_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAGNETIS_CONFIG")
    monkeypatch.setenv("MAGNETIS_START_DATE", str(ago(2)))
    with daemon(tmp_path) as running:
        assert [len(running.sensor_tick("repair_sensor").run_ids) for _ in range(3)] == [3, 2, 0]
        assert {(name, first, last) for name, first, last, _ in requested(running)} == {
            (name, ago(2), ago(1)) for name in ("calls", "conversions", "emails", "leads", "visits")
        }


def test_queued_runs_of_the_sensor_count_towards_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAGNETIS_CONFIG")
    definitions = build_defs()
    with daemon(tmp_path) as running:
        for name in ("calls", "leads", "visits"):
            key = dg.AssetKey(["magnetis", name])
            job = definitions.resolve_implicit_global_asset_job_def().get_subset(
                asset_selection={key}
            )
            tags = {
                **days_tags(ago(5), ago(4)),
                "magnetis/repair": "1 of 3",
                "dagster/sensor_name": "repair_sensor",
            }
            running.instance.create_run_for_job(
                job, asset_selection={key}, tags=tags, status=dg.DagsterRunStatus.STARTED
            )
        assert running.sensor_tick("repair_sensor").skip_reason == (
            "A run or a backfill over calls, leads, visits is queued or running. "
            "3 runs of this sensor are queued or running."
        )


def test_a_reset_cursor_allows_new_attempts(
    running: Daemon, tick: Callable[[], InstigatorTick], api: SmallApi
) -> None:
    mark(running, "visits", days_between(ago(40), ago(1)))
    mark(running, "calls", days_between(ago(40), ago(2)))
    refuse(api, "/calls", ago(1))
    while tick().run_ids:
        pass
    refuse(api, "/calls")
    assert tick().run_ids == []
    running.set_cursor("repair_sensor", "")
    assert len(tick().run_ids) == 1
    assert missing(running, "calls") == []


def test_a_collection_whose_days_all_fail_is_skipped(
    running: Daemon,
    tick: Callable[[], InstigatorTick],
    api: SmallApi,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("magnetis_dagster.defs.repair_sensor.STOP_DAYS", 2)
    api.respond = lambda request: (404, {}, b"{}") if request.path == "/calls" else None
    ticks = [tick() for _ in range(6)]
    assert missing(running, "visits") == [], "the other collection is loaded"
    assert (
        len([each for each in requested(running) if each[0] == "calls"]) == 1 + 1 + 2
    )  # 31 days, 6, two single days
    assert "calls is skipped until the cursor of this sensor is reset." in str(
        ticks[-1].skip_reason
    )


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
@pytest.mark.parametrize("job", ["daily_events", "one"])
def test_a_collection_in_an_unfinished_run_is_skipped(
    running: Daemon, tick: Callable[[], InstigatorTick], status: dg.DagsterRunStatus, job: str
) -> None:
    mark(running, "visits", days_between(ago(40), ago(2)))
    definitions = build_defs()
    whole = definitions.resolve_job_def("daily_events")
    subset = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={CALLS})
    run = running.instance.create_run_for_job(
        whole if job == "daily_events" else subset,
        asset_selection=None if job == "daily_events" else {CALLS},
        tags=days_tags(ago(5), ago(4)),
        status=status,
        remote_job_origin=running.repository.get_full_job("daily_events").get_remote_origin(),
    )
    first = tick()
    if job == "daily_events":
        assert first.skip_reason == ("A run or a backfill over calls, visits is queued or running.")
    else:
        assert running.run_of(first).asset_selection == {dg.AssetKey(["magnetis", "visits"])}
    running.instance.report_run_canceled(run)
    assert tick().run_ids


@pytest.mark.parametrize("keys", [[CALLS], None])
def test_a_collection_in_an_unfinished_backfill_is_skipped(
    running: Daemon, tick: Callable[[], InstigatorTick], keys: list[dg.AssetKey] | None
) -> None:
    mark(running, "visits", days_between(ago(40), ago(1)))
    backfill = PartitionBackfill(
        "by-hand",
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags={},
        backfill_timestamp=datetime.now(UTC).timestamp(),
        asset_selection=keys,
        partition_names=[],
    )
    running.instance.add_backfill(backfill)
    assert tick().skip_reason == "A run or a backfill over calls is queued or running."
    running.instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert len(tick().run_ids) == 1


@pytest.mark.parametrize("job", ["daily_events", "nord_daily_events"])
def test_only_a_backfill_of_its_own_job_stops_the_repair_of_a_connection(
    running: Daemon, tick: Callable[[], InstigatorTick], job: str
) -> None:
    mark(running, "visits", days_between(ago(40), ago(1)))
    partitions = running.repository.get_remote_origin().get_partition_set_origin(
        f"{job}_partition_set"
    )
    running.instance.add_backfill(
        PartitionBackfill(
            "by-hand",
            status=BulkActionStatus.REQUESTED,
            from_failure=False,
            tags={},
            backfill_timestamp=datetime.now(UTC).timestamp(),
            partition_set_origin=partitions,
            partition_names=[],
        )
    )
    assert len(tick().run_ids) == (job != "daily_events")


def test_a_storage_error_is_the_skip_reason(
    running: Daemon, tick: Callable[[], InstigatorTick], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def fail(*_: object) -> None:
        raise OperationalError("SELECT secret", {}, Exception("gone"))

    cursor = tick().cursor
    monkeypatch.setattr("magnetis_dagster.defs.repair_sensor.read_closed_days", fail)
    assert tick().skip_reason == (
        "Dagster's storage does not answer (OperationalError). The next tick tries again."
    )
    monkeypatch.undo()
    assert cursor != "{}"


def test_the_sensor_is_off_and_its_description_explains_it() -> None:
    definitions = build_defs()
    sensor = definitions.resolve_sensor_def("repair_sensor")
    assert (sensor.default_status, sensor.minimum_interval_seconds) == (
        dg.DefaultSensorStatus.STOPPED,
        3600,
    )
    assert sensor.job_name == "daily_events"
    for words in (
        "loads history step by step",
        "newest first",
        "dagster sensor cursor repair_sensor --delete",
        "at most 3 times",
    ):
        assert words in str(sensor.description)
