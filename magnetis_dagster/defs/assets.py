"""Assets, one per collection, all from one factory. https://docs.dagster.io/guides/build/assets

A step loads its partitions as ranges of days. It logs a materialization when a day is committed, so
loaded days stay green if the run stops early. It returns no output, which would double the events.
"""

import warnings
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING

import dagster as dg

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.dagster_support.partition_tags import days_of
from magnetis_dagster.dagster_support.run_identity import identity_of
from magnetis_dagster.dagster_support.run_retries import begin_attempt, record_progress
from magnetis_dagster.defs.checks import LoadChecks, check_specs
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.defs.metadata import asset_metadata, day_metadata
from magnetis_dagster.defs.partitions import daily_partitions
from magnetis_dagster.defs.policies import PolicyChecks
from magnetis_dagster.defs.references import with_references
from magnetis_dagster.defs.resources import MagnetisResource
from magnetis_dagster.defs.step_failures import as_failure, failure
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from magnetis_dagster.ingest import Ingestion, WindowResult

POOL = "magnetis_api"
OWNER = "team:call-tracking"
KIND_TAG = "magnetis/kind"
"""`events` or `snapshot`: commands select assets with the same partitions by it."""


def asset_key(collection: Collection) -> dg.AssetKey:
    """Return the key `magnetis/<collection>`."""
    return dg.AssetKey(["magnetis", collection.name])


def collection_asset(
    collection: Collection,
    settings: Settings,
    catalogue: Catalogue,
    taken: Sequence[date] | None = None,
) -> dg.AssetsDefinition:
    """Return the asset of one collection of the catalogue; `taken` as in `daily_partitions`."""
    key, policy_checks = asset_key(collection), PolicyChecks(catalogue, collection, settings)
    with warnings.catch_warnings():
        # `backfill_policy` is marked beta: each process would print 18 warnings at its start
        warnings.simplefilter("ignore", dg.BetaWarning)

        @dg.asset(
            key=key,
            group_name=collection.family,
            description=literal(collection.description),
            owners=[OWNER],
            kinds={"magnetis", "postgres"},
            tags={KIND_TAG: collection.kind.value},
            metadata=asset_metadata(collection),
            partitions_def=daily_partitions(collection.kind, settings, taken),
            backfill_policy=dg.BackfillPolicy.single_run(),
            check_specs=[*check_specs(key), *policy_checks.specs(key)],
            freshness_policy=_freshness(settings.timezone.key),
            pool=POOL,
            output_required=False,
        )
        def load(
            context: dg.AssetExecutionContext, magnetis: MagnetisResource
        ) -> Iterator[dg.AssetCheckResult]:
            days = days_of(context.run.tags)
            # a single day may no longer be a partition: the load explains that, the keys would fail
            if len(days) != 1:
                days = [date.fromisoformat(day) for day in context.partition_keys]
            op_context = context.op_execution_context
            yield from load_days(op_context, magnetis, collection, days, policy_checks)

        return with_references(load, collection, catalogue.references_of(collection))


def load_days(
    context: dg.OpExecutionContext,
    magnetis: MagnetisResource,
    collection: Collection,
    days: list[date],
    policy_checks: PolicyChecks,
) -> Iterator[dg.AssetCheckResult]:
    """Load the days, log a materialization for each committed day, and yield the check results."""
    from magnetis_dagster.defs.quota import log_quota
    from magnetis_dagster.ingest import IncompleteWindow
    from magnetis_dagster.warehouse import CountMismatch

    key = asset_key(collection)
    totals = LoadChecks(key)
    if warning := begin_attempt(context.instance, context.run):
        context.log.warning(warning)
    on_progress = partial(record_progress, context.instance, context.run.run_id)
    with as_failure(context, magnetis.quota_recheck_seconds):
        run = identity_of(context.run, step_retry=context.retry_number)
        logged = _days_already_logged(context, key) if run.resumes else set()
        with magnetis.ingestion(run, context.log.info, on_progress) as ingestion:
            try:
                for window in _windows(ingestion, collection, days):
                    totals.add(window)
                    _log_days(context, collection, window, logged)
            except (IncompleteWindow, CountMismatch) as error:
                yield totals.incomplete(error)
                if isinstance(error, CountMismatch):
                    raise
                # The window was read three times already: a retry would cost three times as much.
                raise failure(error) from None
            totals.forecast = ingestion.forecast(collection)
            counts = totals.counts(collection, ingestion.reconcile(collection, days))
        # before the policies, which fail if the database is unavailable
        yield from totals.results()
        yield counts
        yield from policy_checks.results(context, key)
    log_quota(context)


def _windows(
    ingestion: "Ingestion", collection: Collection, days: list[date]
) -> "Iterator[WindowResult]":
    if collection.is_events:
        yield from ingestion.read_days(collection, days)
        return
    for day in days:
        yield ingestion.read_snapshot(collection, day)


def _days_already_logged(context: dg.OpExecutionContext, key: dg.AssetKey) -> set[str]:
    """Return the partitions that an earlier attempt of this step has logged in this run.

    A step retry does not log them again. A run retry is a new run and logs every day: Dagster shows
    planned days that a run did not log as failed.
    """
    events = context.instance.all_logs(
        context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    logged = (event.asset_materialization for event in events)
    return {each.partition for each in logged if each and each.asset_key == key and each.partition}


def _log_days(
    context: dg.OpExecutionContext, collection: Collection, window: "WindowResult", logged: set[str]
) -> None:
    for day in window.days:
        if window.skipped and day.day.isoformat() in logged:
            continue
        counts = f"{day.inserted} new, {day.changed} changed, {day.deleted} deleted"
        context.log_event(
            dg.AssetMaterialization(
                asset_key=asset_key(collection),
                partition=day.day.isoformat(),
                description=f"{day.day}: {day.rows} rows, {counts}",
                metadata=day_metadata(collection, window, day),
            )
        )
    rows = sum(day.rows for day in window.days)
    cost = f"{window.api_calls} API calls, {window.seconds:.1f} s"
    if window.skipped:
        cost = "already loaded, no request sent"
    context.log.info(
        f"{collection.name} {window.window}: {rows} rows; {cost}; "
        f"{window.quota_left} API calls left today"
    )


@cache
def _freshness(zone: str) -> dg.FreshnessPolicy:
    # Cached, because Dagster evaluates 1,000 ticks of each policy: two thirds of `build_defs`.
    # The schedules start between midnight and 01:30, so the tables are fresh by 06:00.
    return dg.FreshnessPolicy.cron(
        deadline_cron="0 6 * * *", lower_bound_delta=timedelta(hours=6), timezone=zone
    )
