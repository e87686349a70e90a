"""The check `no_missing_days` on every events collection: reports closed days that are not green.

A gap after the first requested day is a fault; history that nobody has requested is not.

One step checks all collections. It does not depend on the loads: Dagster skips a step if its
upstream failed or logged its days without an output. It sends no API request.

https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Iterator
from datetime import date

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.catalog import Collection
from magnetis_dagster.dagster_support.partition_tags import days_of
from magnetis_dagster.dates import contiguous_ranges
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.missing_days import ClosedDays, format_ranges, read_closed_days
from magnetis_dagster.defs.repair_attempts import (
    REPAIR_SENSOR,
    Attempts,
    given_up_days,
    stored_attempts,
)
from magnetis_dagster.defs.step_failures import UNLIMITED, steps_of_run

NO_MISSING_DAYS = "no_missing_days"
ROWS_SHOWN = 50
WAIT_SECONDS, MAX_WAIT_SECONDS = 30.0, 900.0


def no_missing_days(assets: ConnectionAssets) -> dg.AssetChecksDefinition:
    """Return the check of every enabled events collection; each can be run alone."""
    events = {assets.key(each): each for each in assets.events}
    description = "Every closed day since the first requested one is green. No API call."
    specs = [
        dg.AssetCheckSpec(NO_MISSING_DAYS, asset=key, description=description) for key in events
    ]
    specs_by_output = {spec.get_python_identifier(): spec for spec in specs}

    @dg.op(
        name=assets.connection.scoped(NO_MISSING_DAYS),
        description="Finds closed days that are not green, in Dagster's own tables. No API call.",
        out={name: dg.Out(None, is_required=False) for name in specs_by_output},
        tags={"dagster/priority": "-1"},  # after the loads of its run
    )
    def evaluate(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        op_context = context.op_execution_context
        failed_loads = _wait_for_loads(op_context, {key.to_python_identifier() for key in events})
        attempts = stored_attempts(context.instance, assets.connection)
        for key in sorted(check.asset_key for check in op_context.selected_asset_check_keys):
            failed = (
                set(days_of(context.run.tags))
                if key.to_python_identifier() in failed_loads
                else set()
            )
            days = read_closed_days(context.instance, key, assets.settings, failed=failed)
            yield _result(assets, events[key], days, attempts)

    definition: dg.AssetChecksDefinition = dg.AssetChecksDefinition.create(
        keys_by_input_name={},
        node_def=evaluate,
        check_specs_by_output_name=specs_by_output,
        can_subset=True,
        resource_defs={},
    )
    return definition


def _wait_for_loads(context: dg.OpExecutionContext, loads: set[str]) -> set[str]:
    """Return the loads of this run that failed. Retries this step until all loads have ended.

    A load may wait for its retry; a result before that would be premature.
    """
    planned, ended = steps_of_run(context)
    if (loads & planned) - ended.keys():
        seconds = min(WAIT_SECONDS * 2**context.retry_number, MAX_WAIT_SECONDS)
        raise dg.RetryRequested(max_retries=UNLIMITED, seconds_to_wait=seconds)
    return {str(step) for step, event in ended.items() if event.is_step_failure}


def _result(
    assets: ConnectionAssets, collection: Collection, days: ClosedDays, attempts: Attempts
) -> dg.AssetCheckResult:
    settings, connection = assets.settings, assets.connection
    sensor = connection.scoped(REPAIR_SENSOR)
    option = "" if connection.is_unnamed else f" --connection {connection.name}"
    gaps, earlier = days.gaps, days.not_requested
    requested = days.closed - earlier
    metadata: dict[str, RawMetadataValue] = {
        "missing days": len(gaps),
        "closed days": requested,
        "days not requested": earlier,
    }
    if gaps:
        words = (
            f"{len(gaps):,} of {requested:,} closed days since {days.requested_from} "
            f"{'is' if len(gaps) == 1 else 'are'} not green. To load them, select Materialize on "
            "the asset's page, with *Backfill only failed and missing partitions within "
            f"selection*, or run `magnetis plan {collection.name} --missing --launch{option}`."
        )
        given_up = given_up_days(collection.name, gaps, attempts, settings)
        if given_up:
            words += (
                f" {sensor} gave up on {format_ranges(given_up)}. "
                "Its runs contain the reasons; its page describes how to retry."
            )
        metadata |= _gaps_metadata(
            gaps, given_up, f"{sensor} gave up after {settings.repair_attempts} attempts"
        )
    elif not days.requested_from:
        words = "No day was requested yet."
    elif requested == 1:
        words = f"The closed day {days.requested_from} is green."
    else:
        words = f"All {requested:,} closed days since {days.requested_from} are green."
    if earlier:
        words += (
            f" {'1 earlier day was' if earlier == 1 else f'{earlier:,} earlier days were'} never "
            f"requested since {settings.start_date} (MAGNETIS_START_DATE). "
            f"`magnetis plan {collection.name} --missing{option}` shows their price in API calls."
        )
    return dg.AssetCheckResult(
        asset_key=assets.key(collection),
        check_name=NO_MISSING_DAYS,
        passed=not gaps,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata=metadata,
    )


def _gaps_metadata(
    gaps: dict[date, str], given_up: list[date], gave_up: str
) -> dict[str, RawMetadataValue]:
    ranges = contiguous_ranges(gaps | dict.fromkeys(given_up, gave_up))[::-1]
    rows = [
        dg.TableRecord(
            {"from": str(first), "to": str(last), "days": (last - first).days + 1, "why": why}
        )
        for first, last, why in ranges[:ROWS_SHOWN]
    ]
    return {
        "first missing": str(min(gaps)),
        "last missing": str(max(gaps)),
        "days given up": len(given_up),
        "ranges": dg.MetadataValue.table(rows),
        "ranges not shown": len(ranges) - len(rows),
    }
