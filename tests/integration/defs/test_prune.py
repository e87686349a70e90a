"""The job `prune` on records that are years old: it deletes them and keeps everything visible."""

import threading
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster_daemon import Daemon, daemon
from small_api import PARIS, SmallApi, call
from sqlalchemy import Engine

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import DatabaseUnavailable
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.defs.missing_days import FAILED, NEVER_LOADED, read_closed_days
from magnetis_dagster.quota.report import read_today
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse import forecasts, prune, summary
from magnetis_dagster.warehouse.reconcile import reconcile

Materialize = Callable[..., dg.ExecuteInProcessResult]
Query = Callable[..., list[Any]]
CALLS = load_catalogue()["calls"]
QUOTA = dg.AssetKey(["magnetis", "quota"])
STORAGE = dg.AssetKey(["magnetis", "storage"])
MOMENTS = {
    "dagster.event_logs": ["timestamp"],
    "dagster.asset_check_executions": ["evaluation_event_timestamp"],
    "magnetis_ops.api_calls": ["charged_at", "settled_at"],
    "magnetis_ops.windows": ["read_at", "committed_at"],
    "magnetis_ops.pages": ["fetched_at"],
    "magnetis_ops.forecasts": ["forecast_at"],
    "magnetis_ops.days": ["read_at"],
}


def ago(days: int) -> date:
    return datetime.now(PARIS).date() - timedelta(days=days)


