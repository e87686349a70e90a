"""Runs on Celery workers on any machine: Dagster's CeleryRunLauncher with reliable health checks.

It queries the workers for their tasks instead of a result backend (docs/decisions/0014-celery.md).

https://docs.dagster.io/deployment/oss/deployment-options/celery
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

from magnetis_dagster.dagster_support.run_retries import after_death

QUEUE = "dagster"
SILENCE_SECONDS = 90.0
"""A run that no worker has reported for this long is failed. A worker that lost redis reconnects
within a minute; one that lost the database has ended its runs (celery_worker.CUT_OFF_SECONDS)."""
ANSWER_SECONDS = 2.0
"""Timeout for the workers' answers; a late worker is queried again by the next health check."""
KEPT_SECONDS = 10.0
"""Answers are reused this long: run monitoring checks all runs one after the other."""

CONFIGURATION: dict[str, Any] = {
    "task_ignore_result": True,
    "worker_pool": "threads",  # each thread waits for one process
    "worker_disable_prefetch": True,  # a busy worker leaves the run to the others
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # About a minute. Dagster counts a failed launch as an attempt without progress, and three of
    # those fail the run.
    "task_publish_retry_policy": {
        "max_retries": 15,
        "interval_start": 1,
        "interval_step": 1,
        "interval_max": 5,
    },
    "broker_transport_options": {
        "socket_connect_timeout": 5,
        "socket_timeout": 15,
        "socket_keepalive": True,
        "health_check_interval": 10,  # a silently lost connection is replaced after two intervals
    },
}


class MagnetisCeleryRunLauncher(CeleryRunLauncher):
    """Enqueues runs at the broker. Not thread-safe."""

    def __init__(
        self,
        broker: str,
        inst_data: ConfigurableClassData | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            default_queue=QUEUE,
            broker=broker,
            config_source=CONFIGURATION,
            inst_data=inst_data,
        )
        self._clock = clock
        self._queried_at = -KEPT_SECONDS
        self._tasks: dict[str, set[str]] = {}
        self._missed_since: dict[str, float] = {}

    @property
    def supports_resume_run(self) -> bool:
        """Return False: a run whose worker died is failed and retried as a new run."""
        return False

    def launch_run(self, context: LaunchRunContext) -> None:
        """Enqueue the run's id.

        Raises: OperationalError if the broker is down for about a minute.
        """
        run = context.dagster_run
        task = self.celery.signature(
            TASK_EXECUTE_JOB_NAME, kwargs={"run_id": run.run_id}, immutable=True
        )
        self._launch_celery_task_run(
            run=run, task_signature=task, routing_key=TASK_EXECUTE_JOB_NAME
        )

    def terminate(self, run_id: str) -> bool:
        """Cancel the run; its worker notices within seconds. Returns False if the run has ended."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return NOT_FOUND if no worker has reported `run` for SILENCE_SECONDS."""
        running = partial(CheckRunHealthResult, WorkerStatus.RUNNING)
        task = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task is None:
            return running("started by a command, not by Celery: health unknown")
        try:
            workers = self._workers()
        except (OperationalError, OSError):
            self._missed_since.clear()  # silence counts only while workers can answer
            return running("the broker does not answer: checked again later")
        if any(task in tasks for tasks in workers.values()):
            self._missed_since.pop(run.run_id, None)
            return running()
        silence = self._clock() - self._missed_since.setdefault(run.run_id, self._clock())
        if silence < SILENCE_SECONDS:
            return running(f"no worker has reported it for {silence:.0f} s: checked again")
        del self._missed_since[run.run_id]
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND,
            f"its Celery worker died or is disconnected: for {silence:.0f} s, no worker that "
            f"answers ({_names(workers)}) has reported the run. {after_death(self._instance, run)}",
        )

    def get_run_worker_debug_info(
        self, run: DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """Return which workers answer, for the log of a run that waited too long in the queue."""
        try:
            names = _names(self._workers())
        except (OperationalError, OSError):
            return "The broker at MAGNETIS_CELERY_BROKER_URL does not answer."
        return (
            f"Celery workers that answer: {names}. Together they must have capacity for "
            "max_concurrent_runs of dagster.yaml."
        )

    def _workers(self) -> dict[str, set[str]]:
        """Return the running tasks by worker. Raises: OperationalError; OSError."""
        if self._clock() - self._queried_at >= KEPT_SECONDS:
            answers = self.celery.control.inspect(timeout=ANSWER_SECONDS).active() or {}
            self._tasks = {
                worker: {task["id"] for task in tasks} for worker, tasks in answers.items()
            }
            self._queried_at = self._clock()
        return self._tasks


def _names(workers: Mapping[str, object]) -> str:
    return ", ".join(sorted(workers)) or "none"
