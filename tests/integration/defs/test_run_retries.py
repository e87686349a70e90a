"""Run retries after a worker died: unlimited with progress, three attempts without."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.utils import make_new_run_id
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import (
    consume_new_runs_for_automatic_reexecution,
)
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value
from dagster_daemon import Daemon, daemon
from dagster_runs import make_run
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT
from small_api import Request, SmallApi, call

from magnetis_dagster.dagster_support.run_retries import (
    ATTEMPTS,
    after_death,
    begin_attempt,
    record_progress,
)

DAY = date(2025, 3, 28)


def test_the_instances_allow_three_attempts() -> None:
    for path in ("dagster.yaml", "deploy/kubernetes/dagster.yaml"):
        retries = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))["run_retries"]
        assert retries == {
            "enabled": True,
            "max_retries": ATTEMPTS - 1,
            "retry_on_asset_or_op_failure": False,
        }


@pytest.fixture(scope="module")
def retrying() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(
        settings={"run_retries": {"enabled": True, "max_retries": ATTEMPTS - 1}}
    ) as instance:
        yield instance


def started(
    instance: dg.DagsterInstance, parent: dg.DagsterRun | None = None, **tags: str
) -> dg.DagsterRun:
    """Return a run that a worker has started: the first of a group, or a retry of `parent`."""
    if parent:
        parent = instance.get_run_by_id(parent.run_id)
        assert parent
        root = parent.root_run_id or parent.run_id
        inherited = {
            name: value for name, value in parent.tags.items() if name != "dagster/retry_number"
        }
        tags = {
            **inherited,
            "dagster/root_run_id": root,
            "dagster/parent_run_id": parent.run_id,
            **tags,
        }
    run = dg.DagsterRun(
        job_name="a_job",
        run_id=make_new_run_id(),
        tags=tags,
        root_run_id=tags.get("dagster/root_run_id"),
        parent_run_id=parent.run_id if parent else None,
        status=dg.DagsterRunStatus.STARTED,
    )
    return instance.add_run(run)


def starts_again(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Return whether Dagster retries a run after its worker died."""
    found = instance.get_run_by_id(run.run_id)
    assert found
    return bool(
        auto_reexecution_should_retry_run(
            instance, found.with_status(dg.DagsterRunStatus.FAILURE), None
        )
    )


def follow(
    instance: dg.DagsterInstance, attempts: list[bool], parent: dg.DagsterRun | None = None
) -> tuple[int, dg.DagsterRun]:
    """Let attempts with (True) and without progress die; return their number and the last one."""
    run = parent
    for number, progress in enumerate(attempts, start=1):
        run = started(instance, run, **({"dagster/retry_number": str(number)} if run else {}))
        begin_attempt(instance, run)
        for _ in range(2 if progress else 0):
            record_progress(instance, run.run_id)
        if not starts_again(instance, run):
            return number, run
    assert run
    return len(attempts), run


@settings(max_examples=60, deadline=None)
@given(attempts=st.lists(st.booleans(), min_size=1, max_size=20))
def test_the_third_attempt_in_a_row_without_progress_is_the_last(
    retrying: dg.DagsterInstance, attempts: list[bool]
) -> None:
    expected = next(
        (
            number
            for number in range(ATTEMPTS, len(attempts) + 1)
            if not any(attempts[number - ATTEMPTS : number])
        ),
        None,
    )
    made, last = follow(retrying, attempts)
    assert made == (expected or len(attempts))
    assert ("A retry resumes the run." in after_death(retrying, last)) is (expected is None)


def test_the_last_attempt_warns_and_its_death_is_explained(retrying: dg.DagsterInstance) -> None:
    _, second = follow(retrying, [False, False])
    third = started(retrying, second, **{"dagster/retry_number": "2"})
    assert "the run is not retried" in str(begin_attempt(retrying, third))
    assert "3 consecutive attempts died without progress" in after_death(retrying, third)
    record_progress(retrying, third.run_id)
    assert after_death(retrying, third) == "A retry resumes the run."


def test_a_re_executed_run_has_three_new_attempts(
    retrying: dg.DagsterInstance,
) -> None:
    made, failed = follow(retrying, [True, False, False, False])
    assert made == 4
    by_hand = started(retrying, failed)
    assert begin_attempt(retrying, by_hand) is None
    assert starts_again(retrying, by_hand)
    assert follow(retrying, [False] * 5, by_hand)[0] == ATTEMPTS - 1


def test_a_higher_limit_set_by_a_person_stays(retrying: dg.DagsterInstance) -> None:
    run = started(retrying, **{"dagster/max_retries": "9"})
    record_progress(retrying, run.run_id)
    found = retrying.get_run_by_id(run.run_id)
    assert found
    assert found.tags["dagster/max_retries"] == "9"


def test_a_group_without_its_first_run_is_not_retried(
    retrying: dg.DagsterInstance,
) -> None:
    first = started(retrying)
    second = started(retrying, first, **{"dagster/retry_number": "1"})
    retrying.delete_run(first.run_id)
    record_progress(retrying, second.run_id)
    assert not starts_again(retrying, second)


