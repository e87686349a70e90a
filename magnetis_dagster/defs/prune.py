"""The job `prune` and its schedule `nightly_prune`, which delete old operational records.

The job observes the asset `magnetis/storage`, whose page plots the bytes of each schema and the
deleted rows. https://docs.dagster.io/guides/build/jobs
"""

import re

import dagster as dg

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.defs.assets import OWNER
from magnetis_dagster.defs.step_failures import failure
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.settings import Settings

KEY = dg.AssetKey(["magnetis", "storage"])
NAME = "prune"
SCHEDULE = "nightly_prune"
CRON = "30 3 * * *"
"""After the daily jobs, and outside 02:00 to 03:00, which a clock change skips or repeats."""
_RUN = re.compile(r"\w[\w-]*")


def storage_asset() -> dg.AssetSpec:
    """Return the asset that the job observes."""
    return dg.AssetSpec(
        KEY,
        group_name="operations",
        description="Bytes of the database by schema, and the rows that the job `prune` deleted.",
        owners=[OWNER],
        kinds={"magnetis", "postgres"},
    )


def prune_job() -> dg.JobDefinition:
    """Return the job."""

    @dg.op(
        description="Deletes operational records older than MAGNETIS_RETENTION_DAYS. No API "
        "request."
    )
    def prune_storage(context: dg.OpExecutionContext) -> None:
        try:
            _prune(context)
        except MagnetisError as error:
            raise failure(error) from None

    @dg.job(
        name=NAME,
        description="Deletes records of API calls and windows, kept pages, and Dagster's events "
        "and log files that are older than MAGNETIS_RETENTION_DAYS. Keeps rows, history, "
        "completion records and the state of each partition. No API request.",
    )
    def prune() -> None:
        prune_storage()

    return prune


def prune_schedule(job: dg.JobDefinition, settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule, on by default."""
    return dg.ScheduleDefinition(
        name=SCHEDULE,
        job=job,
        cron_schedule=CRON,
        execution_timezone=settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Runs `{NAME}` every night. No API request.",
    )


def _prune(context: dg.OpExecutionContext) -> None:
    from magnetis_dagster.dagster_support.instance_storage import SCHEMA
    from magnetis_dagster.warehouse.prune import prune, sizes
    from magnetis_dagster.wiring import open_engine, warehouse_of

    settings = Settings.load()
    logs = context.instance.compute_log_manager

    def delete_logs(run: str) -> None:
        # Dagster deletes the folder of this name, even if it contains `..`
        if _RUN.fullmatch(run):
            logs.delete_logs(prefix=[run])

    with open_engine(settings) as engine:
        warehouse_of(engine, settings, load_catalogue(settings.config)).prepare()
        deleted = prune(engine, settings.retention_days, SCHEMA, delete_logs)
        measured = sizes(engine, ["magnetis", "magnetis_ops", SCHEMA])
    total = sum(deleted.values())
    words = f"Deleted {total:,} rows older than {settings.retention_days} days"
    context.log.info(words)
    context.log_event(
        dg.AssetObservation(
            KEY,
            description=words,
            metadata={
                **{f"bytes of {name}": size for name, size in measured.items()},
                "deleted rows": total,
                **{f"deleted from {table}": number for table, number in deleted.items()},
            },
        )
    )
