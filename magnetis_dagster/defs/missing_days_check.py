"""The check `no_missing_days` on every events collection: reports closed days that are not green.

It counts from the first requested day, including requests by the schedule. A gap after that day is
a fault; history that nobody has requested is not.

One step checks all collections, so a run pays for it once, and it can be run alone. The step does
not depend on the loads: Dagster skips a step if its upstream failed or logged its days without an
output, which is when the check is needed most. It sends no API request.

https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Iterator
from datetime import date

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.dagster_support.partition_tags import days_of
from magnetis_dagster.dates import contiguous_ranges
from magnetis_dagster.defs.assets import asset_key
from magnetis_dagster.defs.missing_days import ClosedDays, format_ranges, read_closed_days
from magnetis_dagster.defs.repair_attempts import (
    REPAIR_SENSOR,
    Attempts,
    given_up_days,
    stored_attempts,
)
from magnetis_dagster.defs.step_failures import UNLIMITED
from magnetis_dagster.settings import Settings

NO_MISSING_DAYS = "no_missing_days"
ROWS_SHOWN = 50
WAIT_SECONDS, MAX_WAIT_SECONDS = 30.0, 900.0


def no_missing_days(catalogue: Catalogue, settings: Settings) -> dg.AssetChecksDefinition:
    """Return the check of every enabled events collection; each can be run alone."""
    events = {
        asset_key(collection): collection
        for collection in catalogue.enabled
        if collection.is_events
    }
    specs = {}
    for key in events:
        spec = dg.AssetCheckSpec(
            NO_MISSING_DAYS,
            asset=key,
            description="Every closed day since the first requested one is green. No API call.",
        )
        specs[spec.get_python_identifier()] = spec

    @dg.op(
        name=NO_MISSING_DAYS,
        description="Finds closed days that are not green, in Dagster's own tables. No API call.",
        out={name: dg.Out(None, is_required=False) for name in specs},
        tags={"dagster/priority": "-1"},  # after the loads of its run
    )
    def evaluate(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        failed_loads = _wait_for_loads(
            context, {_step(collection) for collection in events.values()}
        )
        attempts = stored_attempts(context.instance)
        selected = context.op_execution_context.selected_asset_check_keys
        for key in sorted(check.asset_key for check in selected):
            collection = events[key]
            failed = set(days_of(context.run.tags)) if _step(collection) in failed_loads else set()
            days = read_closed_days(context.instance, collection, settings, failed=failed)
            yield _result(collection, settings, days, attempts)

    definition: dg.AssetChecksDefinition = dg.AssetChecksDefinition.create(
        keys_by_input_name={},
        node_def=evaluate,
        check_specs_by_output_name=specs,
        can_subset=True,
        resource_defs={},
    )
    return definition


def _wait_for_loads(context: dg.AssetCheckExecutionContext, loads: set[str]) -> set[str]:
    """Return the loads of this run that failed. Retries this step until all loads have ended.

    A load may wait for its retry; a result before that would be premature.
    """
    run = context.run
    ends = {
        dg.DagsterEventType.STEP_SUCCESS,
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.STEP_SKIPPED,
    }
    ended = {
        event.step_key: event.get_dagster_event()
        for event in context.instance.all_logs(run.run_id, of_type=ends)
    }
    plan = run.step_keys_to_execute or [node.name for node in context.job_def.nodes]
    if (loads & set(plan)) - ended.keys():
        seconds = min(WAIT_SECONDS * 2**context.retry_number, MAX_WAIT_SECONDS)
        raise dg.RetryRequested(max_retries=UNLIMITED, seconds_to_wait=seconds)
    return {str(step) for step, event in ended.items() if event.is_step_failure}


def _step(collection: Collection) -> str:
    return "__".join(asset_key(collection).path)


def _result(
    collection: Collection, settings: Settings, days: ClosedDays, attempts: Attempts
) -> dg.AssetCheckResult:
    gaps = days.gaps
    words = _all_green(days) if days.requested_from else "No day was requested yet."
    metadata: dict[str, RawMetadataValue] = {
        "missing days": len(gaps),
        "closed days": days.requested,
        "days not requested": days.not_requested,
    }
    if gaps:
        given_up = given_up_days(collection.name, gaps, attempts, settings)
        reasons = gaps | dict.fromkeys(
            given_up, f"{REPAIR_SENSOR} gave up after {settings.repair_attempts} attempts"
        )
        ranges = contiguous_ranges(reasons)[::-1]
        words = f"{_some_missing(days)} {_advice(collection)}"
        if given_up:
            words += (
                f" {REPAIR_SENSOR} gave up on {format_ranges(given_up)}. "
                "Its runs contain the reasons; its page describes how to retry."
            )
        metadata |= {
            "first missing": str(min(gaps)),
            "last missing": str(max(gaps)),
            "days given up": len(given_up),
            "ranges": dg.MetadataValue.table([_row(*range_) for range_ in ranges[:ROWS_SHOWN]]),
            "ranges not shown": max(0, len(ranges) - ROWS_SHOWN),
        }
    if days.not_requested:
        number = days.not_requested
        earlier = "1 earlier day was" if number == 1 else f"{number:,} earlier days were"
        words += (
            f" {earlier} never requested since {settings.start_date} (MAGNETIS_START_DATE). "
            f"`magnetis plan {collection.name} --missing` shows their price in API calls."
        )
    return dg.AssetCheckResult(
        asset_key=asset_key(collection),
        check_name=NO_MISSING_DAYS,
        passed=not gaps,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata=metadata,
    )


def _some_missing(days: ClosedDays) -> str:
    number = len(days.gaps)
    are = "is" if number == 1 else "are"
    return (
        f"{number:,} of {days.requested:,} closed days since {days.requested_from} {are} not green."
    )


def _all_green(days: ClosedDays) -> str:
    if days.requested == 1:
        return f"The closed day {days.requested_from} is green."
    return f"All {days.requested:,} closed days since {days.requested_from} are green."


def _row(first: date, last: date, why: str) -> dg.TableRecord:
    return dg.TableRecord(
        {"from": str(first), "to": str(last), "days": (last - first).days + 1, "why": why}
    )


def _advice(collection: Collection) -> str:
    return (
        "To load them, select Materialize on the asset's page, with *Backfill only failed and "
        f"missing partitions within selection*, or run `magnetis plan {collection.name} --missing "
        "--launch`."
    )
