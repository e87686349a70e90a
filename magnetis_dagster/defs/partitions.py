"""Daily partitions, in MAGNETIS_TIMEZONE. https://docs.dagster.io/guides/build/partitions-and-backfills

Events: each day since MAGNETIS_START_DATE that has ended is a partition. Snapshots: today is a
partition from midnight, and so is each past day on which a snapshot was taken. Other past days are
not, because their snapshots cannot be taken any more: they would stay missing, and a backfill of
them would always fail.

The days of past snapshots are read from the database when the code location loads. So no setting is
needed, processes on several machines agree, and older installations keep their green days.
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

    `taken` contains the days on which snapshots were taken. If they are unknown (None), snapshots
    have every day since MAGNETIS_START_DATE.
    """
    if kind is Kind.SNAPSHOT and taken is not None:
        return _snapshot_partitions(settings, taken)
    return dg.DailyPartitionsDefinition(
        start_date=settings.start_date.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1 if kind is Kind.SNAPSHOT else 0,
    )


def _snapshot_partitions(settings: Settings, taken: Sequence[date]) -> dg.DailyPartitionsDefinition:
    today = datetime.now(settings.timezone).date()
    first = min([*taken, today])
    past = {*days_between(first, today - timedelta(days=1))}
    exclusions = [
        datetime(day.year, day.month, day.day, tzinfo=settings.timezone)
        for day in sorted(past - {*taken})
    ]
    return dg.DailyPartitionsDefinition(
        start_date=first.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1,
        exclusions=exclusions or None,
    )
