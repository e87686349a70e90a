"""Run retries after a worker died: unlimited while attempts make progress; three in a row without progress fail the run.

Dagster starts a run again unless its run group has more runs than the tag `dagster/max_retries` of
the run that died allows, or `run_retries.max_retries` of dagster.yaml. That is 2, so a run has three
attempts. An attempt that makes progress raises its own tag, so that three more may follow, and a retry
inherits the tags. So nothing has to find out afterwards what a dead worker has done, and a worker that
dies before it reaches our code is counted too.

Progress is what the next attempt need not do again: a window that this work committed, or a page kept
that was not kept before. A wait for API calls counts as progress: the attempt could do no more.

https://docs.dagster.io/deployment/execution/run-retries
"""

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.errors import DagsterRunNotFoundError
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.storage.tags import MAX_RETRIES_TAG

from magnetis_dagster.dagster_support.run_identity import RETRY_TAG

ATTEMPTS = 3
"""Attempts in a row without progress that fail a run; one more than `run_retries.max_retries` of dagster.yaml."""


def record_progress(instance: DagsterInstance, run_id: str) -> None:
    """Let ATTEMPTS more attempts without progress follow this one."""
    _allow(instance, run_id, ATTEMPTS)


def begin_attempt(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """Return a warning if Dagster does not start the run again unless this attempt makes progress.

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
        f"The workers of the {ATTEMPTS - 1} attempts before this one died without progress. If this one dies before it commits a "
        "window or keeps a page, the run fails and is not started again."
    )


def after_death(instance: DagsterInstance, run: DagsterRun) -> str:
    """Return a sentence for the log of a run whose worker died: whether it is started again, and why not."""
    if not instance.run_retries_enabled:
        return "It is not started again: run_retries is disabled in dagster.yaml."
    if _starts_again(instance, run):
        return "It is started again where it stopped."
    return (
        f"It is not started again: the workers of {ATTEMPTS} attempts in a row died without progress (no window committed, no page "
        "kept). Finished days stay. Find out why they die (memory, a time limit, the machine), then re-execute it from failure."
    )


def _allow(instance: DagsterInstance, run_id: str, more: int) -> None:
    try:
        group = instance.get_run_group(run_id)
    except DagsterRunNotFoundError:
        return  # the first run of the group was deleted: Dagster starts none of them again
    runs = {run.run_id: run for run in group[1]} if group else {}
    present = runs[run_id].tags.get(MAX_RETRIES_TAG, "") if run_id in runs else ""
    most = len(runs) - 1 + more
    if not present.isdigit() or int(present) < most:
        instance.add_run_tags(run_id, {MAX_RETRIES_TAG: str(most)})


def _starts_again(instance: DagsterInstance, run: DagsterRun) -> bool:
    present = instance.get_run_by_id(run.run_id) or run
    # Dagster's own rule, for the moment after a death
    return bool(
        auto_reexecution_should_retry_run(
            instance, present.with_status(DagsterRunStatus.FAILURE), None
        )
    )
