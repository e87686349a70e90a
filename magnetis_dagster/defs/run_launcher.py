"""Dagster's default run launcher, with the one thing that it lacks: it knows whether a run's worker is still there.

Runs are child processes of the code server. Where that dies (a container that is restarted, a machine out of memory), its runs die
with it and stay STARTED for ever, and one of a backfill keeps the only slot that `dagster.yaml` gives to backfills. Asked for its
health, Dagster's run monitoring reports such a run as failed, and the run-retry daemon starts it again where it stopped.

Where MAGNETIS_CELERY_BROKER_URL is set, Celery workers take the runs instead (celery_launcher.py).

https://docs.dagster.io/deployment/execution/run-monitoring
"""

from collections.abc import Mapping
from typing import Any

from dagster import DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, RunLauncher, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import ConfigurableClassData
from dagster_shared.serdes import deserialize_value

from magnetis_dagster.defs.run_retries import after_death


class MagnetisRunLauncher(DefaultRunLauncher):
    """DefaultRunLauncher that `dagster.yaml` names, so that a run outlives its code server as a retry."""

    @classmethod
    def from_config_value(  # type: ignore[override]  # Dagster asks for a RunLauncher, not for this one
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Mapping[str, Any],  # noqa: ARG003 - Dagster's signature
    ) -> RunLauncher:
        """Return it, or the launcher for Celery where the environment names a broker. Raises SettingsError."""
        from magnetis_dagster.settings import Settings, SettingsError

        broker = Settings.load().celery_broker_url
        if broker is None:
            return cls(inst_data=inst_data)
        try:
            from magnetis_dagster.defs.celery_launcher import MagnetisCeleryRunLauncher
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] not in {"celery", "dagster_celery", "kombu"}:
                raise
            raise SettingsError(
                f"MAGNETIS_CELERY_BROKER_URL is set, and the module {missing.name} is not installed. "
                "Install the extra: pip install 'magnetis_dagster[celery]' (the image has it). Or unset the variable."
            ) from None
        return MagnetisCeleryRunLauncher(broker.get_secret_value(), inst_data)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return True: run monitoring asks `check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Ask the code server that started `run` whether it still has its process."""
        if GRPC_INFO_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "started by a command: nobody here can tell")
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "ended meanwhile")
        try:
            # a server knows the processes that it started itself, and answers for no other
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=5)
        except DagsterUserCodeUnreachableError:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the code server does not answer: asked again once it does")
        if deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        what = "the code server that started this run is gone, and its runs with it."
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"{what} {after_death(self._instance, run)}")
