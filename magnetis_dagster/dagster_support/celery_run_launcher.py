"""Runs taken by Celery workers on any machine: Dagster's CeleryRunLauncher, with the truth about a run's worker.

Upstream takes the state of the task in Celery's result backend for the run's health: a worker that was cut off leaves STARTED for
ever, and a result that expired after a day is a crash. Here the workers themselves are asked which tasks they have, there is no
result backend, and the run's status in Dagster's database is what a worker obeys (celery_worker.py): one truth for both sides.

https://docs.dagster.io/deployment/oss/deployment-options/celery
"""

import time
from collections.abc import Callable, Mapping
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
"""A run that no worker has known for so long is given up. A worker that lost redis is back within a minute; one that lost the
database has ended its runs before (celery_worker.CUT_OFF_SECONDS)."""
ANSWER_SECONDS = 2.0
"""How long the workers have to answer; one that is late is asked again in the next round."""
KEPT_SECONDS = 10.0
"""One question serves all runs of a round of run monitoring, which come one after the other."""

CONFIGURATION: Mapping[str, Any] = {
    "task_ignore_result": True,
    "worker_pool": "threads",  # each waits for a process of its own
    "worker_disable_prefetch": True,  # a worker without a free place leaves the run to the others
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # about a minute: Dagster takes a launch that failed for an attempt that made no progress, and three of those fail the run
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
        "health_check_interval": 10,  # a connection that went dead without a word is replaced after two of these
    },
}


class MagnetisCeleryRunLauncher(CeleryRunLauncher):
    """Puts runs into the broker's queue. Not thread-safe."""

    def __init__(
        self,
        broker: str,
        inst_data: ConfigurableClassData | None = None,
        *,
        configuration: Mapping[str, Any] = CONFIGURATION,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            default_queue=QUEUE,
            broker=broker,
            config_source=dict(configuration),
            inst_data=inst_data,
        )
        self._clock = clock
        self._asked_at = -KEPT_SECONDS
        self._tasks: dict[str, set[str]] = {}
        self._missed_since: dict[str, float] = {}

    @property
    def supports_resume_run(self) -> bool:
        """Return False: a run whose worker is gone is failed, and tried again as a run of its own."""
        return False

    def launch_run(self, context: LaunchRunContext) -> None:
        """Put the run's id, all that a worker has to know, into the queue. Raises OperationalError after about a minute."""
        run = context.dagster_run
        task = self.celery.signature(
            TASK_EXECUTE_JOB_NAME, kwargs={"run_id": run.run_id}, immutable=True
        )
        self._launch_celery_task_run(
            run=run, task_signature=task, routing_key=TASK_EXECUTE_JOB_NAME
        )

    def terminate(self, run_id: str) -> bool:
        """Ask for the run's end: its worker sees within seconds that it is being canceled. False where it has ended."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Ask the workers whether one of them has `run`; NOT_FOUND only after SILENCE_SECONDS in which none had."""
        task = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task is None:
            return CheckRunHealthResult(
                WorkerStatus.RUNNING, "started by a command: nobody here can tell"
            )
        try:
            workers = self._workers()
        except (OperationalError, OSError):
            self._missed_since.clear()  # silence counts from when they could have answered
            return CheckRunHealthResult(
                WorkerStatus.RUNNING, "the broker does not answer: asked again once it does"
            )
        if any(task in tasks for tasks in workers.values()):
            self._missed_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        silence = self._clock() - self._missed_since.setdefault(run.run_id, self._clock())
        if silence < SILENCE_SECONDS:
            return CheckRunHealthResult(
                WorkerStatus.RUNNING, f"no worker knows it since {silence:.0f} s: asked again"
            )
        del self._missed_since[run.run_id]
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND,
            f"its Celery worker is gone or cut off: for {silence:.0f} s none of those that answer "
            f"({_names(workers)}) has had it. {after_death(self._instance, run)}",
        )

    def get_run_worker_debug_info(
        self, run: DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """Return which workers answer: for a run that waited too long in the queue."""
        try:
            names = _names(self._workers())
        except (OperationalError, OSError):
            return "The broker at MAGNETIS_CELERY_BROKER_URL does not answer."
        return (
            f"Celery workers that answer: {names}. "
            "Together they must take as many runs at once as dagster.yaml allows (max_concurrent_runs)."
        )

    def _workers(self) -> dict[str, set[str]]:
        """Return the tasks under way by worker. Raises OperationalError, OSError."""
        if self._clock() - self._asked_at >= KEPT_SECONDS:
            answers = self.celery.control.inspect(timeout=ANSWER_SECONDS).active() or {}
            self._tasks = {
                worker: {task["id"] for task in tasks} for worker, tasks in answers.items()
            }
            self._asked_at = self._clock()
        return self._tasks


def _names(workers: Mapping[str, object]) -> str:
    return ", ".join(sorted(workers)) or "none"
