"""Daily partitions, in MAGNETIS_TIMEZONE. https://docs.dagster.io/guides/build/partitions-and-backfills

Events: each day since MAGNETIS_START_DATE that has ended is a partition. Snapshots: today is a
partition from midnight. So is each past day on which a snapshot was taken, according to the
database. Snapshots of other past days cannot be taken any more. They would stay missing, and a
backfill of them would always fail.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import dagster as dg

from magnetis_dagster.catalog import Kind
from magnetis_dagster.dates import days_between
from magnetis_dagster.settings import Settings


def daily_partitions(
    kind: Kind, settings: Settings, taken: Sequence[date] | None = None
) -> dg.DailyPartitionsDefinition:
    """Return the partitions of collections of that kind.

    `taken` contains the days on which snapshots were taken. If it is None (unknown), snapshots have
    every day since MAGNETIS_START_DATE.
    """
    first, exclusions = settings.start_date, []
    if kind is Kind.SNAPSHOT and taken is not None:
        today = datetime.now(settings.timezone).date()
        first = min([*taken, today])
        exclusions = [
            datetime(day.year, day.month, day.day, tzinfo=settings.timezone)
            for day in sorted({*days_between(first, today - timedelta(days=1))} - {*taken})
        ]
    return dg.DailyPartitionsDefinition(
        start_date=first.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1 if kind is Kind.SNAPSHOT else 0,
        exclusions=exclusions or None,
    )
