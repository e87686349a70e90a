"""Define the Dagster code location.

Its parts are in `defs/`, one module per Dagster concept. Tests call `build_defs`.
"""

from collections.abc import Sequence
from datetime import date

import dagster as dg

from magnetis_dagster.catalog import Catalogue, Kind, load_catalogue
from magnetis_dagster.defs.alerting.sensor import alert_sensors
from magnetis_dagster.defs.assets import collection_asset
from magnetis_dagster.defs.jobs import daily_job, load_latest_job
from magnetis_dagster.defs.missing_days_check import no_missing_days
from magnetis_dagster.defs.prune import prune_job, prune_schedule, storage_asset
from magnetis_dagster.defs.quota import quota_asset, quota_sensor
from magnetis_dagster.defs.repair_sensor import repair_sensor
from magnetis_dagster.defs.resources import MagnetisResource
from magnetis_dagster.defs.schedules import daily_schedule
from magnetis_dagster.defs.settings_sensors import settings_sensors
from magnetis_dagster.defs.taken_days import taken_days
from magnetis_dagster.settings import Settings


def build_defs(
    *,
    settings: Settings | None = None,
    catalogue: Catalogue | None = None,
    taken: Sequence[date] | None = None,
) -> dg.Definitions:
    """Return a new code location.

    Unless given, settings come from the environment and the catalogue from MAGNETIS_CONFIG.

    `taken`: days with a snapshot, which become the snapshot partitions. None means unknown: every
    day since MAGNETIS_START_DATE.

    Raises: SettingsError or CatalogueError. Dagster shows it as the reason why the code location
    does not load.
    """
    settings = settings or Settings.load()
    catalogue = catalogue or load_catalogue(settings.config)
    jobs = {kind: daily_job(catalogue, kind) for kind in Kind}
    prune = prune_job()
    return dg.Definitions(
        assets=[
            *(collection_asset(each, settings, catalogue, taken) for each in catalogue.enabled),
            quota_asset(),
            storage_asset(),
        ],
        asset_checks=[no_missing_days(catalogue, settings)],
        jobs=[*jobs.values(), load_latest_job(catalogue, settings), prune],
        schedules=[
            *(daily_schedule(job, kind, settings) for kind, job in jobs.items()),
            prune_schedule(prune, settings),
        ],
        sensors=[
            quota_sensor(),
            repair_sensor(catalogue, settings),
            *settings_sensors(catalogue, settings),
            *alert_sensors(settings),
        ],
        resources={
            "magnetis": MagnetisResource(
                concurrency=settings.concurrency,
                quota_recheck_seconds=settings.quota_recheck_seconds,
            )
        },
        # A step mostly waits for the API. A separate process per step would cost more than the
        # step.
        executor=dg.in_process_executor,
    )


def _defs_here() -> dg.Definitions:
    settings = Settings.load()
    catalogue = load_catalogue(settings.config)
    taken = taken_days(settings, [each.name for each in catalogue.enabled if not each.is_events])
    return build_defs(settings=settings, catalogue=catalogue, taken=taken)


defs = _defs_here()
