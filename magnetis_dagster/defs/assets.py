"""Assets, one per collection, all from one factory. https://docs.dagster.io/guides/build/assets

A step reads its partitions as ranges. Each day that is committed is logged as a materialization at once, so a run that stops early
leaves the finished days green; the step itself returns no output (logging days and returning a result doubles the events).
"""

import warnings
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetsDefinition,
    BackfillPolicy,
    BetaWarning,
    DagsterEventType,
    FreshnessPolicy,
    OpExecutionContext,
    asset,
)

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.dagster_support.partition_tags import days_of
from magnetis_dagster.dagster_support.run_identity import identity_of
from magnetis_dagster.dagster_support.run_retries import begin_attempt, record_progress
from magnetis_dagster.defs.checks import CheckTally, check_specs
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.defs.metadata import asset_metadata, day_metadata
from magnetis_dagster.defs.partitions import daily_partitions
from magnetis_dagster.defs.policies import Demands
from magnetis_dagster.defs.references import with_references
from magnetis_dagster.defs.resources import MagnetisResource
from magnetis_dagster.defs.step_failures import as_failure, failure
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from magnetis_dagster.ingest import Ingestion, WindowResult

POOL = "magnetis_api"
OWNER = "team:call-tracking"
KIND_TAG = "magnetis/kind"
"""On each asset: `events` or `snapshot`, by which commands select assets that have the same partitions."""


def asset_key(collection: Collection) -> AssetKey:
    """Return the key `magnetis/<collection>`."""
    return AssetKey(["magnetis", collection.name])


def collection_asset(
    collection: Collection,
    settings: Settings,
    catalogue: Catalogue,
    taken: Sequence[date] | None = None,
) -> AssetsDefinition:
    """Return the asset of one collection of the catalogue; `taken`: days on which snapshots were taken, None if unknown."""
    with warnings.catch_warnings():
        # `backfill_policy` is marked beta: 18 warnings at each start of each process would tell nobody anything
        warnings.simplefilter("ignore", BetaWarning)
        return with_references(
            _asset(collection, settings, catalogue, taken),
            collection,
            catalogue.references_of(collection),
        )


def _asset(
    collection: Collection, settings: Settings, catalogue: Catalogue, taken: Sequence[date] | None
) -> AssetsDefinition:
    key, demands = asset_key(collection), Demands(catalogue, collection, settings)

    @asset(
        key=key,
        group_name=collection.family,
        description=literal(collection.description),
        owners=[OWNER],
        kinds={"magnetis", "postgres"},
        tags={KIND_TAG: collection.kind.value},
        metadata=asset_metadata(collection),
        partitions_def=daily_partitions(collection.kind, settings, taken),
        backfill_policy=BackfillPolicy.single_run(),
        check_specs=[*check_specs(key), *demands.specs(key)],
        freshness_policy=_freshness(settings.timezone.key),
        pool=POOL,
        output_required=False,
    )
    def load(
        context: AssetExecutionContext, magnetis: MagnetisResource
    ) -> Iterator[AssetCheckResult]:
        days = days_of(context.run.tags)
        if (
            len(days) != 1
        ):  # one day may have ceased to be a partition: then the load says why, and Dagster would not
            days = [date.fromisoformat(day) for day in context.partition_keys]
        yield from load_days(context.op_execution_context, magnetis, collection, days, demands)

    return load


def load_days(
    context: OpExecutionContext,
    magnetis: MagnetisResource,
    collection: Collection,
    days: list[date],
    demands: Demands,
) -> Iterator[AssetCheckResult]:
    """Load the days, log each as a materialization when it is committed, and yield the results of the checks."""
    from magnetis_dagster.defs.quota import log_quota
    from magnetis_dagster.ingest import IncompleteWindow
    from magnetis_dagster.warehouse import CountMismatch

    key = asset_key(collection)
    tally = CheckTally(key)
    if warning := begin_attempt(context.instance, context.run):
        context.log.warning(warning)
    advanced = partial(record_progress, context.instance, context.run.run_id)
    with as_failure(context, magnetis.quota_recheck_seconds):
        run = identity_of(context.run, step_retry=context.retry_number)
        logged = _days_logged_before(context, key) if run.resumes else set()
        with magnetis.ingestion(run, context.log.info, advanced) as ingestion:
            try:
                for window in _windows(ingestion, collection, days):
                    tally.add(window)
                    _log_days(context, collection, window, logged)
            except (IncompleteWindow, CountMismatch) as error:
                yield tally.incomplete(error)
                if isinstance(error, CountMismatch):
                    raise
                # everything was read three times already: to read it again at once is three times the calls
                raise failure(error) from None
            tally.forecast = ingestion.forecast(collection)
            counts = tally.counts(collection, ingestion.reconcile(collection, days))
        # before a demand can fail for want of a database
        yield from tally.results()
        yield counts
        yield from demands.results(context, key)
    log_quota(context)


def _windows(
    ingestion: "Ingestion", collection: Collection, days: list[date]
) -> "Iterator[WindowResult]":
    if collection.is_events:
        yield from ingestion.read_days(collection, days)
        return
    for day in days:
        yield ingestion.read_snapshot(collection, day)


def _days_logged_before(context: OpExecutionContext, key: AssetKey) -> set[str]:
    """Return the partitions that an earlier try of this step has logged: it logs only what is missing.

    A retry of the run is a run of its own, and logs again what the first one did: Dagster takes days that a run was to load and
    has not logged for failed.
    """
    events = context.instance.all_logs(
        context.run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION
    )
    found = (event.asset_materialization for event in events)
    return {
        logged.partition
        for logged in found
        if logged and logged.asset_key == key and logged.partition
    }


def _log_days(
    context: OpExecutionContext, collection: Collection, window: "WindowResult", logged: set[str]
) -> None:
    for day in window.days:
        if window.skipped and day.day.isoformat() in logged:
            continue
        context.log_event(
            AssetMaterialization(
                asset_key=asset_key(collection),
                partition=day.day.isoformat(),
                description=f"{day.day}: {day.rows} rows, {day.inserted} new, {day.changed} changed, {day.deleted} deleted",
                metadata=day_metadata(collection, window, day),
            )
        )
    rows = sum(day.rows for day in window.days)
    done = (
        "loaded before, nothing was read"
        if window.skipped
        else f"{window.api_calls} API calls, {window.seconds:.1f} s"
    )
    context.log.info(
        f"{collection.name} {window.window}: {rows} rows; {done}; {window.quota_left} calls left today"
    )


@cache
def _freshness(zone: str) -> FreshnessPolicy:
    # once: Dagster walks through 1,000 ticks of each; two thirds of the time of `build_defs`, were there one for each asset.
    # Both schedules run between midnight and 01:30; six o'clock leaves them the night, and people a table before they come
    return FreshnessPolicy.cron(
        deadline_cron="0 6 * * *", lower_bound_delta=timedelta(hours=6), timezone=zone
    )
