"""The sensor `repair_sensor`: asks again for closed days that are not green, a little at a time, in the backfill lane.

Newest first: that is what people look at, and what failed last night is there before history goes on. A range that failed is asked
again in shorter ones and at last day by day, so that a bad day keeps no good one away. Attempts are in the sensor's cursor.

https://docs.dagster.io/guides/automate/sensors
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from magnetis_dagster.catalog import Catalogue, Collection, Kind
from magnetis_dagster.dagster_support.partition_tags import days_tags
from magnetis_dagster.dagster_support.run_identity import LANE_TAG
from magnetis_dagster.dates import contiguous_ranges, days_between
from magnetis_dagster.defs.assets import asset_key
from magnetis_dagster.defs.job_names import JOB_NAMES, LOAD_LATEST
from magnetis_dagster.defs.missing_days import (
    REPAIR_SENSOR,
    STOP_DAYS,
    Days,
    given_up,
    in_words,
    look,
)
from magnetis_dagster.defs.repair_attempts import Attempts
from magnetis_dagster.defs.step_failures import skipped_on_failure
from magnetis_dagster.settings import Settings

REPAIR_TAG = "magnetis/repair"
"""On each run of the sensor: which attempt it is."""
INTERVAL_SECONDS = 3600
MOST_RUNS = 3
"""Runs of the sensor at a time, over all collections; one of each collection."""
MOST_DAYS = 31

_UNFINISHED = [
    status
    for status in DagsterRunStatus
    if status not in {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
]


class Wanted(NamedTuple):
    """A range to ask for next."""

    last: date
    first: date
    made: int
    """Attempts made before."""
    collection: Collection


def repair_sensor(catalogue: Catalogue, settings: Settings) -> SensorDefinition:
    """Return the sensor, off until somebody switches it on."""
    events = [collection for collection in catalogue.enabled if collection.is_events]

    @sensor(
        name=REPAIR_SENSOR,
        job_name=JOB_NAMES[Kind.EVENTS],
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.STOPPED,
        description=_description(settings),
    )
    def repair(context: SensorEvaluationContext) -> SensorResult:
        return skipped_on_failure(
            lambda: _tick(context.instance, Attempts.parse(context.cursor), events, settings)
        )

    return repair


def _tick(
    instance: DagsterInstance, attempts: Attempts, events: list[Collection], settings: Settings
) -> SensorResult:
    runs = instance.get_runs(RunsFilter(statuses=_UNFINISHED))
    days = {collection.name: look(instance, collection, settings) for collection in events}
    attempts = attempts.only({name: seen.missing for name, seen in days.items()})
    busy = _busy(instance, runs, events) | {name for name, seen in days.items() if seen.in_progress}

    wanted = sorted(
        (
            found
            for collection in events
            if collection.name not in busy
            if (
                found := _next_range(
                    collection, days[collection.name], attempts, settings.repair_attempts
                )
            )
        ),
        key=lambda range_: (range_.last, range_.first),
        reverse=True,
    )
    free = MOST_RUNS - sum(1 for run in runs if REPAIR_TAG in run.tags)
    requests = []
    for each in wanted[: max(0, free)]:
        attempts.add(each.collection.name, days_between(each.first, each.last))
        requests.append(_request(each, settings.repair_attempts))
    if requests:
        return SensorResult(run_requests=requests, cursor=attempts.cursor())
    return SensorResult(
        skip_reason=_why_nothing(days, attempts, busy, len(wanted), settings),
        cursor=attempts.cursor(),
    )


def _next_range(collection: Collection, days: Days, attempts: Attempts, most: int) -> Wanted | None:
    """Return the newest range of days with as many attempts, as long as that number allows: of three attempts 31 days, 6, 1."""
    made = {day: attempts.made(collection.name, day) for day in days.missing}
    tried = {day: number for day, number in made.items() if number < most}
    if not tried or len(made) - len(tried) >= STOP_DAYS:
        return None
    first, last, number = contiguous_ranges(tried)[-1]
    length = round(MOST_DAYS ** (1 - number / (most - 1)))
    return Wanted(last, max(first, last - timedelta(days=length - 1)), number, collection)


def _request(wanted: Wanted, most: int) -> RunRequest:
    attempt = f"{wanted.made + 1} of {most}"
    return RunRequest(
        # Dagster remembers keys for ever: with the moment in it, a day that is missing again later is asked for again
        run_key=f"{wanted.collection.name} {wanted.first} {wanted.last}, attempt {attempt}, {datetime.now(UTC).isoformat()}",
        asset_selection=[asset_key(wanted.collection)],
        tags={**days_tags(wanted.first, wanted.last), LANE_TAG: "backfill", REPAIR_TAG: attempt},
    )


def _busy(
    instance: DagsterInstance, runs: Sequence[DagsterRun], events: list[Collection]
) -> set[str]:
    """Return the collections that an unfinished run or backfill is about."""
    from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

    under_way = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
    backfills = instance.get_backfills(filters=BulkActionsFilter(statuses=under_way))
    every = {asset_key(collection) for collection in events}
    keys = set()
    for run in runs:
        keys |= set(
            run.asset_selection
            or (every if run.job_name in {JOB_NAMES[Kind.EVENTS], LOAD_LATEST} else ())
        )
    for backfill in backfills:
        keys |= set(backfill.asset_selection or every)
    return {collection.name for collection in events if asset_key(collection) in keys}


def _why_nothing(
    days: Mapping[str, Days], attempts: Attempts, busy: set[str], wanted: int, settings: Settings
) -> str:
    if not any(seen.missing for seen in days.values()):
        return f"Every closed day since {settings.start_date} is green."
    words = []
    if waiting := sorted(name for name in busy if days[name].missing):
        words.append(f"A run or a backfill is under way over {', '.join(waiting)}.")
    if wanted:
        words.append(f"{MOST_RUNS} runs of this sensor are under way.")
    for name, seen in days.items():
        if lost := given_up(name, seen, attempts, settings):
            stopped = (
                f" Nothing else of {name} is asked for until its cursor is reset."
                if len(lost) >= STOP_DAYS
                else ""
            )
            words.append(
                f"{name}: given up after {settings.repair_attempts} attempts: {in_words(lost)}.{stopped}"
            )
    return " ".join(words)


def _description(settings: Settings) -> str:
    return (
        f"Every hour, requests the closed days since {settings.start_date} that are not green, newest first: "
        f"at most {MOST_RUNS} runs at a time, each of at most {MOST_DAYS} contiguous days of one collection, in the backfill lane. "
        "Days that were never loaded are missing too: once switched on, it loads history step by step. "
        "It skips a collection while a run or a backfill over it is queued or running. "
        f"It requests a day at most {settings.repair_attempts} times (MAGNETIS_REPAIR_ATTEMPTS), then gives it up; "
        f"after {STOP_DAYS} days given up, it skips that collection. The tick and the check no_missing_days name the days given "
        f"up. To retry them, set this sensor's cursor to {{}} on this page, "
        f"or `dagster sensor cursor {REPAIR_SENSOR} --delete`."
    )
