"""The Celery worker: takes runs from the queue and executes each in its own process.

`celery --app magnetis_dagster.dagster_support.celery_worker worker`

It interrupts a run that was canceled or failed in Dagster's database. If it loses the database, it
ends its runs before run monitoring can start them elsewhere (docs/decisions/0014-celery.md).
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

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

POLL_SECONDS = 2.0
"""Interval at which the status of all runs is read from the database, in one statement."""
CUT_OFF_SECONDS = 45.0
"""If the database does not answer for this long, the runs are killed, and resume elsewhere."""
GRACE_SECONDS = 60.0
"""An interrupted process, or one whose run has ended, is killed after this time."""
SERVER_OPTIONS = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4 "
    "-c tcp_user_timeout=30000"
)
"""PostgreSQL ends a session 30 s after its machine was disconnected. By default it takes two hours,
during which the run that resumes the work would wait for a lock."""

_ENDING = {DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED, DagsterRunStatus.FAILURE}
_log = logging.getLogger(__name__)


class RunStatuses:
    """The status of this worker's runs, polled in a thread, as a query may hang."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, DagsterRunStatus | None] = {}
        self._answered_at = clock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, run_id: str) -> Iterator[None]:
        """Poll the status of the run during the block."""
        with self._lock:
            if not self._known:
                self._answered_at = self._clock()
            self._known[run_id] = None
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._poll_forever, name="run-statuses", daemon=True
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

    def _poll_forever(self) -> None:
        while True:
            with self._lock:
                run_ids = list(self._known)
            if run_ids:
                self._poll(run_ids)
            time.sleep(POLL_SECONDS)

    def _poll(self, run_ids: list[str]) -> None:
        try:
            with (
                guarded(self._engine, "read the status of runs"),
                self._engine.connect() as connection,
            ):
                rows = connection.execute(
                    text(f"SELECT run_id, status FROM {SCHEMA}.runs WHERE run_id = ANY(:runs)"),  # noqa: S608 - a constant
                    {"runs": run_ids},
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
            "MAGNETIS_CELERY_BROKER_URL is not set. A worker takes its runs from this broker. In "
            "the compose stack, `deploy/secrets.sh --celery` writes it to "
            "secrets/magnetis_celery_broker_url."
        )
    return broker.get_secret_value()


app: Celery = MagnetisCeleryRunLauncher(_broker()).celery
_statuses = RunStatuses(
    connect(database_url(Settings.load()), connect_timeout="5", tcp_user_timeout="10000")
)
_stopping = threading.Event()


@worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
def _stop(**_signal: object) -> None:
    _stopping.set()


@app.task(bind=True, name=TASK_EXECUTE_JOB_NAME)  # type: ignore[untyped-decorator]
def execute_job(task: Task, run_id: str) -> None:
    """Execute a queued run to its end.

    Raises: DatabaseUnavailable; run monitoring then handles the run.
    """
    worker = str(task.request.hostname)
    with DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if not _may_start(instance, run, worker):
            return
        assert run is not None
        assert run.job_code_origin is not None
    code = _run(
        ExecuteRunArgs(
            run.job_code_origin, run_id, instance_ref=None, set_exit_code_on_failure=True
        )
    )
    with DagsterInstance.get() as instance:
        message = f"The run's process on {worker} ended with exit code {code}."
        _report_end(instance, instance.get_run_by_id(run_id), message)


def _may_start(instance: DagsterInstance, run: DagsterRun | None, worker: str) -> bool:
    if run is not None and run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "Canceled before a worker started it.")
        return False
    if run is None or run.status is not DagsterRunStatus.STARTING:
        # run monitoring fails a run that waits in the queue for too long
        missing = "not in this worker's database (deleted, or launched on another database)"
        _log.warning("Ignored a run that is %s.", run.status.value if run else missing)
        return False
    metadata = {"Celery worker": MetadataValue.text(worker)}
    instance.report_engine_event(
        f"Taken by Celery worker {worker}.", run, EngineEventData(metadata)
    )
    return True


def _run(args: ExecuteRunArgs) -> int:
    """Execute the run in a process and return its exit code."""
    command = [sys.executable, "-m", "dagster", "api", "execute_run", serialize_value(args)]
    environment = {
        **os.environ,
        "PGOPTIONS": f"{os.environ.get('PGOPTIONS', '')} {SERVER_OPTIONS}".strip(),
    }
    with _statuses.watching(args.run_id), subprocess.Popen(command, env=environment) as process:  # noqa: S603 - this Python, no shell
        try:
            _supervise(process, args.run_id)
        finally:
            process.kill()
        return process.wait()


def _supervise(process: "subprocess.Popen[bytes]", run_id: str) -> None:
    """Wait until the process ends, or until the caller must kill it.

    Interrupts the process if the run was ended in Dagster or the worker stops.
    """
    interrupted, kill_at = False, None
    while process.poll() is None:
        status = _statuses.of(run_id)
        if _statuses.silent_seconds() > CUT_OFF_SECONDS:
            _log.error(
                "The database has not answered for %d s: killing run %s, which resumes elsewhere.",
                CUT_OFF_SECONDS,
                run_id,
            )
            return
        if not interrupted and (_stopping.is_set() or status in _ENDING):
            reason = "the worker stops" if _stopping.is_set() else status
            _log.warning("Interrupting run %s (%s).", run_id, reason)
            # Dagster reports the run as canceled if somebody canceled it, otherwise as failed
            process.terminate()
            interrupted = True
        if kill_at is None and (interrupted or status is DagsterRunStatus.SUCCESS):
            kill_at = time.monotonic() + GRACE_SECONDS
        if kill_at is not None and time.monotonic() > kill_at:
            _log.error(
                "The process of run %s has not ended within %d s: killing it.",
                run_id,
                GRACE_SECONDS,
            )
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)


def _report_end(instance: DagsterInstance, run: DagsterRun | None, message: str) -> None:
    """Report the end of a run if its process has not done so."""
    if run is None or run.is_finished:
        return
    if run.status is DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message)
    else:
        instance.report_run_failed(run, f"{message} {after_death(instance, run)}")
