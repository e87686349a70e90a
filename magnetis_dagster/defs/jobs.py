"""Jobs: what a schedule launches. https://docs.dagster.io/guides/build/jobs"""

from dagster import AssetSelection, define_asset_job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from magnetis_dagster.catalog import Catalogue, Kind
from magnetis_dagster.defs.assets import asset_key

JOB_NAMES = {Kind.EVENTS: "daily_events", Kind.SNAPSHOT: "daily_snapshots"}


def daily_job(catalogue: Catalogue, kind: Kind) -> UnresolvedAssetJobDefinition:
    """Return the job `daily_events` or `daily_snapshots` over every enabled collection of that kind."""
    chosen = [asset_key(collection) for collection in catalogue.enabled if collection.kind is kind]
    what = "a range of days of every events collection" if kind is Kind.EVENTS else "today's state of every snapshot collection"
    return define_asset_job(
        name=JOB_NAMES[kind],
        selection=AssetSelection.assets(*chosen),
        description=f"Loads {what}.",
        # a run retry would read the same days again for the same answer; steps are tried again where that can help
        tags={"dagster/retry_on_asset_or_op_failure": "false"},
    )
