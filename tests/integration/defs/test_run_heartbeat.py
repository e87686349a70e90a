"""A worker that was declared dead sends no request and commits no window."""

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_runs import INSTANCE
from small_api import Request, SmallApi, call

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.clocks import Moment
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.connections import Connection
from magnetis_dagster.dagster_support import run_heartbeat
from magnetis_dagster.dagster_support.heartbeat_storage import HeartbeatRunStorage
from magnetis_dagster.dagster_support.orphaned_runs import end_orphans
from magnetis_dagster.dagster_support.run_heartbeat import Heartbeat, RunEnded
from magnetis_dagster.ingest import RunIdentity
from magnetis_dagster.settings import Settings
from magnetis_dagster.wiring import open_ingestion

DAY = date(2025, 1, 2)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HeartbeatRunStorage]:
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(run_heartbeat, "BEAT_SECONDS", 3600.0)  # the test sends the heartbeats
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.run_storage, HeartbeatRunStorage)
        yield instance.run_storage


@pytest.fixture
def heartbeat(storage: HeartbeatRunStorage) -> Iterator[Heartbeat]:
    run = storage.add_run(dg.DagsterRun(job_name="here", status=dg.DagsterRunStatus.STARTED))
    heartbeat = Heartbeat(storage._engine, run.run_id)
    heartbeat.start()
    yield heartbeat
    heartbeat.stop()


@pytest.fixture
def load(api: SmallApi, heartbeat: Heartbeat, catalogue: Catalogue) -> Callable[[], int]:
    """Load one day of calls like the run and return the rows."""
    api.rows["/calls"] = [call(number, f"{DAY} 10:00:{number:02d}") for number in range(7)]
    collection = next(found for found in catalogue.enabled if found.name == "calls")

    def load() -> int:
        run = RunIdentity(heartbeat.run_id, "manual")
        connection = Connection(UNNAMED, Settings.load(start_date=DAY), catalogue)
        with open_ingestion(connection, run, permit=heartbeat) as ingestion:
            return sum(
                day.rows for window in ingestion.read_days(collection, [DAY]) for day in window.days
            )

    return load


def declare_dead(storage: HeartbeatRunStorage, run_id: str) -> None:
    seen = storage.last_beat(run_id)
    assert seen
    assert storage.declare_dead(run_id, seen)


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Suspend this process for an hour."""

    def asleep() -> None:
        now = Moment.now
        later = staticmethod(lambda: Moment(now().wall + 3600, now().boot + 3600))
        monkeypatch.setattr(Moment, "now", later)

    return asleep


def test_a_worker_that_was_only_suspended_continues(
    load: Callable[[], int], asleep: Callable[[], None]
) -> None:
    asleep()
    assert load() == 7


def test_a_worker_that_was_declared_dead_sends_no_request(
    load: Callable[[], int],
    api: SmallApi,
    heartbeat: Heartbeat,
    storage: HeartbeatRunStorage,
    asleep: Callable[[], None],
    query: Callable[..., list[Any]],
) -> None:
    declare_dead(storage, heartbeat.run_id)
    asleep()
    with pytest.raises(RunEnded, match="declared dead"):
        load()
    assert api.requests == []
    assert query("SELECT count(*) FROM magnetis_ops.api_calls") == [(0,)], "no request is charged"


def test_a_worker_that_was_declared_dead_after_its_last_request_commits_nothing(
    load: Callable[[], int],
    api: SmallApi,
    heartbeat: Heartbeat,
    storage: HeartbeatRunStorage,
    asleep: Callable[[], None],
    query: Callable[..., list[Any]],
) -> None:
    def sleeps_before_the_answer(request: Request) -> None:
        declare_dead(storage, heartbeat.run_id)
        asleep()

    api.respond = sleeps_before_the_answer
    with pytest.raises(RunEnded):
        load()
    assert len(api.requests) == 1
    assert query("SELECT count(*) FROM magnetis.calls") == [(0,)]
    assert query("SELECT count(*) FROM magnetis_ops.days") == [(0,)]


def test_a_worker_with_a_recent_heartbeat_is_not_declared_dead(
    heartbeat: Heartbeat, storage: HeartbeatRunStorage
) -> None:
    seen = storage.last_beat(heartbeat.run_id)
    assert seen
    heartbeat.confirm()
    assert not storage.declare_dead(heartbeat.run_id, seen)
    heartbeat.confirm()
    assert heartbeat.is_fresh()


@pytest.mark.parametrize("status", ["FAILURE", "CANCELED"])
def test_the_worker_of_an_ended_run_stops(
    heartbeat: Heartbeat, storage: HeartbeatRunStorage, status: str, query: Callable[..., list[Any]]
) -> None:
    kind = {
        "FAILURE": dg.DagsterEventType.RUN_FAILURE,
        "CANCELED": dg.DagsterEventType.RUN_CANCELED,
    }[status]
    storage.handle_run_event(heartbeat.run_id, dg.DagsterEvent(kind.value, "here"))
    assert query("SELECT count(*) FROM dagster.kvs") == [(0,)]
    with pytest.raises(RunEnded):
        heartbeat.confirm()
    assert not heartbeat.is_fresh()


def test_magnetis_dev_does_not_end_a_run_on_another_machine(
    heartbeat: Heartbeat,
    storage: HeartbeatRunStorage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_heartbeat, "machine", lambda: "elsewhere")
    end_orphans()
    assert capsys.readouterr().out == "0 to be started again, 0 canceled\n"

    monkeypatch.setattr(run_heartbeat, "SILENCE_SECONDS", 0.0)
    end_orphans()
    assert capsys.readouterr().out == "1 to be started again, 0 canceled\n"
    with pytest.raises(RunEnded):
        heartbeat.confirm()
