"""What our errors become in Dagster: a Failure whose text is for people, with or without retries.

A run retry would read the same days again for the same answer, so `dagster.yaml` and the jobs turn those off for step failures;
a step is tried again only where the error says that it can help. The chain of causes is cut: Dagster stores it, and the drivers'
own errors hold rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import Backoff, Failure, Jitter, MetadataValue, RetryPolicy
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.errors import MagnetisError, TryAgain

RETRY_POLICY = RetryPolicy(max_retries=3, delay=20, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
"""20, 40 and 80 seconds, give or take: a database restart or a proxy hiccup that outlasts the client's own attempts."""


@contextmanager
def as_failure() -> Iterator[None]:
    """Turn our errors inside the block into dagster.Failure."""
    try:
        yield
    except MagnetisError as error:
        raise failure(error) from None


def failure(error: MagnetisError) -> Failure:
    """Return the Failure for one of our errors; QuotaExhausted is not tried again within the minute."""
    available_at = getattr(error, "available_at", None)
    metadata: dict[str, RawMetadataValue] = {"error": MetadataValue.text(type(error).__name__)}
    if available_at is not None:
        metadata["calls available at"] = MetadataValue.timestamp(available_at)
    return Failure(
        description=str(error),
        metadata=metadata,
        allow_retries=isinstance(error, TryAgain) and available_at is None,
    )
