"""The jobs of the schedules, and one that loads the newest day of every collection.

https://docs.dagster.io/guides/build/jobs
"""

from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from magnetis_dagster.catalog import Collection, Kind
from magnetis_dagster.defs.assets import POOL, load_days
from magnetis_dagster.defs.checks import as_evaluation
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.job_names import JOB_NAMES, LOAD_LATEST
from magnetis_dagster.defs.resources import RESOURCE

# A run retry would load the same days with the same result; a step retries if its error is
# transient.
_TAGS = {"dagster/retry_on_asset_or_op_failure": "false"}


def daily_job(assets: ConnectionAssets, kind: Kind) -> UnresolvedAssetJobDefinition | None:
    """Return the daily job over every enabled collection of that kind; None without any."""
    chosen = [assets.key(each) for each in assets.collections if each.kind is kind]
    if not chosen:
        return None
    what = {
        Kind.EVENTS: "a range of days of every events collection",
        Kind.SNAPSHOT: "today's state of every snapshot collection",
    }[kind]
    return dg.define_asset_job(
        name=assets.connection.scoped(JOB_NAMES[kind]),
        selection=dg.AssetSelection.assets(*chosen),
        description=f"Loads {what}.",
        tags=_TAGS,
        executor_def=dg.in_process_executor,
    )


def load_latest_job(assets: ConnectionAssets) -> dg.JobDefinition:
    """Return the job `load_latest`: yesterday's events and today's snapshots in one run.

    Dagster refuses an asset job over assets with different partitions. So it consists of ops, which
    log the same materializations and check results.
    """

    @dg.job(
        name=assets.connection.scoped(LOAD_LATEST),
        description="Loads yesterday of every events collection and today's state of every "
        "snapshot collection. Needs no partition.",
        tags=_TAGS,
        executor_def=dg.in_process_executor,
    )
    def load_latest() -> None:
        for collection in assets.collections:
            _load_latest_op(assets, collection)()

    return load_latest


def _load_latest_op(assets: ConnectionAssets, collection: Collection) -> dg.OpDefinition:
    connection, settings = assets.connection, assets.settings

    @dg.op(
        name=connection.scoped(f"latest_{collection.name}"),
        description=collection.description,
        required_resource_keys={connection.scoped(RESOURCE)},
        pool=connection.scoped(POOL),
    )
    def load(context: dg.OpExecutionContext) -> None:
        today = datetime.now(settings.timezone).date()
        day = today - timedelta(days=1) if collection.is_events else today
        if collection.is_events and day < settings.start_date:
            context.log.info(
                f"No day since MAGNETIS_START_DATE ({settings.start_date}) has ended yet."
            )
            return
        for result in load_days(context, assets, collection, [day]):
            context.log_event(as_evaluation(result))  # type: ignore[arg-type]  # as in quota.py

    return load
