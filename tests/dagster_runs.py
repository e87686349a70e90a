"""Shared by tests of run launchers: an instance, a location with a waiting job, and its runs."""

import dagster as dg
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.workspace.context import WorkspaceRequestContext

INSTANCE = """
storage:
  custom:
    module: magnetis_dagster.dagster_support.instance_storage
    class: MagnetisInstanceStorage
    config: {}
run_launcher: {module: magnetis_dagster.dagster_support.run_launcher, class: MagnetisRunLauncher}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
run_monitoring: {enabled: true}
run_retries: {enabled: true, max_retries: 2}
telemetry: {enabled: false}
"""
LOCATION = """
import time
import dagster as dg

@dg.op
def wait():
    time.sleep(600)

@dg.job
def waiting():
    wait()

defs = dg.Definitions(jobs=[waiting])
"""


def make_run(
    instance: dg.DagsterInstance,
    workspace: WorkspaceRequestContext,
    name: str,
    tags: dict[str, str],
    *,
    location_name: str = "here",
    asset: dg.AssetKey | None = None,
) -> dg.DagsterRun:
    """Return a run of a job, or of one asset in it, that is created but not launched."""
    location = workspace.get_code_location(location_name)
    [repository] = location.get_repositories().values()
    job = repository.get_full_job(name)
    if asset:
        job = location.get_job(
            JobSubsetSelector(
                location_name=location.name,
                repository_name=repository.name,
                job_name=name,
                op_selection=None,
                asset_selection=[asset],
                asset_check_selection=None,
            )
        )
    plan = location.get_execution_plan(job, {}, step_keys_to_execute=None, known_state=None)
    return instance.create_run(
        job_name=name,
        run_id=None,
        run_config={},
        status=dg.DagsterRunStatus.NOT_STARTED,
        tags=tags,
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=None,
        execution_plan_snapshot=plan.execution_plan_snapshot,
        job_snapshot=job.job_snapshot,
        parent_job_snapshot=job.parent_job_snapshot if asset else None,
        asset_selection=frozenset([asset]) if asset else None,
        asset_check_selection=None,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=job.get_remote_origin(),
        job_code_origin=job.get_python_origin(),
        asset_graph=repository.asset_graph,
    )
