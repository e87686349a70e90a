"""Daily partitions, in MAGNETIS_TIMEZONE. https://docs.dagster.io/guides/build/partitions-and-backfills

Events have a partition once their day has ended. A snapshot is the present, so today has a partition from its first minute.
"""

from dagster import DailyPartitionsDefinition

from magnetis_dagster.catalog import Collection, Kind
from magnetis_dagster.settings import Settings


def daily_partitions(kind: Kind, settings: Settings) -> DailyPartitionsDefinition:
    """Return the partitions of collections of that kind, from MAGNETIS_START_DATE on."""
    return DailyPartitionsDefinition(
        start_date=settings.start_date.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1 if kind is Kind.SNAPSHOT else 0,
    )


def asset_partitions(collection: Collection, settings: Settings) -> DailyPartitionsDefinition:
    """Return the partitions of one collection."""
    return daily_partitions(collection.kind, settings)
