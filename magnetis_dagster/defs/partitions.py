"""Daily partitions, in MAGNETIS_TIMEZONE. https://docs.dagster.io/guides/build/partitions-and-backfills

Events have a partition once their day has ended, from MAGNETIS_START_DATE on. A snapshot is the present: today has a partition from
its first minute, and so has each past day on which a snapshot was taken. Other past days have none, because they cannot be
taken any more: they would stay missing, and an accidental backfill of them could never succeed.

The days are read from the database when the code location loads. Nobody has to set anything, processes on several machines agree,
and an installation that is older than this rule keeps its green days.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from dagster import DailyPartitionsDefinition

from magnetis_dagster.catalog import Kind
from magnetis_dagster.dates import days_between
from magnetis_dagster.settings import Settings


def daily_partitions(
    kind: Kind, settings: Settings, taken: Sequence[date] | None = None
) -> DailyPartitionsDefinition:
    """Return the partitions of collections of that kind.

    `taken`: the days on which snapshots were taken; None: unknown, and snapshots have every day since MAGNETIS_START_DATE.
    """
    if kind is Kind.SNAPSHOT and taken is not None:
        return _snapshot_partitions(settings, taken)
    return DailyPartitionsDefinition(
        start_date=settings.start_date.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1 if kind is Kind.SNAPSHOT else 0,
    )


def _snapshot_partitions(settings: Settings, taken: Sequence[date]) -> DailyPartitionsDefinition:
    today = datetime.now(settings.timezone).date()
    first = min([*taken, today])
    never = sorted({*days_between(first, today - timedelta(days=1))} - {*taken})
    return DailyPartitionsDefinition(
        start_date=first.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1,
        exclusions=[
            datetime(day.year, day.month, day.day, tzinfo=settings.timezone) for day in never
        ]
        or None,
    )
