"""Dagster's default run launcher, with the one thing that it lacks: it knows whether a run's worker is still there.

Runs are child processes of the code server. Where that dies (a container that is restarted, a machine out of memory), its runs die
with it and stay STARTED for ever, and one of a backfill keeps the only slot that `dagster.yaml` gives to backfills. Asked for its
health, Dagster's run monitoring reports such a run as failed, and the run-retry daemon starts it again where it stopped.

https://docs.dagster.io/deployment/execution/run-monitoring
"""

from dagster import DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster_shared.serdes import deserialize_value


class MagnetisRunLauncher(DefaultRunLauncher):
    """DefaultRunLauncher that `dagster.yaml` names, so that a run outlives its code server as a retry."""

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
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the code server that started this run is gone, and its runs with it")
