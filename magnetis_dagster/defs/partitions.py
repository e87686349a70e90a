"""Daily partitions, in MAGNETIS_TIMEZONE. https://docs.dagster.io/guides/build/partitions-and-backfills

Events have a partition once their day has ended. A snapshot is the present, so today has a partition from its first minute.

A past day cannot be taken, so the partitions of snapshots start on the day of the first snapshot: `with_snapshot_start` reads it
from the database when the code location loads. It is no setting that somebody must make, processes on several machines agree,
and an installation that is older than this rule keeps its green days. Before the first snapshot that day is today.
"""

import logging
from datetime import datetime

from dagster import DailyPartitionsDefinition

from magnetis_dagster.catalog import Catalogue, Collection, Kind
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.settings import Settings

log = logging.getLogger(__name__)


def daily_partitions(kind: Kind, settings: Settings) -> DailyPartitionsDefinition:
    """Return the partitions of that kind: from MAGNETIS_START_DATE, or from MAGNETIS_SNAPSHOT_START_DATE for snapshots."""
    first = (settings.snapshot_start_date or settings.start_date) if kind is Kind.SNAPSHOT else settings.start_date
    return DailyPartitionsDefinition(
        start_date=first.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1 if kind is Kind.SNAPSHOT else 0,
    )


def asset_partitions(collection: Collection, settings: Settings) -> DailyPartitionsDefinition:
    """Return the partitions of one collection."""
    return daily_partitions(collection.kind, settings)


def with_snapshot_start(settings: Settings, catalogue: Catalogue) -> Settings:
    """Return the settings with the first partition day of snapshots, unless MAGNETIS_SNAPSHOT_START_DATE is set.

    Definitions must load without a database. If none is reachable, or if MAGNETIS_DATABASE_URL is unset (a definition must not
    start the embedded server), snapshots start on MAGNETIS_START_DATE, so no green day is hidden.
    """
    if settings.snapshot_start_date or settings.database_address is None:
        return settings
    from magnetis_dagster.warehouse.first_days import first_day
    from magnetis_dagster.wiring import open_engine

    snapshots = [collection.name for collection in catalogue.enabled if not collection.is_events]
    try:
        with open_engine(settings) as engine:
            taken = first_day(engine, snapshots)
    except MagnetisError as error:
        log.warning("The day of the first snapshot is unknown, so snapshots start on MAGNETIS_START_DATE. %s", error)
        return settings
    return settings.model_copy(update={"snapshot_start_date": taken or datetime.now(settings.timezone).date()})
