"""The status of closed days in Dagster: green, failed, in progress or never requested.

A closed day is a day that has ended. It is green if Dagster stores a materialization of it and no
failed attempt after that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from magnetis_dagster.catalog import Kind
from magnetis_dagster.dates import contiguous_ranges, days_between
from magnetis_dagster.defs.partitions import daily_partitions
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster._core.definitions.partitions.subset import PartitionsSubset

NEVER_LOADED = "never loaded"
FAILED = "newest attempt failed"


@dataclass(frozen=True, slots=True)
class ClosedDays:
    """The status of the closed days of one collection in Dagster."""

    closed: int
    missing: dict[date, str]
    """Each day that is not green, oldest first, with the reason."""
    in_progress: set[date]
    """Days that a queued or running run will load, some of them again."""
    requested_from: date | None
    """The first closed day that any run requested, successfully or not; None if no day was."""

    @property
    def not_requested(self) -> int:
        """Return the number of closed days before the first requested one."""
        first = self.requested_from
        return self.closed if first is None else sum(day < first for day in self.missing)

    @property
    def gaps(self) -> dict[date, str]:
        """Return the missing days since the first requested one, and why each is missing."""
        first = self.requested_from or date.max
        return {day: reason for day, reason in self.missing.items() if day >= first}


def read_closed_days(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    settings: Settings,
    *,
    failed: set[date] | None = None,
) -> ClosedDays:
    """Return the status of an events asset's days from MAGNETIS_START_DATE to yesterday.

    `failed` contains days whose load has failed although their run has not ended. Reads and updates
    the cache of the UI's partition bars, so only newer events are read.
    """
    from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

    partitions = daily_partitions(Kind.EVENTS, settings)
    cache = get_and_update_asset_status_cache_value(instance, key, partitions)
    loaded, failures, in_progress = set[date](), set[date](), set[date]()
    if cache:
        loaded = _dates(cache.deserialize_materialized_partition_subsets(partitions))
        failures = _dates(cache.deserialize_failed_partition_subsets(partitions))
        in_progress = _dates(cache.deserialize_in_progress_partition_subsets(partitions))
    failures = (failures - in_progress) | (in_progress & (failed or set()))
    yesterday = datetime.now(settings.timezone).date() - timedelta(days=1)
    closed = days_between(settings.start_date, yesterday)
    missing = {
        day: FAILED if day in failures else NEVER_LOADED
        for day in closed
        if day not in loaded or day in failures
    }
    requested_from = min(loaded | failures | in_progress, default=None)
    return ClosedDays(len(closed), missing, in_progress, requested_from)


def format_ranges(days: Iterable[date]) -> str:
    """Return the days as at most ten ranges, newest first."""
    ranges = [
        f"{first}" if first == last else f"{first} to {last}"
        for first, last, _ in contiguous_ranges(dict.fromkeys(days))[::-1]
    ]
    more = f" and {len(ranges) - 10} more ranges" if len(ranges) > 10 else ""
    return ", ".join(ranges[:10]) + more


def _dates(subset: "PartitionsSubset[str]") -> set[date]:
    return {date.fromisoformat(key) for key in subset.get_partition_keys()}
