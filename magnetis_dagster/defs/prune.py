"""The job `prune` and its schedule `nightly_prune`, which delete old operational records.

The job observes the asset `magnetis/storage`, whose page plots the bytes of each schema and the
deleted rows. https://docs.dagster.io/guides/build/jobs
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from magnetis_dagster.connections import Connection, load_connections
from magnetis_dagster.defs.connection_assets import OWNER
from magnetis_dagster.defs.step_failures import failure
from magnetis_dagster.errors import MagnetisError

NAME = "prune"
SCHEDULE = "nightly_prune"
STORAGE = "storage"
CRON = "30 3 * * *"
"""After the daily jobs, and outside 02:00 to 03:00, which a clock change skips or repeats."""
_RUN = re.compile(r"\w[\w-]*")


@dataclass(frozen=True, slots=True)
class Prune:
    """The nightly deletion of old records, and the names of its definitions."""

    load: Callable[[], Connection]
    """Returns a connection of the database, for its retention period."""
    zone: str
    key: dg.AssetKey
    name: str = NAME
    schedule: str = SCHEDULE
    with_dagster: bool = False
    """Whether Dagster's own events and logs are deleted too: only in our own code location."""

    @classmethod
    def of_location(cls, zone: str) -> "Prune":
        """Return the prune of our own code location, for all connections and Dagster's tables."""
        key = dg.AssetKey(["magnetis", STORAGE])
        return cls(lambda: load_connections()[0], zone, key, with_dagster=True)

    @classmethod
    def of_connection(cls, connection: Connection) -> "Prune":
        """Return the prune of one connection in a host project, without Dagster's tables."""
        return cls(
            connection.reload,
            connection.settings.timezone.key,
            dg.AssetKey(connection.path(STORAGE)),
            connection.scoped(NAME),
            connection.scoped(SCHEDULE),
        )

    def definitions(self, *, scheduled: bool = True) -> dg.Definitions:
        """Return the asset, the job and, if wanted, its schedule."""
        job = self._job()
        return dg.Definitions(
            assets=[self._asset()],
            jobs=[job],
            schedules=[self._schedule(job)] if scheduled else [],
        )

    def _asset(self) -> dg.AssetSpec:
        return dg.AssetSpec(
            self.key,
            group_name="operations",
            description=f"Bytes of the database by schema, and the rows that the job `{self.name}` "
            "deleted.",
            owners=[OWNER],
            kinds={"magnetis", "postgres"},
        )

    def _job(self) -> dg.JobDefinition:
        others = ", and Dagster's events and log files" if self.with_dagster else ""

        @dg.op(
            name=f"{self.name}_storage",
            description="Deletes operational records older than MAGNETIS_RETENTION_DAYS. No API "
            "request.",
        )
        def prune_storage(context: dg.OpExecutionContext) -> None:
            try:
                _prune(context, self)
            except MagnetisError as error:
                raise failure(error) from None

        @dg.job(
            name=self.name,
            description=f"Deletes records of API calls and windows, cached pages{others} that are "
            "older than MAGNETIS_RETENTION_DAYS. Keeps rows, history, completion records and the "
            "state of each partition. No API request.",
            executor_def=dg.in_process_executor,
        )
        def prune() -> None:
            prune_storage()

        return prune

    def _schedule(self, job: dg.JobDefinition) -> dg.ScheduleDefinition:
        return dg.ScheduleDefinition(
            name=self.schedule,
            job=job,
            cron_schedule=CRON,
            execution_timezone=self.zone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"Runs `{self.name}` every night. No API request.",
        )


def _prune(context: dg.OpExecutionContext, what: Prune) -> None:
    from magnetis_dagster.dagster_support.instance_storage import SCHEMA
    from magnetis_dagster.warehouse.prune import prune, sizes
    from magnetis_dagster.wiring import open_engine, warehouse_of

    connection = what.load()
    settings, logs = connection.settings, context.instance.compute_log_manager

    def delete_logs(run: str) -> None:
        # Dagster deletes the folder of this name, even if it contains `..`
        if _RUN.fullmatch(run):
            logs.delete_logs(prefix=[run])

    schema = SCHEMA if what.with_dagster else None
    with open_engine(settings) as engine:
        warehouse_of(engine, settings, connection.catalogue).prepare()
        deleted = prune(engine, settings.retention_days, schema, delete_logs)
        measured = sizes(engine, ["magnetis", "magnetis_ops", *([schema] if schema else [])])
    total = sum(deleted.values())
    words = f"Deleted {total:,} rows older than {settings.retention_days} days"
    context.log.info(words)
    context.log_event(
        dg.AssetObservation(
            what.key,
            description=words,
            metadata={
                **{f"bytes of {name}": size for name, size in measured.items()},
                "deleted rows": total,
                **{f"deleted from {table}": number for table, number in deleted.items()},
            },
        )
    )
