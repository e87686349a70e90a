"""Health checks detect dead workers and keep living ones, independent of the code server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import (
    GrpcServerTarget,
    InProcessWorkspaceLoadTarget,
    WorkspaceLoadTarget,
)
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value
from dagster_runs import INSTANCE, LOCATION, make_run
from sqlalchemy import text
from waiting import wait_until

from magnetis_dagster.dagster_support import run_heartbeat, run_launcher
from magnetis_dagster.dagster_support.heartbeat_storage import HeartbeatRunStorage
from magnetis_dagster.dagster_support.run_heartbeat import LastBeat
from magnetis_dagster.dagster_support.run_launcher import MagnetisRunLauncher
from magnetis_dagster.dev.home import free_port

# Dagster's own code uses its deprecated parts
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class CodeServer:
    """`dagster code-server start`, as `dagster dev` starts it: it can be reloaded."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        dagster = Path(sys.executable).parent / "dagster"
        self._command = [
            dagster,
            "code-server",
            "start",
            "--port",
            str(self.port),
            "-f",
            folder / "location.py",
        ]

    @property
    def client(self) -> DagsterGrpcClient:
        return DagsterGrpcClient(port=self.port, host="localhost")

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self.client.health_check_query() == "SERVING", "the code server is up")

    def reload(self) -> None:
        """Do the same as the button Reload definitions."""
        self.client.reload_code(timeout=60)

    def kill(self) -> None:
        """Kill the server and its children except workers; in a container, these would die too."""
        if self._process.poll() is None:
            for process in psutil.Process(self._process.pid).children(recursive=True):
                if "spawn_main" not in " ".join(process.cmdline()):
                    process.kill()
            self._process.kill()
            self._process.wait()


@dataclass
class Run:
    """A run of a waiting job in its own process, and the daemon's view of it."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    run_id: str
    pid: int = 0

    def wait_for_start(self) -> None:
        wait_until(lambda: self.status() is dg.DagsterRunStatus.STARTED, "the run works")
        self.pid = self.last_beat().pid

    @property
    def storage(self) -> HeartbeatRunStorage:
        assert isinstance(self.instance.run_storage, HeartbeatRunStorage)
        return self.instance.run_storage

    def monitor(self) -> None:
        """Check the run's health, as the daemon does every 30 s."""
        assert not any(execute_run_monitoring_iteration(self.workspace, dg.get_dagster_logger()))  # type: ignore[arg-type]

    def status(self) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(self.run_id)
        assert run
        return run.status

    def last_beat(self) -> LastBeat:
        beat = self.storage.last_beat(self.run_id)
        assert beat
        return beat

    def until_beat(self) -> None:
        """Wait for the next heartbeat."""
        seen = self.last_beat().written
        wait_until(lambda: self.last_beat().written != seen, "another heartbeat")

    def process_ended(self) -> bool:
        return (
            not psutil.pid_exists(self.pid)
            or psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        )

    def ends(self) -> list[str]:
        events = self.instance.all_logs(self.run_id)
        kinds = [event.dagster_event_type for event in events]
        ends = (
            dg.DagsterEventType.RUN_FAILURE,
            dg.DagsterEventType.RUN_SUCCESS,
            dg.DagsterEventType.RUN_CANCELED,
        )
        return [kind.name for kind in kinds if kind in ends]


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    (tmp_path / "location.py").write_text(LOCATION)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


@contextmanager
def waiting_run(instance: dg.DagsterInstance, target: WorkspaceLoadTarget) -> Iterator[Run]:
    """Create a run without launching it; its process is killed at the end."""
    with WorkspaceProcessContext(instance, target) as workspace:
        made = make_run(instance, workspace.create_request_context(), "waiting", {})
        run = Run(instance, workspace, made.run_id)
        try:
            yield run
        finally:
            if run.pid and not run.process_ended():
                os.kill(run.pid, signal.SIGKILL)


@pytest.fixture
def server(tmp_path: Path, instance: dg.DagsterInstance) -> Iterator[CodeServer]:
    server = CodeServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def launched(instance: dg.DagsterInstance, server: CodeServer) -> Iterator[Run]:
    """Return a run that a code server executes."""
    target = GrpcServerTarget(host="localhost", port=server.port, socket=None, location_name="here")
    with waiting_run(instance, target) as run:
        instance.launch_run(run.run_id, run.workspace.create_request_context())
        run.wait_for_start()
        yield run


