"""Run retries after the death of a worker.

Three attempts in a row without progress fail the run. Progress is a committed window, a page that
is kept for the first time, or a wait for API calls.

The tag `dagster/max_retries`, or else `run_retries.max_retries` (2) in dagster.yaml, limits the
retries in a run group. An attempt that makes progress raises its own tag so that three more may
follow; a retry inherits the tags. So a worker that dies before it reaches our code counts too.

https://docs.dagster.io/deployment/execution/run-retries
"""

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.errors import DagsterRunNotFoundError
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.storage.tags import MAX_RETRIES_TAG

from magnetis_dagster.dagster_support.run_identity import RETRY_TAG

ATTEMPTS = 3
"""Consecutive attempts without progress that fail a run.

It is one more than `run_retries.max_retries` in dagster.yaml.
"""


def record_progress(instance: DagsterInstance, run_id: str) -> None:
    """Allow ATTEMPTS more attempts without progress after this one."""
    _allow(instance, run_id, ATTEMPTS)


def begin_attempt(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """Return a warning if the run is not retried unless this attempt makes progress.

    A run that a person re-executes has ATTEMPTS attempts of its own.
    """
    if not instance.run_retries_enabled or not run.parent_run_id:
        return None
    if RETRY_TAG not in run.tags:
        _allow(instance, run.run_id, ATTEMPTS - 1)
        return None
    if _starts_again(instance, run):
        return None
    return (
        f"The workers of the last {ATTEMPTS - 1} attempts died without progress. If this worker "
        "dies before it commits a window or keeps a page, the run is not retried."
    )


def after_death(instance: DagsterInstance, run: DagsterRun) -> str:
    """Return a sentence: whether the run is retried after its worker died, and why not."""
    if not instance.run_retries_enabled:
        return "The run is not retried: run_retries is disabled in dagster.yaml."
    if _starts_again(instance, run):
        return "A retry resumes the run."
    return (
        f"The run is not retried: the workers of {ATTEMPTS} consecutive attempts died without "
        "progress (no window committed, no page kept). Days already loaded stay loaded. Find out "
        "why the workers die (memory, a time limit, the machine), then re-execute the run from "
        "failure."
    )


def _allow(instance: DagsterInstance, run_id: str, more: int) -> None:
    try:
        group = instance.get_run_group(run_id)
    except DagsterRunNotFoundError:
        return  # the first run of the group was deleted, so Dagster does not retry any of them
    runs = {run.run_id: run for run in group[1]} if group else {}
    present = runs[run_id].tags.get(MAX_RETRIES_TAG, "") if run_id in runs else ""
    most = len(runs) - 1 + more
    if not present.isdigit() or int(present) < most:
        instance.add_run_tags(run_id, {MAX_RETRIES_TAG: str(most)})


def _starts_again(instance: DagsterInstance, run: DagsterRun) -> bool:
    present = instance.get_run_by_id(run.run_id) or run
    # Dagster's own rule, applied to the run as if it had failed
    return bool(
        auto_reexecution_should_retry_run(
            instance, present.with_status(DagsterRunStatus.FAILURE), None
        )
    )
