"""Assets, one per collection, all from one factory. https://docs.dagster.io/guides/build/assets

A step loads its partitions as ranges of days. It logs a materialization when a day is committed, so
loaded days stay green if the run stops early. It returns no output, which would double the events.
"""

import warnings
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from magnetis_dagster.catalog import Collection
from magnetis_dagster.dagster_support.partition_tags import days_of
from magnetis_dagster.dagster_support.run_identity import identity_of
from magnetis_dagster.dagster_support.run_retries import begin_attempt, record_progress
from magnetis_dagster.defs.checks import LoadChecks, check_specs
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.metadata import day_metadata
from magnetis_dagster.defs.policies import PolicyChecks
from magnetis_dagster.defs.references import with_lineage
from magnetis_dagster.defs.resources import RESOURCE, MagnetisResource
from magnetis_dagster.defs.step_failures import as_failure, failure

if TYPE_CHECKING:
    from magnetis_dagster.ingest import Ingestion, WindowResult

POOL = "magnetis_api"

Execute = Callable[
    [dg.AssetExecutionContext, Collection, list[date]], Iterator[dg.AssetCheckResult]
]
"""Loads days of a collection and yields the results of its checks."""


def collection_asset(
    assets: ConnectionAssets, collection: Collection, execute: Execute | None = None
) -> dg.AssetsDefinition:
    """Return the asset of one collection; `execute` replaces `load_days`."""
    spec, connection = assets.specs[collection.name], assets.connection
    policy_checks = PolicyChecks(connection, collection)
    with warnings.catch_warnings():
        # `backfill_policy` is marked beta: each process would print 18 warnings at its start
        warnings.simplefilter("ignore", dg.BetaWarning)

        @dg.multi_asset(
            name=spec.key.to_python_identifier(),
            description=spec.description,
            # the name that earlier versions gave: their queued runs contain it
            outs={
                "result": dg.AssetOut.from_spec(spec.replace_attributes(deps=[]), is_required=False)
            },
            partitions_def=spec.partitions_def,
            backfill_policy=dg.BackfillPolicy.single_run(),
            check_specs=[*check_specs(spec.key), *policy_checks.specs(spec.key)],
            pool=connection.scoped(POOL),
            required_resource_keys={connection.scoped(RESOURCE)},
        )
        def load(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult]:
            days = days_of(context.run.tags)
            # a single day may no longer be a partition: the load explains that, the keys would fail
            if len(days) != 1:
                days = [date.fromisoformat(day) for day in context.partition_keys]
            if execute:
                yield from execute(context, collection, days)
            else:
                yield from load_days(context.op_execution_context, assets, collection, days)

        return with_lineage(load, spec, assets)


def load_days(
    context: dg.OpExecutionContext,
    assets: ConnectionAssets,
    collection: Collection,
    days: list[date],
) -> Iterator[dg.AssetCheckResult]:
    """Load the days, log a materialization for each committed day, and yield the check results."""
    from magnetis_dagster.defs.quota import log_quota
    from magnetis_dagster.ingest import IncompleteWindow
    from magnetis_dagster.warehouse import CountMismatch

    key, connection = assets.key(collection), assets.connection
    magnetis: MagnetisResource = getattr(context.resources, connection.scoped(RESOURCE))
    policy_checks, totals = PolicyChecks(connection, collection), LoadChecks(key)
    if warning := begin_attempt(context.instance, context.run):
        context.log.warning(warning)
    on_progress = partial(record_progress, context.instance, context.run.run_id)
    with as_failure(context, magnetis.quota_recheck_seconds):
        run = identity_of(context.run, step_retry=context.retry_number)
        logged = _days_already_logged(context, key) if run.resumes else set()
        with magnetis.ingestion(connection, run, context.log.info, on_progress) as ingestion:
            try:
                for window in _windows(ingestion, collection, days):
                    totals.add(window)
                    _log_days(context, key, collection, window, logged)
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
        yield from policy_checks.results(context, assets)
    log_quota(context, assets)


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
    context: dg.OpExecutionContext,
    key: dg.AssetKey,
    collection: Collection,
    window: "WindowResult",
    logged: set[str],
) -> None:
    for day in window.days:
        if window.skipped and day.day.isoformat() in logged:
            continue
        counts = f"{day.inserted} new, {day.changed} changed, {day.deleted} deleted"
        context.log_event(
            dg.AssetMaterialization(
                asset_key=key,
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