def test_a_worker_that_dies_while_it_waits_for_api_calls_is_not_counted(
    api: SmallApi,
    instance: dg.DagsterInstance,
    materialize: Callable[..., dg.ExecuteInProcessResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api.respond = lambda _request: (429, {"Retry-After": "7200"}, b"{}")

    def dies(_execution: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dagster._core.execution.plan.active.ActiveExecution.sleep_til_ready", dies)
    assert not materialize("calls", DAY).success
    [run] = instance.get_runs()
    assert run.tags["dagster/max_retries"] == str(ATTEMPTS)


def test_disabled_retries_are_named(instance: dg.DagsterInstance) -> None:
    assert "run_retries is disabled" in after_death(instance, started(instance))
    assert begin_attempt(instance, started(instance, started(instance))) is None


INSTANCE = """
storage:
  custom:
    module: magnetis_dagster.dagster_support.instance_storage
    class: MagnetisInstanceStorage
    config: {}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
run_retries: {enabled: true, max_retries: 2, retry_on_asset_or_op_failure: false}
telemetry: {enabled: false}
"""


class Workers:
    """Runs that the daemon launches, each in a process that the API may kill at a request."""

    def __init__(
        self, running: Daemon, api: SmallApi, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._running = running
        self._folder = folder
        self._launched: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._left = 0
        api.respond = self._respond
        monkeypatch.setattr(
            dg.DagsterInstance,
            "launch_run",
            lambda _self, run_id, _workspace: self._launched.append(run_id),
        )

    def _respond(self, _request: Request) -> None:
        self._left -= 1
        if self._left == 0:
            assert self._process
            self._process.kill()

    def first(self, collection: str, day: date) -> None:
        """Launch a run of one day like a backfill."""
        workspace = self._running.workspace.create_request_context()
        [location] = workspace.code_locations
        run = make_run(
            self._running.instance,
            workspace,
            "__ASSET_JOB",
            {
                "dagster/asset_partition_range_start": str(day),
                "dagster/asset_partition_range_end": str(day),
            },
            location_name=location.name,
            asset=dg.AssetKey(["magnetis", collection]),
        )
        self._running.instance.submit_run(run.run_id, workspace)

    def attempt(self, kill_at: int) -> tuple[str, list[str]]:
        """Execute the last run, killed at its request `kill_at`; return its status and its retry.

        The death of a worker is reported as by run monitoring; then the run-retry daemon runs.
        """
        [run_id] = self._launched
        self._launched.clear()
        instance = self._running.instance
        run = instance.get_run_by_id(run_id)
        assert run
        assert run.job_code_origin
        args = serialize_value(
            ExecuteRunArgs(run.job_code_origin, run_id, instance_ref=instance.get_ref())
        )
        self._left = kill_at
        with (self._folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dagster", "api", "execute_run", args],
                stdout=log,
                stderr=log,
            )
        code = self._process.wait(120)
        assert self._left <= 0 or code == 0, (self._folder / "worker.log").read_text()[-3000:]
        if code != 0:
            instance.report_run_failed(run, f"Its worker died. {after_death(instance, run)}")
        [record] = instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))
        list(
            consume_new_runs_for_automatic_reexecution(
                self._running.workspace, [record], dg.get_dagster_logger()
            )
        )  # type: ignore[arg-type]
        return record.dagster_run.status.value, list(self._launched)

    def log_of_last(self) -> str:
        [newest] = self._running.instance.get_runs(limit=1)
        return "\n".join(
            event.user_message or event.message
            for event in self._running.instance.all_logs(newest.run_id)
        )


@pytest.fixture
def workers(tmp_path: Path, api: SmallApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr("dagster_daemon.INSTANCE", INSTANCE)
    monkeypatch.setenv("MAGNETIS_CONCURRENCY", "1")
    with daemon(tmp_path) as running:
        yield Workers(running, api, tmp_path, monkeypatch)


@pytest.mark.timeout(300)
def test_a_backfill_survives_any_number_of_killed_workers_and_fails_after_three_without_progress(
    workers: Workers, api: SmallApi, query: Callable[..., list[Any]]
) -> None:
    api.limit = 20
    api.rows["/calls"] = [call(number, f"{DAY} 10:00:00") for number in range(1200)]
    workers.first("calls", DAY)
    kept: list[int] = []
    for _ in range(4):
        status, following = workers.attempt(kill_at=8)
        kept += query("SELECT count(*) FROM magnetis_ops.pages")[0]
        assert (status, len(following)) == ("FAILURE", 1)
    assert kept == sorted(set(kept))
    assert kept[0] > 0
    for followed in (1, 1, 0):
        status, following = workers.attempt(kill_at=1)
        assert (status, len(following)) == ("FAILURE", followed)
    log = workers.log_of_last()
    assert "If this worker dies before it commits a window or keeps a page, the run is not" in log
    assert "3 consecutive attempts died without progress" in log
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(kept[-1],)]
