"""Jobs: what a schedule launches, and the tags that say for which days. https://docs.dagster.io/guides/build/jobs"""

from collections.abc import Mapping
from datetime import date

from dagster import AssetSelection, define_asset_job
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from magnetis_dagster.catalog import Catalogue, Kind
from magnetis_dagster.defs.assets import asset_key
from magnetis_dagster.defs.attempts import between

PARTITION = "dagster/partition"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

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


def days_tags(first: date, last: date) -> dict[str, str]:
    """Return the tags of one run over the days `first` to `last`, inclusive."""
    if first == last:
        return {PARTITION: first.isoformat()}
    return {RANGE_START: first.isoformat(), RANGE_END: last.isoformat()}


def days_of(tags: Mapping[str, str]) -> list[date]:
    """Return the days of a run with these tags; none for a run without partitions."""
    first = tags.get(RANGE_START) or tags.get(PARTITION)
    last = tags.get(RANGE_END) or first
    return between(date.fromisoformat(first), date.fromisoformat(last)) if first and last else []
