"""The asset magnetis/quota, observed by a sensor tick without a run, or by a run."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from closed_key import close_key
from small_api import KEY, SmallApi, call
from sqlalchemy import Engine

from magnetis_dagster.dagster_support.partition_tags import days_tags
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Charge, Ledger
from magnetis_dagster.settings import Settings

QUOTA = dg.AssetKey(["magnetis", "quota"])
MORNING = datetime(2025, 6, 15, 8, tzinfo=UTC)  # 10:00 in Paris
Tick = Callable[[], dg.SensorResult]


@pytest.fixture(autouse=True)
def _twenty_calls(monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    monkeypatch.setenv("MAGNETIS_DAILY_QUOTA", "20")
    clock.set(MORNING)


@pytest.fixture
def tick(instance: dg.DagsterInstance) -> Callable[[], Any]:
    """Run a tick and store its events, as the daemon does."""

    def tick() -> Any:
        definitions = build_defs()
        with dg.build_sensor_context(instance=instance, definitions=definitions) as context:
            data = definitions.resolve_sensor_def("quota_sensor").evaluate_tick(context)
        assert data.run_requests == []
        for event in data.asset_events:
            instance.report_runless_asset_event(event)
        return data

    return tick


def spend(engine: Engine, lane: str, number: int, **policy: Any) -> None:
    rules = QuotaPolicy(limit=20, zone=ZoneInfo("Europe/Paris"), **policy)
    ledger = Ledger(engine, key_fingerprint=Settings.load().key_fingerprint, policy=rules)
    for _ in range(number):
        ledger.charge(Charge(collection="calls", route="/calls", page=1, lane=lane))


def last(instance: dg.DagsterInstance) -> Mapping[str, Any]:
    [record] = instance.fetch_observations(QUOTA, limit=1).records
    assert record.asset_observation
    return {name: value.value for name, value in record.asset_observation.metadata.items()}


def check_results(instance: dg.DagsterInstance) -> dict[str, tuple[bool, str]]:
    keys = [dg.AssetCheckKey(QUOTA, name) for name in ("quota_pace", "floors_kept")]
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    evaluations = {
        key.name: record.event.asset_check_evaluation
        for key, record in found.items()
        if record.event
    }  # type: ignore[union-attr]
    return {name: (each.passed, each.severity.value) for name, each in evaluations.items() if each}


def test_a_tick_observes_without_a_run(
    tick: Any, instance: dg.DagsterInstance, engine: Engine, api: SmallApi
) -> None:
    spend(engine, "schedule", 1)
    spend(engine, "backfill", 2)
    assert tick().skip_message == "Observed: 3 of 20 API calls used, 17 left"
    seen = last(instance)
    assert {name: seen[name] for name in ("used", "remaining", "limit", "used elsewhere")} == {
        "used": 3,
        "remaining": 17,
        "limit": 20,
        "used elsewhere": 0,
    }
    assert [seen[f"used by {lane}"] for lane in ("schedule", "settings", "manual", "backfill")] == [
        1,
        0,
        0,
        2,
    ]
    assert [seen[f"{lane} may use"] for lane in ("schedule", "backfill")] == [17, 12]
    assert check_results(instance) == {"quota_pace": (True, "WARN"), "floors_kept": (True, "ERROR")}
    assert instance.get_runs() == []
    assert api.requests == []


def test_calls_of_other_programs_and_a_closed_key_are_observed(
    tick: Any, instance: dg.DagsterInstance, engine: Engine
) -> None:
    spend(engine, "manual", 1)
    settings = Settings.load()
    ledger = Ledger(engine, key_fingerprint=settings.key_fingerprint, policy=settings.quota_policy)
    close_key(ledger, 7200)
    assert (
        tick().skip_message
        == "Observed: 20 of 20 API calls used, 0 left, closed until 2025-06-15 12:00 CEST"
    )
    assert (last(instance)["used elsewhere"], last(instance)["schedule may use"]) == (19, 0)


@pytest.mark.parametrize(
    ("used", "local_hour", "window", "passed"),
    [
        (15, 17, "calendar", True),
        (16, 17, "calendar", False),
        (16, 18, "calendar", True),
        (16, 20, "rolling", False),
    ],
)
def test_the_pace_warns_at_80_percent_before_18_oclock(
    tick: Any,
    instance: dg.DagsterInstance,
    engine: Engine,
    clock: Any,
    monkeypatch: pytest.MonkeyPatch,
    used: int,
    local_hour: int,
    window: str,
    passed: bool,
) -> None:
    monkeypatch.setenv("MAGNETIS_QUOTA_WINDOW", window)
    clock.set(datetime(2025, 6, 15, local_hour - 2, 30, tzinfo=UTC))
    spend(engine, "manual", used)
    tick()
    assert check_results(instance)["quota_pace"] == (passed, "WARN")


def test_a_broken_floor_fails_for_the_rest_of_the_day(
    tick: Any, instance: dg.DagsterInstance, engine: Engine, clock: Any
) -> None:
    tick()
    spend(engine, "backfill", 14)
    tick()
    assert check_results(instance)["floors_kept"] == (True, "ERROR")
    spend(engine, "backfill", 1, floors={})  # a process with other quota rules
    for _ in range(2):
        clock.advance(timedelta(minutes=15))
        tick()
        assert check_results(instance)["floors_kept"] == (False, "ERROR")
    clock.advance(timedelta(days=1))
    tick()
    assert check_results(instance)["floors_kept"] == (True, "ERROR")


def test_changed_floors_are_not_broken(
    tick: Any,
    instance: dg.DagsterInstance,
    engine: Engine,
    clock: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAGNETIS_QUOTA_FLOORS", "")
    tick()
    spend(engine, "backfill", 18, floors={})
    clock.advance(timedelta(minutes=1))
    tick()
    assert check_results(instance)["floors_kept"] == (True, "ERROR")
    monkeypatch.delenv("MAGNETIS_QUOTA_FLOORS")
    for _ in range(2):
        clock.advance(timedelta(minutes=15))
        tick()
        assert check_results(instance)["floors_kept"] == (True, "ERROR"), (
            "those calls were granted by the rules of that time"
        )


def test_a_run_observes_too_and_sends_no_api_request(
    instance: dg.DagsterInstance, engine: Engine, api: SmallApi
) -> None:
    spend(engine, "manual", 2)
    job = build_defs().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, asset_selection=[QUOTA])
    assert result.success
    assert last(instance)["used"] == 2
    assert check_results(instance) == {"quota_pace": (True, "WARN"), "floors_kept": (True, "ERROR")}
    assert api.requests == []


def test_the_last_load_of_a_run_observes_it(api: SmallApi, instance: dg.DagsterInstance) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00")]
    job = build_defs().resolve_job_def("daily_events")
    assert job.execute_in_process(
        instance=instance, tags=days_tags(date(2025, 3, 28), date(2025, 3, 28))
    ).success
    assert len(instance.fetch_observations(QUOTA, limit=9).records) == 1
    assert last(instance)["used by manual"] == len(api.requests) == 5


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MAGNETIS_API_KEY", "", "MAGNETIS_API_KEY is not set"),
        (
            "MAGNETIS_DATABASE_URL",
            "postgresql://me:hush@127.0.0.1:9/none",
            "PostgreSQL at postgresql://me:***@127.0.0.1:9/none cannot",
        ),
    ],
)
def test_an_error_is_the_skip_reason(
    tick: Any,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    says: str,
) -> None:
    definitions = build_defs()
    monkeypatch.setenv(name, value)
    seen = tick()
    assert says in seen.skip_message
    assert "hush" not in seen.skip_message
    assert seen.asset_events == []
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, asset_selection=[QUOTA], raise_on_error=False
    )
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert says in str(failed.step_failure_data.user_failure_data.description)


def test_without_tables_all_api_calls_remain(
    tick: Any,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    empty_database_url: str,
) -> None:
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", empty_database_url)
    assert tick().skip_message == "Observed: 0 of 20 API calls used, 20 left"


def test_the_key_is_not_logged(tick: Any, instance: dg.DagsterInstance) -> None:
    assert KEY not in str(tick())
    assert KEY not in str(last(instance))


def test_the_asset_is_no_collection_and_its_sensor_is_on() -> None:
    definitions = build_defs()
    node = definitions.resolve_asset_graph().get(QUOTA)
    assert (node.is_observable, node.is_materializable, node.group_name) == (
        True,
        False,
        "operations",
    )
    sensor = definitions.resolve_sensor_def("quota_sensor")
    assert (sensor.minimum_interval_seconds, sensor.default_status) == (
        900,
        dg.DefaultSensorStatus.RUNNING,
    )
    assert sensor.asset_selection == dg.AssetSelection.assets(QUOTA), (
        "the asset's page shows the sensor"
    )
    for job in ("daily_events", "daily_snapshots"):
        assert QUOTA not in definitions.resolve_job_def(job).asset_layer.executable_asset_keys


def test_the_code_location_imports_no_heavy_library() -> None:
    code = (
        "import sys, magnetis_dagster.definitions; "
        "names = ('sqlalchemy', 'httpx', 'magnetis_dagster.quota.report'); "
        "print([name for name in names if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_equal_results_within_an_hour_are_logged_once(
    instance: dg.DagsterInstance, engine: Engine, clock: Any
) -> None:
    definitions, cursor = build_defs(), None
    found = []
    for minutes, calls in ((0, 1), (15, 0), (30, 16), (45, 0), (60, 0)):
        clock.set(MORNING + timedelta(minutes=minutes))
        spend(engine, "manual", calls)
        with dg.build_sensor_context(
            instance=instance, definitions=definitions, cursor=cursor
        ) as context:
            data = definitions.resolve_sensor_def("quota_sensor").evaluate_tick(context)
        cursor = data.cursor
        kinds = [type(event).__name__ for event in data.asset_events]
        assert kinds.count("AssetObservation") == 1
        found.append(kinds.count("AssetCheckEvaluation"))
    assert found == [2, 0, 2, 0, 2], "the first, a change, and a new hour"