@pytest.fixture(autouse=True)
def _eight_closed_days(monkeypatch: pytest.MonkeyPatch, api: SmallApi) -> None:
    monkeypatch.setenv("MAGNETIS_START_DATE", str(ago(8)))
    api.rows["/calls"] = [call(number, f"{ago(number)} 10:00:00") for number in range(1, 9)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    """Start the daemon with the real storage."""
    with daemon(tmp_path) as running:
        yield running


@pytest.fixture
def instance(running: Daemon) -> dg.DagsterInstance:
    return running.instance


@pytest.fixture
def age(database_url: str) -> Callable[[int], None]:
    """Make all operational records older."""

    def age(days: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            for table, columns in MOMENTS.items():
                moved = ", ".join(
                    f"{column} = {column} - interval '{days} days'" for column in columns
                )
                connection.execute(f"UPDATE {table} SET {moved}")
            connection.execute(f"UPDATE dagster.runs SET end_time = end_time - {days * 86_400}")

    return age


def run(instance: dg.DagsterInstance) -> dict[str, Any]:
    """Run the job and return its observation."""
    assert build_defs().resolve_job_def("prune").execute_in_process(instance=instance).success
    [record] = instance.fetch_observations(STORAGE, limit=1).records
    assert record.asset_observation
    return {name: value.value for name, value in record.asset_observation.metadata.items()}


def seen(instance: dg.DagsterInstance, engine: Engine, query: Query) -> dict[str, Any]:
    """Return everything that is visible; partitions are read without Dagster's cache."""
    settings = Settings.load()
    query_all = {
        table: query(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in (
            "magnetis.calls",
            "magnetis_ops.days",
            "magnetis_ops.quota_days",
            "magnetis_ops.quarantine",
        )
    }
    with psycopg.connect(
        engine.url.set(drivername="postgresql").render_as_string(False), autocommit=True
    ) as connection:
        connection.execute("UPDATE dagster.asset_keys SET cached_status_data = NULL")
    checks = [
        dg.AssetCheckKey(dg.AssetKey(["magnetis", "calls"]), name)
        for name in ("complete", "counts_agree", "no_missing_days", "misfit_values")
    ]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    [observation] = instance.fetch_observations(QUOTA, limit=1).records
    today = read_today(
        engine, key_fingerprint=settings.key_fingerprint, policy=settings.quota_policy
    )
    return query_all | {
        "days": read_closed_days(instance, dg.AssetKey(["magnetis", "calls"]), settings),
        "materialized": instance.get_materialized_partitions(dg.AssetKey(["magnetis", "calls"])),
        "newest": instance.get_latest_storage_id_by_partition(
            dg.AssetKey(["magnetis", "calls"]), dg.DagsterEventType.ASSET_MATERIALIZATION
        ),
        "checks": {key.name: (record.status, record.id) for key, record in latest.items()},
        "runs": [each.run_id for each in instance.get_runs()],
        "quota": observation.storage_id,
        "used": today.used,
        "reconcile": reconcile(engine, CALLS),
        "report": forecasts.report(engine, "backfill-1"),
        "keys": summary.keys_used(engine),
    }


@pytest.fixture
def loaded(
    instance: dg.DagsterInstance,
    api: SmallApi,
    materialize: Materialize,
    running: Daemon,
    engine: Engine,
) -> None:
    """Load seven days, some of them twice; add a failure, a backfill and observations."""
    assert materialize("calls", ago(8), 4, tags={"dagster/backfill": "backfill-1"}).success
    assert materialize("calls", ago(5), 4).success
    assert materialize("calls", ago(6), 4).success
    api.respond = lambda _request: (403, {}, b"{}")
    assert not materialize("calls", ago(6), 1).success
    api.respond = lambda _request: None
    running.sensor_tick("quota_sensor")
    running.sensor_tick("quota_sensor")


@pytest.mark.usefixtures("loaded")
def test_everything_visible_stays_if_all_records_are_years_old(
    instance: dg.DagsterInstance, engine: Engine, query: Query, age: Callable[[int], None]
) -> None:
    age(1000)
    before = seen(instance, engine, query)
    assert before["days"].missing == {ago(6): FAILED, ago(1): NEVER_LOADED}
    events = query("SELECT count(*) FROM dagster.event_logs")[0][0]
    found = run(instance)
    assert seen(instance, engine, query) | {"runs": before["runs"]} == before
    assert {each.run_id for each in instance.get_runs()} > set(before["runs"]), (
        "every run is still listed"
    )
    assert found["deleted from dagster.event_logs"] > 0.7 * events
    assert found["deleted from dagster.asset_check_executions"] > 0
    assert found["deleted from magnetis_ops.api_calls"] > 0
    assert found["deleted from magnetis_ops.day_reads"] == 5, "five reads were superseded"
    assert found["bytes of dagster"] > 100_000
    again = run(instance)
    assert again["deleted rows"] == 0
    assert (
        query("SELECT count(*) FROM magnetis_ops.api_calls WHERE backfill_id = 'backfill-1'")[0][0]
        > 0
    )


def test_records_younger_than_the_retention_stay(
    instance: dg.DagsterInstance,
    materialize: Materialize,
    query: Query,
    age: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    materialize("calls", ago(3))
    materialize("calls", ago(3))
    age(89)
    assert run(instance)["deleted rows"] == 0
    monkeypatch.setenv("MAGNETIS_RETENTION_DAYS", "32")
    found = run(instance)
    assert found["deleted from magnetis_ops.api_calls"] > 0
    assert found["deleted from magnetis_ops.day_reads"] == 0, "late_changes covers 90 days"
    assert query("SELECT count(*) FROM magnetis_ops.api_usage_30d")[0][0] == 0


def test_windows_without_references_are_deleted(
    instance: dg.DagsterInstance, materialize: Materialize, query: Query, age: Callable[[int], None]
) -> None:
    """Two of four reads of a day stay: the first known read of settings, and the current one."""
    for _ in range(4):
        assert materialize("calls", ago(3)).success
    age(100)
    kept = query("SELECT min(id), max(id) FROM magnetis_ops.windows")[0]
    assert run(instance)["deleted from magnetis_ops.windows"] == 2
    assert (
        tuple(number for (number,) in query("SELECT id FROM magnetis_ops.windows ORDER BY id"))
        == kept
    )


def test_a_run_in_progress_keeps_its_events_and_logs(
    instance: dg.DagsterInstance,
    materialize: Materialize,
    query: Query,
    age: Callable[[int], None],
    database_url: str,
) -> None:
    ended, still = materialize("calls", ago(3)), materialize("calls", ago(4))
    logs = instance.compute_log_manager
    assert isinstance(logs, LocalComputeLogManager)
    paths = [
        Path(logs.get_captured_local_path([each.run_id, "compute_logs", "x"], "out"))
        for each in (ended, still)
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a line")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE dagster.runs SET status = 'STARTED' WHERE run_id = %s", [still.run_id]
        )
    age(1000)
    events = len(instance.all_logs(still.run_id))
    run(instance)
    assert len(instance.all_logs(still.run_id)) == events
    assert {event.dagster_event_type for event in instance.all_logs(ended.run_id)} <= {
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    }
    assert [path.exists() for path in paths] == [False, True]


@pytest.mark.usefixtures("loaded")
def test_a_prune_may_be_blocked_or_interrupted_or_run_twice_concurrently(
    instance: dg.DagsterInstance,
    engine: Engine,
    query: Query,
    age: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
) -> None:
    age(1000)
    before = seen(instance, engine, query)
    monkeypatch.setattr(prune, "BATCH", 20)
    monkeypatch.setattr(prune, "LOCK_TIMEOUT", "100ms")
    forgotten = set[str]()

    def interrupt(run: str) -> None:
        if forgotten:
            raise KeyboardInterrupt
        forgotten.add(run)

    with psycopg.connect(database_url) as other:
        other.execute("LOCK dagster.event_logs IN SHARE MODE")
        with pytest.raises(DatabaseUnavailable, match="SQLSTATE 55P03"):
            prune.prune(engine, 90, "dagster", forgotten.add)
    assert not forgotten
    with pytest.raises(KeyboardInterrupt):
        prune.prune(engine, 90, "dagster", interrupt)
    assert seen(instance, engine, query) == before
    deleted: list[dict[str, int]] = []
    threads = [
        threading.Thread(
            target=lambda: deleted.append(prune.prune(engine, 90, "dagster", forgotten.add))
        )
        for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(deleted) == 2, "neither failed"
    prune.prune(engine, 90, "dagster", forgotten.add)
    assert seen(instance, engine, query) == before
    assert forgotten == set(before["runs"])
    assert sum(prune.prune(engine, 90, "dagster", forgotten.add).values()) == 0


def test_the_result_of_a_check_replaces_its_planned_row(
    materialize: Materialize, query: Query
) -> None:
    result = materialize("calls", ago(8), 8)
    rows = query(
        "SELECT check_name, execution_status, partition FROM dagster.asset_check_executions WHERE "
        "run_id = :run",
        run=result.run_id,
    )
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names)) == 6
    assert {status for _, status, _ in rows} <= {"SUCCEEDED", "FAILED"}
    assert {partition for _, _, partition in rows} == {None}


def test_leftover_plans_of_earlier_versions_are_deleted(
    instance: dg.DagsterInstance,
    materialize: Materialize,
    query: Query,
    age: Callable[[int], None],
    database_url: str,
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for day in range(3):
            connection.execute(
                "INSERT INTO dagster.asset_check_executions (asset_key, check_name, partition, "
                'run_id, execution_status, evaluation_event_timestamp) VALUES (\'["magnetis", '
                "\"calls\"]', 'complete', %s, 'gone', 'PLANNED', now())",
                [str(ago(day))],
            )
    materialize("calls", ago(3))
    age(100)
    run(instance)
    assert (
        query(
            "SELECT count(*) FROM dagster.asset_check_executions WHERE execution_status = 'PLANNED'"
        )[0][0]
        == 0
    )


def test_the_schedule_runs_it_every_night_without_a_request(running: Daemon, api: SmallApi) -> None:
    night = datetime.combine(ago(1), datetime.min.time(), PARIS).replace(hour=3, minute=30)
    tick = running.schedule_tick("nightly_prune", night)
    assert running.run_of(tick).status is dg.DagsterRunStatus.SUCCESS
    assert api.requests == []


def test_logs_are_deleted_inside_their_own_folder_only(
    instance: dg.DagsterInstance,
    materialize: Materialize,
    age: Callable[[int], None],
    database_url: str,
) -> None:
    materialize("calls", ago(3))
    logs = instance.compute_log_manager
    assert isinstance(logs, LocalComputeLogManager)
    outside = Path(logs.get_captured_local_path(["x"], "out")).parents[1] / "outside"
    outside.mkdir()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO dagster.event_logs (run_id, event, timestamp) VALUES ('../outside', '{}', "
            "now())"
        )
    age(100)
    run(instance)
    assert outside.exists()
