"""A run whose code server has died is noticed; one that works, or whose server is only away, is left alone."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._grpc.client import DagsterGrpcClient
from dagster_runs import INSTANCE, LOCATION, make_run

from magnetis_dagster.defs.run_launcher import MagnetisRunLauncher
from magnetis_dagster.dev.home import free_port

PATIENCE = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not in {PATIENCE} s: {what}"
        time.sleep(0.2)


class CodeServer:
    """`dagster api grpc` on a port of its own, as in docker-compose.yml."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._command = [
            Path(sys.executable).parent / "dagster",
            "api",
            "grpc",
            "--port",
            str(self.port),
            "-f",
            folder / "location.py",
        ]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(
            lambda: DagsterGrpcClient(port=self.port, host="localhost").health_check_query() == "SERVING", "the code server is up"
        )

    def kill(self) -> None:
        # the run is a child of its own group; in a container it dies with the server
        self._process.kill()
        self._process.wait()


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    (tmp_path / "location.py").write_text(LOCATION)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def server(tmp_path: Path, instance: dg.DagsterInstance) -> Iterator[CodeServer]:
    server = CodeServer(tmp_path)
    yield server
    server.kill()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dagster's own code uses what it has marked as deprecated
def test_a_run_is_failed_once_its_code_server_came_back_without_it(instance: dg.DagsterInstance, server: CodeServer) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, MagnetisRunLauncher)
    with WorkspaceProcessContext(
        instance, GrpcServerTarget(host="localhost", port=server.port, socket=None, location_name="here")
    ) as workspace:

        def monitor() -> None:
            assert not any(execute_run_monitoring_iteration(workspace, dg.get_dagster_logger()))  # type: ignore[arg-type]

        context = workspace.create_request_context()
        run = make_run(instance, context, "waiting", {})
        instance.launch_run(run.run_id, context)

        def status() -> dg.DagsterRunStatus:
            found = instance.get_run_by_id(run.run_id)
            assert found
            return found.status

        def health() -> WorkerStatus:
            found = instance.get_run_by_id(run.run_id)
            assert found
            return launcher.check_run_worker_health(found).status

        until(lambda: status() is dg.DagsterRunStatus.STARTED, "the run works")
        assert health() is WorkerStatus.RUNNING
        monitor()
        assert status() is dg.DagsterRunStatus.STARTED

        server.kill()
        monitor()
        assert status() is dg.DagsterRunStatus.STARTED, "a server that does not answer may come back"

        server.start()
        assert health() is WorkerStatus.NOT_FOUND
        monitor()
        assert status() is dg.DagsterRunStatus.FAILURE


def test_a_run_that_a_command_started_is_left_alone(instance: dg.DagsterInstance) -> None:
    run = dg.DagsterRun(job_name="here", tags={})
    launcher = instance.run_launcher
    assert isinstance(launcher, MagnetisRunLauncher)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
