"""What our errors become in Dagster: a Failure whose text is for people, or another try of the step.

A run retry would read the same days again for the same answer, so `dagster.yaml` and the jobs turn those off for step failures;
a step is tried again only where the error says that it can help. Assets have no `retry_policy`: Dagster obeys one on interrupts
too, so a run that somebody terminates would start again and spend its calls anew. The chain of causes is cut: Dagster stores it,
and the drivers' own errors hold rows.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster import (
    DagsterError,
    DagsterEventType,
    Failure,
    MetadataValue,
    OpExecutionContext,
    RetryRequested,
    SensorResult,
)
from dagster._core.errors import DagsterExecutionInterruptedError

from magnetis_dagster.dagster_support.run_retries import record_progress
from magnetis_dagster.errors import MagnetisError, TransientError

RETRIES = 3
RETRY_SECONDS = 20.0
"""20, 40 and 80 seconds, give or take: a database restart or a proxy hiccup that outlasts the client's own attempts."""
FOR_EVER = 1_000_000
"""For Dagster, which counts waits and tries as one: a night of waiting must not use up the tries. We count the tries ourselves."""


@contextmanager
def as_failure(context: OpExecutionContext, recheck_seconds: float) -> Iterator[None]:
    """Turn our errors inside the block into dagster.Failure or another try, and being out of quota into waiting.

    A waiting step stays in progress, and goes on when its lane has calls again; it looks after `recheck_seconds` at the latest,
    since the limit may be raised or other lanes may leave more than was thought.
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
            f"Waiting for API calls. {exhausted} Looking again in {seconds:.0f} s; finished days stay."
        )
        record_progress(
            context.instance, context.run.run_id
        )  # a worker that dies while it waits is not to blame
        # the cause is what Dagster shows beside "up for retry"
        raise RetryRequested(max_retries=FOR_EVER, seconds_to_wait=seconds) from exhausted
    except TransientError as error:
        tried = _tries_that_failed(context)
        if tried >= RETRIES:
            raise failure(error) from None
        seconds = RETRY_SECONDS * 2**tried * random.uniform(0.5, 1.5)  # noqa: S311 - spreads runs that failed together
        context.log.warning(
            f"{error} Next attempt of this step in {seconds:.0f} s ({tried + 1} of {RETRIES})."
        )
        raise RetryRequested(max_retries=FOR_EVER, seconds_to_wait=seconds) from error
    except RunEnded as ended:
        context.log.warning(str(ended))
        # not a failure: the run has ended already, and a second failure event would be retried or alerted
        raise DagsterExecutionInterruptedError from None
    except MagnetisError as error:
        raise failure(error) from None


def _tries_that_failed(context: OpExecutionContext) -> int:
    """Return how often this step was put off in this run for another reason than waiting for calls."""
    step = context.op_handle.name
    events = context.instance.all_logs(
        context.run.run_id, of_type=DagsterEventType.STEP_UP_FOR_RETRY
    )
    errors = [
        event.get_dagster_event().step_retry_data.error
        for event in events
        if event.step_key == step
    ]
    causes = [getattr(error, "cause", None) for error in errors]
    return sum(cause is None or cause.cls_name != "QuotaExhausted" for cause in causes)


def skipped_on_failure(tick: Callable[[], SensorResult]) -> SensorResult:
    """Return the result of a sensor's tick; what was in the way is its skip reason."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return tick()
    except MagnetisError as error:
        words = str(error)
    except (DagsterError, SQLAlchemyError) as error:
        # of the storage's errors only the class: they hold statements
        words = f"Dagster's storage does not answer ({type(error).__name__})."
    return SensorResult(skip_reason=f"{words} The next tick looks again.")


def failure(error: MagnetisError) -> Failure:
    """Return the Failure for one of our errors."""
    return Failure(
        description=str(error), metadata={"error": MetadataValue.text(type(error).__name__)}
    )
