"""Celery workers execute runs and follow their status in Dagster's database.

A folder is the broker.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.launcher import WorkerStatus
from dagster._serdes import serialize_value
from dagster_runs import INSTANCE, LOCATION
from kombu.exceptions import OperationalError
from sqlalchemy import Engine, text
from waiting import wait_until

from magnetis_dagster.dagster_support.celery_run_launcher import (
    SILENCE_SECONDS,
    MagnetisCeleryRunLauncher,
)
from magnetis_dagster.dagster_support.run_launcher import MagnetisRunLauncher
from magnetis_dagster.database import connect
from magnetis_dagster.extras import ExtraMissing
from magnetis_dagster.settings import Settings

PASSWORD = "s3cr3t-0ff"
BROKER = f"redis://:{PASSWORD}@127.0.0.1:1/0"
WORKER = """
import sys
sys.path.insert(0, {here!r})
from magnetis_dagster.dagster_support.celery_worker import app
app.conf.update({folder!r})
"""


@pytest.fixture
def celery_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    (tmp_path / "location.py").write_text(LOCATION)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("MAGNETIS_CELERY_BROKER_URL", BROKER)


@pytest.fixture
def instance(celery_home: None) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, Any]:
    """Return a Celery configuration whose broker is a folder."""
    for name in ("queue", "control"):
        (tmp_path / name).mkdir()
    queue = str(tmp_path / "queue")
    options = {
        "data_folder_in": queue,
        "data_folder_out": queue,
        "control_folder": str(tmp_path / "control"),
    }
    return {"broker_url": "filesystem://", "broker_transport_options": options}


@contextmanager
def worker(tmp_path: Path, folder: dict[str, Any]) -> Iterator["subprocess.Popen[bytes]"]:
    (tmp_path / "worker.py").write_text(WORKER.format(here=str(tmp_path), folder=folder))
    command = [
        sys.executable,
        "-m",
        "celery",
        "--app",
        "worker",
        "worker",
        "--concurrency",
        "6",
        "--loglevel",
        "INFO",
    ]
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--without-mingle"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the worker and its runs, as a power failure does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_worker_follows_the_status_of_its_runs(
    instance: dg.DagsterInstance, tmp_path: Path, folder: dict[str, Any]
) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, MagnetisCeleryRunLauncher)
    launcher.celery.conf.update(folder)
    job = ReconstructableJob.for_file(str(tmp_path / "location.py"), "waiting")

    def launch() -> str:
        run = instance.create_run_for_job(
            job.get_definition(), job_code_origin=job.get_python_origin()
        )
        instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]  # the launcher asks no code server
        return run.run_id

    def run_of(run_id: str) -> dg.DagsterRun:
        found = instance.get_run_by_id(run_id)
        assert found
        return found

    def status(run_id: str) -> dg.DagsterRunStatus:
        return run_of(run_id).status

    def said(run_id: str) -> str:
        return "\n".join(event.user_message or event.message for event in instance.all_logs(run_id))

    def process_of(run_id: str) -> psutil.Process:
        found = re.search(r"Started process for run \(pid: (\d+)\)", said(run_id))
        assert found
        return psutil.Process(int(found[1]))

    def gone(process: psutil.Process) -> bool:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    assert PASSWORD not in serialize_value(instance.get_ref()), (
        "the message of a run does not contain the broker"
    )
    canceled_in_queue, failed_in_queue = launch(), launch()
    assert instance.run_launcher.terminate(canceled_in_queue)
    instance.report_run_failed(run_of(failed_in_queue), "waited too long")
    assert not instance.run_launcher.terminate(failed_in_queue), "it has ended"
    to_cancel, to_die, given_up, left = launch(), launch(), launch(), launch()

    with worker(tmp_path, folder) as process:
        for run_id in (to_cancel, to_die, given_up, left):
            wait_until(
                lambda run_id=run_id: "Started execution of step" in said(run_id), "the run works"
            )  # type: ignore[misc]
            assert "Taken by Celery worker celery@" in said(run_id)
            assert launcher.check_run_worker_health(run_of(run_id)).status is WorkerStatus.RUNNING
        assert status(canceled_in_queue) is dg.DagsterRunStatus.CANCELED
        assert "Taken by" not in said(failed_in_queue)

        zombie = process_of(given_up)
        instance.report_run_failed(run_of(given_up), "run monitoring took its worker for dead")
        assert launcher.terminate(to_cancel)
        process_of(to_die).kill()
        wait_until(
            lambda: gone(zombie),
            "a failed run is ended before its retry does the same work",
        )
        wait_until(lambda: status(to_cancel) is dg.DagsterRunStatus.CANCELED, "it is canceled")
        wait_until(
            lambda: status(to_die) is dg.DagsterRunStatus.FAILURE, "a process that died is reported"
        )
        assert re.search(
            r"process on celery@\S+ ended with exit code -9. A retry resumes", said(to_die)
        )
        assert "Execution was interrupted for a run that was already in a failure state" in said(
            given_up
        )

        process.terminate()
        wait_until(lambda: process.poll() is not None, "a worker that is stopped ends")
        assert status(left) is dg.DagsterRunStatus.FAILURE
        assert "Execution was interrupted unexpectedly" in said(left), (
            "a reason that run retries take"
        )
    assert PASSWORD not in (tmp_path / "worker.log").read_text()


class Inspect:
    """Stands for the workers that answer `active`, and counts the queries."""

    def __init__(self) -> None:
        self.answer: dict[str, list[str]] | Exception = {}
        self.asked = 0

    def __call__(self, timeout: float) -> "Inspect":
        return self

    def active(self) -> dict[str, list[dict[str, str]]] | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        # Celery returns None if nobody answers
        return {
            worker: [{"id": task} for task in tasks] for worker, tasks in self.answer.items()
        } or None


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Inspect:
    return Inspect()


class Now:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def launcher(
    monkeypatch: pytest.MonkeyPatch, workers: Inspect, now: Now
) -> Iterator[MagnetisCeleryRunLauncher]:
    launcher = MagnetisCeleryRunLauncher(BROKER, clock=now)
    monkeypatch.setattr(launcher.celery.control, "inspect", workers)
    with dg.DagsterInstance.ephemeral(
        settings={"run_retries": {"enabled": True, "max_retries": 0}}
    ) as ephemeral:
        ephemeral.add_run(RUN)
        launcher.register_instance(ephemeral)
        yield launcher


RUN = dg.DagsterRun(job_name="here", tags={"dagster-celery/task_id": "task-1"})
OTHER = dg.DagsterRun(job_name="here", tags={"dagster-celery/task_id": "task-2"})


def test_a_run_fails_after_its_worker_was_disconnected_for_long(
    launcher: MagnetisCeleryRunLauncher, workers: Inspect, now: Now
) -> None:
    def health(run: dg.DagsterRun) -> WorkerStatus:
        return launcher.check_run_worker_health(run).status

    workers.answer = {"celery@a": ["task-1"], "celery@b": ["task-2"]}
    assert [health(RUN), health(OTHER)] == [WorkerStatus.RUNNING] * 2
    assert workers.asked == 1, "one query per round"

    workers.answer = {"celery@b": ["task-2"]}
    now.seconds += 30
    assert health(RUN) is WorkerStatus.RUNNING
    now.seconds += 30
    workers.answer = {"celery@a": ["task-1"], "celery@b": ["task-2"]}
    assert health(RUN) is WorkerStatus.RUNNING, "its answer was only late"

    workers.answer = {"celery@b": ["task-2"]}
    for _ in range(3):
        now.seconds += SILENCE_SECONDS / 3
        assert health(RUN) is WorkerStatus.RUNNING
    now.seconds += SILENCE_SECONDS / 3
    found = launcher.check_run_worker_health(RUN)
    assert found.status is WorkerStatus.NOT_FOUND
    assert found.msg
    assert "died or is disconnected" in found.msg
    assert "celery@b" in found.msg
    assert "The run is not retried" in found.msg, "this instance allows one attempt"
    assert health(OTHER) is WorkerStatus.RUNNING


@pytest.mark.parametrize(
    "trouble", [OperationalError("Error 111 connecting"), ConnectionResetError()]
)
def test_an_unavailable_broker_fails_no_run(
    launcher: MagnetisCeleryRunLauncher, workers: Inspect, now: Now, trouble: Exception
) -> None:
    assert launcher.check_run_worker_health(RUN).status is WorkerStatus.RUNNING
    for _ in range(10):
        now.seconds += SILENCE_SECONDS
        workers.answer = trouble
        assert launcher.check_run_worker_health(RUN).status is WorkerStatus.RUNNING
    workers.answer = {}
    assert launcher.check_run_worker_health(RUN).status is WorkerStatus.RUNNING, (
        "workers need time to reconnect, too"
    )
    now.seconds += SILENCE_SECONDS
    assert launcher.check_run_worker_health(RUN).status is WorkerStatus.NOT_FOUND


def test_a_run_started_by_a_command_is_not_checked(
    launcher: MagnetisCeleryRunLauncher, workers: Inspect
) -> None:
    assert (
        launcher.check_run_worker_health(dg.DagsterRun(job_name="here")).status
        is WorkerStatus.RUNNING
    )
    assert workers.asked == 0


def test_a_run_that_waited_too_long_names_the_workers_that_answer(
    launcher: MagnetisCeleryRunLauncher, workers: Inspect
) -> None:
    workers.answer = {"celery@b": [], "celery@a": []}
    assert "answer: celery@a, celery@b." in str(launcher.get_run_worker_debug_info(RUN))


def test_a_worker_without_database_ends_its_runs_before_they_are_failed(
    celery_home: None, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from magnetis_dagster.dagster_support import celery_worker

    assert celery_worker.CUT_OFF_SECONDS + 10 < SILENCE_SECONDS
    assert celery_worker.app.conf.task_ignore_result
    now = Now()
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(
            dg.JobDefinition(graph_def=dg.GraphDefinition(name="empty"), resource_defs={})
        )
    engine: Engine = connect(database_url)
    statuses = celery_worker.RunStatuses(engine, clock=now)
    monkeypatch.setattr(celery_worker, "_statuses", statuses)
    monkeypatch.setattr(celery_worker, "POLL_SECONDS", 0.1)
    with (
        statuses.watching(run.run_id),
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process,
    ):
        wait_until(
            lambda: statuses.of(run.run_id) is dg.DagsterRunStatus.NOT_STARTED,
            "the status is known",
        )
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE dagster.runs RENAME TO elsewhere"))
        try:
            now.seconds += celery_worker.CUT_OFF_SECONDS + 1
            celery_worker._supervise(process, run.run_id)  # returns, so that its caller kills it
            assert process.poll() is None
        finally:
            process.kill()
            with engine.begin() as connection:
                connection.execute(text("ALTER TABLE dagster.elsewhere RENAME TO runs"))
        wait_until(lambda: statuses.silent_seconds() == 0, "the database answers again")
    engine.dispose()


def test_without_a_broker_the_default_launcher_is_used(
    celery_home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGNETIS_CELERY_BROKER_URL", "")
    with dg.DagsterInstance.get() as instance:
        assert type(instance.run_launcher) is MagnetisRunLauncher


def test_a_broker_without_the_extra_names_the_package_to_install(
    celery_home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "magnetis_dagster.dagster_support.celery_run_launcher")
    for name in [name for name in sys.modules if name.partition(".")[0] == "dagster_celery"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dagster_celery", None)
    with (
        pytest.raises(ExtraMissing, match=r"pip install 'magnetis_dagster\[celery\]'"),
        dg.DagsterInstance.get() as instance,
    ):
        _ = instance.run_launcher


@pytest.mark.parametrize(
    "url", ["redis://redis:6379/0", f"rediss://:{PASSWORD}@host:6380/0?ssl_cert_reqs=required"]
)
def test_the_broker_address_may_be_in_a_file(url: str, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "magnetis_celery_broker_url").write_text(f"{url}\n")
    broker = Settings.load().celery_broker_url
    assert broker
    assert broker.get_secret_value() == url
    assert PASSWORD not in repr(Settings.load())
