"""The definitions of one connection.

Their names contain its name, so definitions of several connections can be merged.
"""

import dagster as dg

from magnetis_dagster.catalog import Kind
from magnetis_dagster.defs.assets import Execute, collection_asset
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.jobs import daily_job, load_latest_job
from magnetis_dagster.defs.missing_days_check import no_missing_days
from magnetis_dagster.defs.quota import quota_asset, quota_sensor
from magnetis_dagster.defs.repair_sensor import repair_sensor
from magnetis_dagster.defs.resources import RESOURCE, MagnetisResource
from magnetis_dagster.defs.schedules import daily_schedule
from magnetis_dagster.defs.settings_sensors import settings_sensors


def connection_defs(
    assets: ConnectionAssets,
    execute: Execute | None = None,
    *,
    schedules: bool = True,
    sensors: bool = True,
) -> dg.Definitions:
    """Return the definitions of one connection, without an executor.

    `execute` replaces `load_days`. `schedules` and `sensors` include those that are on by default.
    """
    connection, settings = assets.connection, assets.settings
    jobs = {kind: job for kind in Kind if (job := daily_job(assets, kind))}
    daily = [daily_schedule(job, kind, connection) for kind, job in jobs.items()]
    has_events, has_snapshots = Kind.EVENTS in jobs, Kind.SNAPSHOT in jobs
    return dg.Definitions(
        assets=[
            *(collection_asset(assets, each, execute) for each in assets.collections),
            quota_asset(assets),
        ],
        asset_checks=[no_missing_days(assets)] if has_events else [],
        jobs=[*jobs.values(), load_latest_job(assets)],
        schedules=daily if schedules else [],
        sensors=[
            quota_sensor(assets),
            *([repair_sensor(assets)] if has_events else []),
            *(settings_sensors(assets) if has_snapshots else []),
        ]
        if sensors
        else [],
        resources={
            connection.scoped(RESOURCE): MagnetisResource(
                concurrency=settings.concurrency,
                quota_recheck_seconds=settings.quota_recheck_seconds,
            )
        },
    )
