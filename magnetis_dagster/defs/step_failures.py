"""Convert our errors to Dagster's: a Failure with a readable text, or a retry of the step.

A step is retried only after a transient error. Assets have no `retry_policy`, because Dagster
applies it to interrupts too: a terminated run would start again. The chain of causes is cut,
because Dagster stores it, and errors of database drivers contain rows.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from magnetis_dagster.dagster_support.run_retries import record_progress
from magnetis_dagster.errors import MagnetisError, TransientError

RETRIES = 3
RETRY_SECONDS = 20.0
"""Backoff of 20, 40 and 80 s with jitter. The restart of a database or of a proxy may outlast the
client's own retries."""
UNLIMITED = 1_000_000
"""`max_retries` for Dagster, which counts waits for API calls as retries."""


@contextmanager
def as_failure(context: dg.OpExecutionContext, recheck_seconds: float) -> Iterator[None]:
    """Convert our errors in the block to dagster.Failure or a step retry, and wait for API calls.

    A waiting step checks at least every `recheck_seconds`, because the limit may be raised or other
    lanes may use less than expected.
    """
    from magnetis_dagster.dagster_support.run_heartbeat import RunEnded
    from magnetis_dagster.quota.ledger import QuotaExhausted

    try:
        yield
    except QuotaExhausted as exhausted:
        seconds = min(
            max(1.0, (exhausted.available_at - exhausted.at).total_seconds()), recheck_seconds
        )
        seconds += random.uniform(0, min(5.0, seconds / 10))  # noqa: S311 - spreads waiting runs; not a secret
        context.log.warning(
            f"Waiting for API calls. {exhausted} Next check in {seconds:.0f} s. "
            "Days already loaded stay loaded."
        )
        # the death of a worker that waits does not count as an attempt without progress
        record_progress(context.instance, context.run.run_id)
        # Dagster shows the cause next to "up for retry"
        raise dg.RetryRequested(max_retries=UNLIMITED, seconds_to_wait=seconds) from exhausted
    except TransientError as error:
        retries = _retries_after_errors(context)
        if retries >= RETRIES:
            raise failure(error) from None
        seconds = RETRY_SECONDS * 2**retries * random.uniform(0.5, 1.5)  # noqa: S311 - spreads runs that failed together
        context.log.warning(
            f"{error} This step retries in {seconds:.0f} s (retry {retries + 1} of {RETRIES})."
        )
        raise dg.RetryRequested(max_retries=UNLIMITED, seconds_to_wait=seconds) from error
    except RunEnded as ended:
        context.log.warning(str(ended))
        # The run has ended already. A Failure would be a second event, with a retry or an alert.
        raise DagsterExecutionInterruptedError from None
    except MagnetisError as error:
        raise failure(error) from None


def _retries_after_errors(context: dg.OpExecutionContext) -> int:
    """Return the retries of this step in this run, without waits for API calls."""
    events = context.instance.all_logs(
        context.run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY
    )
    causes = [
        getattr(event.get_dagster_event().step_retry_data.error, "cause", None)
        for event in events
        if event.step_key == context.op_handle.name
    ]
    return sum(cause is None or cause.cls_name != "QuotaExhausted" for cause in causes)


def steps_of_run(
    context: dg.OpExecutionContext,
) -> tuple[set[str], dict[str | None, dg.DagsterEvent]]:
    """Return the planned steps of this run, and the last event of each step that has ended."""
    ends = {
        dg.DagsterEventType.STEP_SUCCESS,
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.STEP_SKIPPED,
    }
    events = context.instance.all_logs(context.run.run_id, of_type=ends)
    planned = context.run.step_keys_to_execute or [node.name for node in context.job_def.nodes]
    return {*planned}, {event.step_key: event.get_dagster_event() for event in events}


def skipped_on_failure(tick: Callable[[], dg.SensorResult]) -> dg.SensorResult:
    """Return the result of a sensor's tick; if the tick fails, the error is its skip reason."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return tick()
    except MagnetisError as error:
        words = str(error)
    except (dg.DagsterError, SQLAlchemyError) as error:
        # only the class of a storage error, since its text contains statements
        words = f"Dagster's storage does not answer ({type(error).__name__})."
    return dg.SensorResult(skip_reason=f"{words} The next tick tries again.")


def failure(error: MagnetisError) -> dg.Failure:
    """Return the Failure for one of our errors."""
    return dg.Failure(description=str(error), metadata={"error": type(error).__name__})