@pytest.fixture
def executed(instance: dg.DagsterInstance, tmp_path: Path) -> Iterator[Run]:
    """Return a run without a code server, like those of `dagster job execute`."""
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=str(tmp_path / "location.py")), location_name="here"
    )
    with waiting_run(instance, InProcessWorkspaceLoadTarget(origin)) as run:
        made = instance.get_run_by_id(run.run_id)
        assert made
        assert made.job_code_origin
        arguments = serialize_value(
            ExecuteRunArgs(made.job_code_origin, run.run_id, instance_ref=None)
        )
        command = [sys.executable, "-m", "dagster", "api", "execute_run", arguments]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                run.wait_for_start()
                yield run
            finally:
                process.kill()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as the daemon on another machine or in another container, with short timeouts."""
    monkeypatch.setattr(run_heartbeat, "machine", lambda: "elsewhere")
    monkeypatch.setattr(run_launcher, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(run_launcher, "CONFIRM_SECONDS", 0.2)


def test_a_run_survives_a_reload_and_can_be_canceled_afterwards(
    launched: Run, server: CodeServer
) -> None:
    run, before = launched, server.client.get_server_id()
    server.reload()
    assert server.client.get_server_id() != before
    run.until_beat()
    run.monitor()
    assert run.status() is dg.DagsterRunStatus.STARTED

    server.kill()
    server.start()  # does not know the run
    run.until_beat()
    run.monitor()
    assert run.status() is dg.DagsterRunStatus.STARTED

    assert run.instance.run_launcher.terminate(run.run_id)
    wait_until(lambda: run.status() is dg.DagsterRunStatus.CANCELED, "canceled")
    wait_until(run.process_ended, "the process ends")
    assert run.ends() == ["RUN_CANCELED"]
    assert run.storage.last_beat(run.run_id) is None, "its row is removed"
    assert not run.instance.run_launcher.terminate(run.run_id)


def test_a_code_server_confirms_a_suspended_worker_and_reports_a_killed_one(
    launched: Run, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_launcher, "SILENCE_SECONDS", 0.0)
    os.kill(launched.pid, signal.SIGSTOP)
    for _ in range(3):
        launched.monitor()
        time.sleep(run_launcher.CONFIRM_SECONDS)
    assert launched.status() is dg.DagsterRunStatus.STARTED

    os.kill(launched.pid, signal.SIGKILL)
    wait_until(lambda: launched.status() is dg.DagsterRunStatus.FAILURE, "the server notices")
    launched.monitor()
    assert launched.ends() == ["RUN_FAILURE"]


def test_the_next_health_check_detects_a_killed_worker(executed: Run) -> None:
    executed.monitor()
    assert executed.status() is dg.DagsterRunStatus.STARTED
    os.kill(executed.pid, signal.SIGKILL)
    wait_until(executed.process_ended, "it is dead")
    executed.monitor()
    executed.monitor()
    assert executed.ends() == ["RUN_FAILURE"]


def test_a_suspended_worker_that_was_declared_dead_ends_itself(
    executed: Run, elsewhere: None, database_url: str
) -> None:
    run = executed
    wait_until(
        lambda: bool(run.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)),
        "the step works",
    )
    # afterwards, the step has written its last event, and only the heartbeat uses the database
    run.until_beat()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = "
            "'client backend'"
        )
    run.until_beat()  # survives a database that ends its sessions

    os.kill(run.pid, signal.SIGSTOP)
    wait_until(lambda: run.last_beat().age > run_launcher.SILENCE_SECONDS, "it is silent")
    run.monitor()
    assert run.status() is dg.DagsterRunStatus.STARTED, (
        "the database may have been unavailable: checked again"
    )
    time.sleep(run_launcher.CONFIRM_SECONDS)
    run.monitor()
    assert run.status() is dg.DagsterRunStatus.FAILURE

    os.kill(run.pid, signal.SIGCONT)
    wait_until(run.process_ended, "it ends itself")
    assert run.status() is dg.DagsterRunStatus.FAILURE
    assert run.ends() == ["RUN_FAILURE"]


def test_a_suspended_worker_is_alive_while_its_process_exists(
    instance: dg.DagsterInstance,
) -> None:
    process = psutil.Process()

    def beat(**changes: Any) -> LastBeat:
        parts = {
            "machine": run_heartbeat.machine(),
            "pid": process.pid,
            "started": process.create_time(),
        }
        return LastBeat("", 3600.0, **{**parts, **changes})

    launcher = instance.run_launcher
    assert isinstance(launcher, MagnetisRunLauncher)
    run = dg.DagsterRun(job_name="here")
    assert beat().process_lives() is True
    assert launcher._sign_of_life(run, beat(), lives=True)
    assert beat(started=process.create_time() - 3600).process_lives() is None, (
        "the pid was reused, or the clock was set"
    )
    assert beat(pid=2**22 + 1).process_lives() is False
    assert beat(machine="elsewhere").process_lives() is None


def test_the_code_server_decides_about_a_run_of_an_older_version(
    launched: Run, server: CodeServer
) -> None:
    instance, launcher = launched.instance, launched.instance.run_launcher
    older = instance.get_run_by_id(launched.run_id)
    assert older
    with launched.storage.connect() as connection:
        connection.execute(text("DELETE FROM dagster.kvs"))
    assert launcher.check_run_worker_health(older).status is WorkerStatus.RUNNING
    unknown = dg.DagsterRun(job_name="here", status=dg.DagsterRunStatus.STARTED, tags=older.tags)
    instance.add_run(unknown)
    assert launcher.check_run_worker_health(unknown).status is WorkerStatus.NOT_FOUND
    server.kill()
    assert launcher.check_run_worker_health(unknown).status is WorkerStatus.RUNNING, (
        "it may answer again"
    )


def test_a_run_of_an_older_versions_command_is_not_checked(
    instance: dg.DagsterInstance,
) -> None:
    run = dg.DagsterRun(job_name="here", tags={})
    launcher = instance.run_launcher
    assert isinstance(launcher, MagnetisRunLauncher)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
