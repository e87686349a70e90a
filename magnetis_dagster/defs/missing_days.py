"""Closed days that are not green, and the check that reports them: `no_missing_days` on every events collection.

A day is green if Dagster stores a materialization of it that no failed attempt has followed. The check counts from the first day
that anybody has requested, the schedule included: a gap after it is a fault, while history that nobody has requested is not.

The check is a step of its own, so it can be run alone, and one for all collections, so a run pays for it once. It has no
dependency on the loads: Dagster skips a step whose upstream failed, or logged its days without an output, and then it is
needed most. It sends no API request.

https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    DagsterEventType,
    DagsterInstance,
    MetadataValue,
    Out,
    RetryRequested,
    TableRecord,
    op,
)
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.dagster_support.partition_tags import days_of
from magnetis_dagster.dates import contiguous_ranges, days_between
from magnetis_dagster.defs.assets import asset_key
from magnetis_dagster.defs.partitions import daily_partitions
from magnetis_dagster.defs.repair_attempts import Attempts
from magnetis_dagster.defs.step_failures import FOR_EVER
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from dagster._core.definitions.partitions.subset import PartitionsSubset

NO_MISSING_DAYS = "no_missing_days"
REPAIR_SENSOR = "repair_sensor"
STOP_DAYS = 7
"""If this many days of one collection were given up, the cause is not the days: the sensor skips the collection."""
ROWS_SHOWN = 50
WAIT_SECONDS = 30.0

NEVER_LOADED = "never loaded"
FAILED = "newest attempt failed"


@dataclass(frozen=True, slots=True)
class Days:
    """The closed days of one collection, as Dagster knows them."""

    closed: int
    missing: dict[date, str]
    """Each day that is not green, oldest first, and why."""
    in_progress: set[date]
    """Days that a queued or running run will load; those loaded before are not missing."""
    requested_from: date | None
    """The first closed day that any run requested, successful or not; None: none was requested."""

    @property
    def requested(self) -> int:
        """Return the number of closed days from the first that was requested."""
        return self.closed - self.not_requested

    @property
    def not_requested(self) -> int:
        """Return the number of days before the first that was requested."""
        first = self.requested_from
        return self.closed if first is None else sum(day < first for day in self.missing)

    @property
    def gaps(self) -> dict[date, str]:
        """Return the missing days from the first that was requested on."""
        first = self.requested_from
        return (
            {} if first is None else {day: why for day, why in self.missing.items() if day >= first}
        )


def look(
    instance: DagsterInstance,
    collection: Collection,
    settings: Settings,
    *,
    failing: set[date] | None = None,
) -> Days:
    """Return the days from MAGNETIS_START_DATE to yesterday; one of `failing` that is not loaded yet counts as failed.

    From the cache that the UI shows its bars from, brought up to date: thousands of days are one row and the events since.
    """
    from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

    partitions = daily_partitions(collection.kind, settings)
    cache = get_and_update_asset_status_cache_value(instance, asset_key(collection), partitions)
    if cache is None:
        held, failed, in_progress = set[date](), set[date](), set[date]()
    else:
        held = _dates(cache.deserialize_materialized_partition_subsets(partitions))
        failed = _dates(cache.deserialize_failed_partition_subsets(partitions))
        in_progress = _dates(cache.deserialize_in_progress_partition_subsets(partitions))
    failed = (failed - in_progress) | (in_progress & (failing or set()))
    closed = days_between(
        settings.start_date, datetime.now(settings.timezone).date() - timedelta(days=1)
    )
    missing = {
        day: FAILED if day in failed else NEVER_LOADED
        for day in closed
        if day not in held or day in failed
    }
    return Days(len(closed), missing, in_progress, min(held | failed | in_progress, default=None))


def _dates(subset: "PartitionsSubset[str]") -> set[date]:
    return {date.fromisoformat(key) for key in subset.get_partition_keys()}


def no_missing_days(catalogue: Catalogue, settings: Settings) -> AssetChecksDefinition:
    """Return the check of every enabled events collection; each can be run alone."""
    events = {
        asset_key(collection): collection
        for collection in catalogue.enabled
        if collection.is_events
    }
    specs = [
        AssetCheckSpec(
            NO_MISSING_DAYS,
            asset=key,
            description="Every closed day since the first requested one is green. No API call.",
        )
        for key in events
    ]

    @op(
        name=NO_MISSING_DAYS,
        description="Searches Dagster's own tables for closed days that are not green. No API call.",
        out={spec.get_python_identifier(): Out(None, is_required=False) for spec in specs},
        tags={"dagster/priority": "-1"},  # behind the loads of its run
    )
    def evaluate(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
        failed_steps = _wait_for_loads(
            context, {_step(collection) for collection in events.values()}
        )
        attempts = _attempts(context.instance)
        for key in sorted(
            check.asset_key for check in context.op_execution_context.selected_asset_check_keys
        ):
            collection = events[key]
            failing = set(days_of(context.run.tags)) if _step(collection) in failed_steps else set()
            yield _result(
                collection,
                settings,
                look(context.instance, collection, settings, failing=failing),
                attempts,
            )

    made: AssetChecksDefinition = AssetChecksDefinition.create(
        keys_by_input_name={},
        node_def=evaluate,
        check_specs_by_output_name={spec.get_python_identifier(): spec for spec in specs},
        can_subset=True,
        resource_defs={},
    )
    return made


def _wait_for_loads(context: AssetCheckExecutionContext, loads: set[str]) -> set[str]:
    """Return the loads of this run that failed. While one waits to resume, this step waits too, instead of reporting too early."""
    run = context.run
    ends = {
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.STEP_SKIPPED,
    }
    ended = {
        event.step_key: event.get_dagster_event()
        for event in context.instance.all_logs(run.run_id, of_type=ends)
    }
    plan = run.step_keys_to_execute or [node.name for node in context.job_def.nodes]
    if (loads & set(plan)) - ended.keys():
        raise RetryRequested(
            max_retries=FOR_EVER, seconds_to_wait=min(WAIT_SECONDS * 2**context.retry_number, 900.0)
        )
    return {str(step) for step, event in ended.items() if event.is_step_failure}


def _step(collection: Collection) -> str:
    return "__".join(asset_key(collection).path)


def _attempts(instance: DagsterInstance) -> Attempts:
    """Return what the repair sensor remembers."""
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.scheduler.instigation import SensorInstigatorData

    # without DAGSTER_HOME there is an instance for one command, which has no sensors
    for state in (
        instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if instance.schedule_storage
        else ()
    ):
        if state.instigator_name == REPAIR_SENSOR and isinstance(
            state.instigator_data, SensorInstigatorData
        ):
            return Attempts.parse(state.instigator_data.cursor)
    return Attempts({})


def given_up(collection: str, days: Days, attempts: Attempts, settings: Settings) -> list[date]:
    """Return the missing days that the repair sensor no longer requests."""
    return [
        day for day in days.missing if attempts.made(collection, day) >= settings.repair_attempts
    ]


def in_words(days: list[date]) -> str:
    """Return the days as at most ten ranges, newest first."""
    ranges = [
        f"{first}" if first == last else f"{first} to {last}"
        for first, last, _ in contiguous_ranges(dict.fromkeys(days))[::-1]
    ]
    more = f" and {len(ranges) - 10} more ranges" if len(ranges) > 10 else ""
    return ", ".join(ranges[:10]) + more


def _result(
    collection: Collection, settings: Settings, days: Days, attempts: Attempts
) -> AssetCheckResult:
    gaps, since = days.gaps, days.requested_from
    words = _all_green(days) if since else "No day was requested yet."
    metadata: dict[str, RawMetadataValue] = {
        "missing days": len(gaps),
        "closed days": days.requested,
        "days not requested": days.not_requested,
    }
    if gaps:
        lost = [day for day in given_up(collection.name, days, attempts, settings) if day in gaps]
        why = gaps | dict.fromkeys(
            lost, f"{REPAIR_SENSOR} gave up after {settings.repair_attempts} attempts"
        )
        ranges = contiguous_ranges(why)[::-1]
        are = "is" if len(gaps) == 1 else "are"
        words = f"{len(gaps):,} of {days.requested:,} closed days since {since} {are} not green. {_advice(collection)}"
        if lost:
            words += f" {REPAIR_SENSOR} gave up on {in_words(lost)}. Its runs contain the reasons; its page describes how to retry."
        metadata |= {
            "first missing": str(min(gaps)),
            "last missing": str(max(gaps)),
            "days given up": len(lost),
            "ranges": MetadataValue.table([_row(*range_) for range_ in ranges[:ROWS_SHOWN]]),
            "ranges not shown": max(0, len(ranges) - ROWS_SHOWN),
        }
    if days.not_requested:
        number = days.not_requested
        earlier = "1 earlier day was" if number == 1 else f"{number:,} earlier days were"
        words += (
            f" {earlier} never requested since {settings.start_date} (MAGNETIS_START_DATE); "
            f"`magnetis plan {collection.name} --missing` shows the price."
        )
    return AssetCheckResult(
        asset_key=asset_key(collection),
        check_name=NO_MISSING_DAYS,
        passed=not gaps,
        severity=AssetCheckSeverity.WARN,
        description=words,
        metadata=metadata,
    )


def _all_green(days: Days) -> str:
    if days.requested == 1:
        return f"The closed day {days.requested_from} is green."
    return f"All {days.requested:,} closed days since {days.requested_from} are green."


def _row(first: date, last: date, why: str) -> TableRecord:
    return TableRecord(
        {"from": str(first), "to": str(last), "days": (last - first).days + 1, "why": why}
    )


def _advice(collection: Collection) -> str:
    return (
        "Load them: Materialize on the asset's page, with *Backfill only failed and missing partitions within selection*; "
        f"or `magnetis plan {collection.name} --missing --launch`."
    )
