"""A Celery worker's side: `celery --app magnetis_dagster.dagster_support.celery_worker worker` takes runs from the queue.

Each run is a process of its own, as the code server would start it. What it may do is what the run's status in Dagster's database
says: a run that is canceled or was given up meanwhile is interrupted, and so is every run of a worker that has lost the database,
before run monitoring can give its work to another one (celery_launcher.SILENCE_SECONDS). So no two processes do the same work.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from celery import Celery, Task
from celery.signals import worker_shutting_down
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, MetadataValue
from dagster._core.events import EngineEventData
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from sqlalchemy import Engine, text

from magnetis_dagster.dagster_support.celery_run_launcher import MagnetisCeleryRunLauncher
from magnetis_dagster.dagster_support.instance_storage import SCHEMA
from magnetis_dagster.dagster_support.run_retries import after_death
from magnetis_dagster.database import connect, guarded
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.settings import Settings, SettingsError
from magnetis_dagster.wiring import database_url

ASK_SECONDS = 2.0
"""How often the database is asked for the status of a worker's runs, all in one statement."""
CUT_OFF_SECONDS = 45.0
"""Without an answer for so long, the runs are killed: what is left of them when the connection is back would be too much."""
GRACE_SECONDS = 60.0
"""A process that was interrupted, or whose run has ended, has so long to go by itself."""
SERVER_OPTIONS = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4 -c tcp_user_timeout=30000"
"""PostgreSQL drops a session 30 s after its machine was cut off. By default it keeps it, and its locks, for two hours: the run that
went on with the work waited for one of them."""

_ENDING = {DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED, DagsterRunStatus.FAILURE}
_log = logging.getLogger(__name__)


class Statuses:
    """Knows the status of this worker's runs; asks in a thread, as a question to a dead connection may hang for long."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, DagsterRunStatus | None] = {}
        self._answered_at = clock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, run_id: str) -> Iterator[None]:
        """Ask for the run too, for the length of the block."""
        with self._lock:
            if not self._known:
                self._answered_at = self._clock()
            self._known[run_id] = None
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._ask_for_ever, name="statuses", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._known[run_id]

    def of(self, run_id: str) -> DagsterRunStatus | None:
        """Return the last status known; None before the first answer."""
        with self._lock:
            return self._known[run_id]

    def silent_seconds(self) -> float:
        """Return how long the database has not answered."""
        with self._lock:
            return self._clock() - self._answered_at

    def _ask_for_ever(self) -> None:
        while True:
            with self._lock:
                asked = list(self._known)
            if asked:
                self._ask(asked)
            time.sleep(ASK_SECONDS)

    def _ask(self, asked: list[str]) -> None:
        try:
            with (
                guarded(self._engine, "ask for the status of runs"),
                self._engine.connect() as connection,
            ):
                rows = connection.execute(
                    text(f"SELECT run_id, status FROM {SCHEMA}.runs WHERE run_id = ANY(:runs)"),  # noqa: S608 - a constant
                    {"runs": asked},
                )
                found = {run: DagsterRunStatus(status) for run, status in rows}
        except MagnetisError as error:
            _log.warning("%s", error)
            return
        with self._lock:
            self._answered_at = self._clock()
            self._known.update({run: status for run, status in found.items() if run in self._known})


def _broker() -> str:
    if (broker := Settings.load().celery_broker_url) is None:
        raise SettingsError(
            "MAGNETIS_CELERY_BROKER_URL is not set: a worker takes its runs from there. In the compose stack, "
            "`deploy/secrets.sh --celery` writes it into secrets/magnetis_celery_broker_url."
        )
    return broker.get_secret_value()


def _engine() -> Engine:
    return connect(database_url(Settings.load()), connect_timeout="5", tcp_user_timeout="10000")


app: Celery = MagnetisCeleryRunLauncher(_broker()).celery
_statuses = Statuses(_engine())
_stopping = threading.Event()


@worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
def _stop(**_signal: object) -> None:
    _stopping.set()


@app.task(bind=True, name=TASK_EXECUTE_JOB_NAME)  # type: ignore[untyped-decorator]
def execute_job(task: Task, run_id: str) -> None:
    """Run what the launcher has put into the queue, to its end. Raises DatabaseUnavailable; run monitoring sees to the run then."""
    worker = str(task.request.hostname)
    with DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if not _may_begin(instance, run, worker):
            return
        assert run is not None
        assert run.job_code_origin is not None
    code = _run(
        ExecuteRunArgs(
            run.job_code_origin, run_id, instance_ref=None, set_exit_code_on_failure=True
        )
    )
    with DagsterInstance.get() as instance:
        _close(
            instance,
            instance.get_run_by_id(run_id),
            f"The run's process on {worker} ended with code {code}.",
        )


def _may_begin(instance: DagsterInstance, run: DagsterRun | None, worker: str) -> bool:
    if run is not None and run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "Canceled before a worker began it.")
        return False
    if run is None or run.status is not DagsterRunStatus.STARTING:
        # waited in the queue until run monitoring gave it up
        _log.warning(
            "Left aside: a run that is %s.",
            run.status.value
            if run
            else "not in this worker's database: deleted, or launched on another one",
        )
        return False
    metadata = {"Celery worker": MetadataValue.text(worker)}
    instance.report_engine_event(
        f"Taken by Celery worker {worker}.", run, EngineEventData(metadata)
    )
    return True


def _run(args: ExecuteRunArgs) -> int:
    """Run a process to its end, or end it; return its exit code."""
    command = [sys.executable, "-m", "dagster", "api", "execute_run", serialize_value(args)]
    environment = {
        **os.environ,
        "PGOPTIONS": f"{os.environ.get('PGOPTIONS', '')} {SERVER_OPTIONS}".strip(),
    }
    with _statuses.watching(args.run_id), subprocess.Popen(command, env=environment) as process:  # noqa: S603 - this Python, no shell
        try:
            _attend(process, args.run_id)
        finally:
            process.kill()
        return process.wait()


def _attend(process: "subprocess.Popen[bytes]", run_id: str) -> None:
    """Wait for the process's end, and bring it about where it has no business to live."""
    interrupted, kill_at = False, None
    while process.poll() is None:
        status = _statuses.of(run_id)
        if _statuses.silent_seconds() > CUT_OFF_SECONDS:
            _log.error(
                "The database has not answered for %d s: ending run %s, which goes on elsewhere.",
                CUT_OFF_SECONDS,
                run_id,
            )
            return
        if not interrupted and (_stopping.is_set() or status in _ENDING):
            _log.warning(
                "Interrupting run %s (%s).",
                run_id,
                "worker stops" if _stopping.is_set() else status,
            )
            process.terminate()  # Dagster's own way: canceled where somebody asked for it, else failed and tried again
            interrupted = True
        if kill_at is None and (interrupted or status is DagsterRunStatus.SUCCESS):
            kill_at = time.monotonic() + GRACE_SECONDS
        if kill_at is not None and time.monotonic() > kill_at:
            _log.error(
                "Run %s has ended and its process has not in %d s: killing it.",
                run_id,
                GRACE_SECONDS,
            )
            return
        _wait(process, 1.0)


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _close(instance: DagsterInstance, run: DagsterRun | None, what: str) -> None:
    """Report a run whose process could not do it itself."""
    if run is None or run.is_finished:
        return
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, what)
    else:
        instance.report_run_failed(run, f"{what} {after_death(instance, run)}")
