"""The sensor `repair_sensor`: requests closed days that are not green, in small backfill runs.

The newest days come first. If a range fails, the next attempts request shorter ranges and finally
single days, so that one bad day does not block the others. The cursor stores the attempts.

https://docs.dagster.io/guides/automate/sensors
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from magnetis_dagster.catalog import Collection, Kind
from magnetis_dagster.dagster_support.partition_tags import days_tags
from magnetis_dagster.dagster_support.run_identity import LANE_TAG, SENSOR_TAG
from magnetis_dagster.dates import contiguous_ranges, days_between
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.job_names import JOB_NAMES, LOAD_LATEST
from magnetis_dagster.defs.missing_days import ClosedDays, format_ranges, read_closed_days
from magnetis_dagster.defs.repair_attempts import REPAIR_SENSOR, Attempts, given_up_days
from magnetis_dagster.defs.step_failures import skipped_on_failure
from magnetis_dagster.settings import Settings

# an unknown status of a later Dagster counts as unfinished
_UNFINISHED = [status for status in dg.DagsterRunStatus if status not in FINISHED_STATUSES]
REPAIR_TAG = "magnetis/repair"
"""On each run of the sensor: the number of the attempt."""
INTERVAL_SECONDS = 3600
MAX_RUNS = 3
"""Runs of the sensor at a time, over all collections; at most one per collection."""
MAX_DAYS = 31
"""Days of one run."""
STOP_DAYS = 7
"""If this many days of a collection are given up, the sensor skips the collection."""


class RepairRange(NamedTuple):
    """A range of days to request next."""

    last: date
    first: date
    attempts: int
    """Earlier attempts."""
    collection: Collection


def repair_sensor(assets: ConnectionAssets) -> dg.SensorDefinition:
    """Return the sensor, off by default."""
    connection = assets.connection

    @dg.sensor(
        name=connection.scoped(REPAIR_SENSOR),
        job_name=connection.scoped(JOB_NAMES[Kind.EVENTS]),
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=_description(assets),
    )
    def repair(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return skipped_on_failure(
            lambda: _tick(context.instance, Attempts.parse(context.cursor), assets)
        )

    return repair


def _tick(
    instance: dg.DagsterInstance, attempts: Attempts, assets: ConnectionAssets
) -> dg.SensorResult:
    events, settings = assets.events, assets.settings
    name = assets.connection.scoped(REPAIR_SENSOR)
    runs = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
    days = {each.name: read_closed_days(instance, assets.key(each), settings) for each in events}
    attempts = attempts.keep_only({name: closed.missing for name, closed in days.items()})
    busy = _busy(instance, runs, assets)
    busy |= {name for name, closed in days.items() if closed.in_progress}
    ranges = [
        range_
        for each in events
        if each.name not in busy
        and (range_ := _next_range(each, days[each.name].missing, attempts, settings))
    ]
    ranges.sort(key=lambda range_: (range_.last, range_.first), reverse=True)
    free = MAX_RUNS - sum(run.tags.get(SENSOR_TAG) == name for run in runs)
    chosen = ranges[: max(0, free)]
    for each in chosen:
        attempts.add(each.collection.name, days_between(each.first, each.last))
    return dg.SensorResult(
        run_requests=[_request(each, assets) for each in chosen],
        skip_reason=None if chosen else _skip_reason(days, attempts, busy, len(ranges), settings),
        cursor=attempts.cursor(),
    )


def _next_range(
    collection: Collection, missing: Iterable[date], attempts: Attempts, settings: Settings
) -> RepairRange | None:
    """Return the newest range of days with the same number of attempts; None if none is left.

    Its length falls with each attempt. With three attempts, it is at most 31, 6, then 1 days.
    """
    counts = {day: attempts.count(collection.name, day) for day in missing}
    remaining = {day: count for day, count in counts.items() if count < settings.repair_attempts}
    if not remaining or len(counts) - len(remaining) >= STOP_DAYS:
        return None
    first, last, number = contiguous_ranges(remaining)[-1]
    length = round(MAX_DAYS ** (1 - number / (settings.repair_attempts - 1)))
    return RepairRange(last, max(first, last - timedelta(days=length - 1)), number, collection)


def _request(range_: RepairRange, assets: ConnectionAssets) -> dg.RunRequest:
    last, first, attempts, collection = range_
    attempt = f"{attempts + 1} of {assets.settings.repair_attempts}"
    # Dagster remembers run keys permanently. With the time in the key, a day that is missing again
    # later is requested again.
    now = datetime.now(UTC).isoformat()
    return dg.RunRequest(
        run_key=f"{collection.name} {first} {last}, attempt {attempt}, {now}",
        asset_selection=[assets.key(collection)],
        tags={**days_tags(first, last), LANE_TAG: "backfill", REPAIR_TAG: attempt},
    )


def _busy(
    instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun], assets: ConnectionAssets
) -> set[str]:
    """Return the collections in unfinished runs and backfills."""
    from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

    unfinished = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
    backfills = instance.get_backfills(filters=BulkActionsFilter(statuses=unfinished))
    every = {assets.key(each) for each in assets.events}
    jobs_over_all = {
        assets.connection.scoped(name) for name in (JOB_NAMES[Kind.EVENTS], LOAD_LATEST)
    }
    keys = set().union(
        *(run.asset_selection or (every if run.job_name in jobs_over_all else ()) for run in runs),
        *(
            each.asset_selection or (every if each.job_name in {None, *jobs_over_all} else ())
            for each in backfills
        ),
    )
    return {each.name for each in assets.events if assets.key(each) in keys}


def _skip_reason(
    days: Mapping[str, ClosedDays],
    attempts: Attempts,
    busy: set[str],
    ranges: int,
    settings: Settings,
) -> str:
    if not any(closed.missing for closed in days.values()):
        return f"Every closed day since {settings.start_date} is green."
    sentences = []
    if names := sorted(name for name in busy if days[name].missing):
        sentences.append(f"A run or a backfill over {', '.join(names)} is queued or running.")
    if ranges:
        sentences.append(f"{MAX_RUNS} runs of this sensor are queued or running.")
    for name, closed in days.items():
        if given_up := given_up_days(name, closed.missing, attempts, settings):
            sentences.append(
                f"{name}: gave up after {settings.repair_attempts} attempts on "
                f"{format_ranges(given_up)}."
            )
            if len(given_up) >= STOP_DAYS:
                sentences.append(f"{name} is skipped until the cursor of this sensor is reset.")
    return " ".join(sentences)


def _description(assets: ConnectionAssets) -> str:
    settings, name = assets.settings, assets.connection.scoped(REPAIR_SENSOR)
    return (
        f"Every hour, requests the closed days since {settings.start_date} that are not green, "
        f"newest first: at most {MAX_RUNS} runs at a time, each of at most {MAX_DAYS} contiguous "
        "days of one collection, in the backfill lane. Days that were never loaded are not green, "
        "so the sensor also loads history step by step. It skips a collection while a run or a "
        "backfill over it is queued or running. It requests a day at most "
        f"{settings.repair_attempts} times (MAGNETIS_REPAIR_ATTEMPTS), then gives it up. If "
        f"{STOP_DAYS} days of a collection are given up, it skips the collection. The skip reason "
        "and the check no_missing_days name the days given up. To retry them, set this sensor's "
        f"cursor to {{}} on this page, or run `dagster sensor cursor {name} --delete`."
    )
