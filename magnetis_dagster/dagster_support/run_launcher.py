"""Dagster's default run launcher with health checks: detects runs whose worker died.

Workers are child processes of a code server and may outlive it, so the worker's heartbeat decides
(docs/decisions/0022-run-heartbeats.md). Run monitoring fails a run without a heartbeat, and the
run-retry daemon resumes it.

If MAGNETIS_CELERY_BROKER_URL is set, Celery workers execute the runs (celery_run_launcher.py).

https://docs.dagster.io/deployment/execution/run-monitoring
"""

import time
from collections.abc import Mapping
from typing import Any

from dagster import DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import (
    CheckRunHealthResult,
    DefaultRunLauncher,
    RunLauncher,
    WorkerStatus,
)
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import ConfigurableClassData
from dagster_shared.serdes import deserialize_value

from magnetis_dagster.dagster_support.heartbeat_storage import heartbeats
from magnetis_dagster.dagster_support.run_heartbeat import SILENCE_SECONDS, LastBeat
from magnetis_dagster.dagster_support.run_retries import after_death
from magnetis_dagster.extras import require_extra

CONFIRM_SECONDS = 10.0
"""Minimum time between two checks of the same old heartbeat; run monitoring checks every 30 s."""


class MagnetisRunLauncher(DefaultRunLauncher):
    """DefaultRunLauncher that checks a run by its heartbeat.

    Not thread-safe: one thread of the daemon checks health.
    """

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._silent: dict[str, tuple[str, float]] = {}
        """By run: its last heartbeat, and when it was first found to be old."""

    @classmethod
    def from_config_value(  # type: ignore[override]  # Dagster needs any RunLauncher
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Mapping[str, Any],
    ) -> RunLauncher:
        """Return this launcher, or the one for Celery if MAGNETIS_CELERY_BROKER_URL is set.

        Raises: SettingsError if a setting is invalid; ExtraMissing if the extra `celery` is not
        installed.
        """
        from magnetis_dagster.settings import Settings

        broker = Settings.load().celery_broker_url
        if broker is None:
            return cls(inst_data=inst_data)
        require_extra(
            "celery",
            "MAGNETIS_CELERY_BROKER_URL",
            "celery",
            "dagster_celery",
            otherwise="The image contains it. Without it, unset the variable.",
        )
        from magnetis_dagster.dagster_support.celery_run_launcher import MagnetisCeleryRunLauncher

        return MagnetisCeleryRunLauncher(broker.get_secret_value(), inst_data)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return True: run monitoring calls `check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return NOT_FOUND if the worker died; fence it off first, as it may be suspended."""
        beat = heartbeats(self._instance).last_beat(run.run_id)
        if beat is None:
            return self._health_without_heartbeat(run)
        lives = None if beat.dead else beat.process_lives()
        if lives is not False and not beat.dead:
            sign = self._sign_of_life(run, beat, lives=lives)
            if sign is not None:
                return CheckRunHealthResult(WorkerStatus.RUNNING, sign)
        self._silent.pop(run.run_id, None)
        if not heartbeats(self._instance).declare_dead(run.run_id, beat):
            return CheckRunHealthResult(
                WorkerStatus.RUNNING, "its worker sent a heartbeat or ended just now"
            )
        cause = (
            "Its process died."
            if lives is False
            else "Its worker died: it sends no heartbeat, and no code server has its process."
        )
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND, f"{cause} {after_death(self._instance, run)}"
        )

    def _sign_of_life(self, run: DagsterRun, beat: LastBeat, *, lives: bool | None) -> str | None:
        """Return why the worker counts as alive; None if nothing indicates that it is.

        A worker is dead only after two checks of the same old heartbeat. The database may have been
        unavailable until just before the first check.
        """
        seen, since = self._silent.pop(run.run_id, ("", 0.0))
        if beat.age < SILENCE_SECONDS:
            return f"heartbeat {beat.age:.0f} s ago"
        silence = f"no heartbeat for {beat.age:.0f} s"
        if lives:
            return f"{silence}, but its process {beat.pid} exists"
        if self._code_server_has(run):
            return f"{silence}, but its code server has its process"
        if seen != beat.written:
            since = time.monotonic()
        self._silent[run.run_id] = (beat.written, since)
        is_confirmed = time.monotonic() - since >= CONFIRM_SECONDS
        return None if is_confirmed else f"{silence}: will be checked again"

    def terminate(self, run_id: str) -> bool:
        """Cancel a run; its worker notices within BEAT_SECONDS. False if the run has ended."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if heartbeats(self._instance).last_beat(run_id) is None:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        return True

    def _health_without_heartbeat(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return the health of a run that an older version of this package started."""
        if (has := self._code_server_has(run)) is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its code server does not answer")
        if has:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        cause = "The code server that started this run has ended, and its runs with it."
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND, f"{cause} {after_death(self._instance, run)}"
        )

    def _code_server_has(self, run: DagsterRun) -> bool | None:
        """Return whether the code server of `run` has its process; None if it does not answer."""
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return None
        try:
            answer = client.can_cancel_execution(
                CanCancelExecutionRequest(run_id=run.run_id), timeout=5
            )
        except DagsterUserCodeUnreachableError:
            return None
        return deserialize_value(answer, CanCancelExecutionResult).can_cancel
