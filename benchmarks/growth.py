"""Measure the disk growth of the bookkeeping per year and table, with and without `prune`.

    .venv/bin/python benchmarks/growth.py [--days 4]

Executes real runs of both daily jobs, `--days` of each, against a sandbox of about 120 calls a day,
and ticks of Dagster's daemon for the three sensors that are on, with the shipped storage. Bytes are
pg_total_relation_size of an embedded PostgreSQL, with indexes and TOAST. The bytes of one run and
one tick are multiplied by their number in a year.

Then all rows are made 100 days older and the job `prune` runs: the remaining rows are those that a
day keeps permanently. Runs of a real deployment have a few more events. The tables of collections
are left out; they grow with the calls.
"""

import argparse
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from logging import getLogger
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import psycopg
from _privacy_settings import VARIABLES
from backfill import sandbox
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration

from magnetis_dagster.database import embedded
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.sandbox import SANDBOX_KEY, SandboxOptions

TICKS = 20
"""Ticks of each sensor: enough to make the page size of 8 kB negligible."""
EVENTS_READ, SNAPSHOTS_READ = 5 * 8, 13
"""Days of all collections that a run of each job loads."""
RETENTION = 90
SKIPPED_TICKS_DAYS = 7
"""As in dagster.yaml."""
SENSORS = {"quota_sensor": 96, "report_settings_sensor": 96, "alert_settings_sensor": 96}
"""Ticks per day of the sensors that are on from the start."""
INSTANCE = """
storage:
  custom:
    module: magnetis_dagster.dagster_support.instance_storage
    class: MagnetisInstanceStorage
    config: {}
run_launcher:
  module: dagster._core.launcher.sync_in_memory_run_launcher
  class: SyncInMemoryRunLauncher
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
telemetry: {enabled: false}
"""
LOCATION = "from magnetis_dagster.definitions import build_defs\ndefs = build_defs()\n"
TIME_COLUMNS = {
    "dagster.event_logs": ("timestamp",),
    "dagster.asset_check_executions": ("evaluation_event_timestamp",),
    "magnetis_ops.api_calls": ("charged_at", "settled_at"),
    "magnetis_ops.windows": ("committed_at",),
}


class Daemon:
    """Evaluates sensors like Dagster's daemon, in this process and with a simulated clock."""

    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        self._workspace = workspace
        [entry] = workspace.create_request_context().get_code_location_entries().values()
        assert entry.code_location, entry.load_error
        [self._repository] = entry.code_location.get_repositories().values()
        self.now = datetime.now(UTC)
        for sensor in self._repository.get_sensors():
            workspace.instance.stop_sensor(
                sensor.get_remote_origin_id(), sensor.selector_id, sensor
            )

    def ticks(self, name: str, number: int) -> None:
        """Evaluate one sensor `number` times."""
        sensor = self._repository.get_sensor(name)
        self._workspace.instance.start_sensor(sensor)
        for _ in range(number):
            self.now += timedelta(minutes=15)
            with freeze_time(self.now):
                assert not any(
                    execute_sensor_iteration(self._workspace, getLogger("daemon"), None, None)
                )
        self._workspace.instance.stop_sensor(
            sensor.get_remote_origin_id(), sensor.selector_id, sensor
        )


@contextmanager
def daemon(home: Path) -> Iterator[tuple[Daemon, dg.DagsterInstance]]:
    (home / "dagster.yaml").write_text(INSTANCE)
    (home / "location.py").write_text(LOCATION)
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=str(home / "location.py")), location_name="location"
    )
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        patch.object(dg.DagsterInstance, "from_ref", lambda _ref: nullcontext(instance)),
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as workspace,
    ):
        yield Daemon(workspace), instance


def table_sizes(url: str) -> Counter[str]:
    """Return the bytes of each bookkeeping table, after VACUUM FULL."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT schemaname || '.' || relname FROM pg_stat_user_tables "
            "WHERE schemaname IN ('dagster', 'magnetis_ops')"
        ).fetchall()
        for (table,) in tables:
            connection.execute(f"VACUUM FULL {table}")
        return Counter(
            {
                table: connection.execute(
                    "SELECT pg_total_relation_size(%s::regclass)", [table]
                ).fetchone()[0]
                for (table,) in tables
            }
        )


def run(instance: dg.DagsterInstance, job: str, **tags: str) -> None:
    """Run a job in this process."""
    dagster_tags = {f"dagster/{name}": value for name, value in tags.items()}
    definition = build_defs().resolve_job_def(job)
    assert definition.execute_in_process(instance=instance, tags=dagster_tags).success


def prune(url: str, instance: dg.DagsterInstance) -> None:
    """Make all rows 100 days older, and run the job `prune`."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table, columns in TIME_COLUMNS.items():
            moved = ", ".join(f"{column} = {column} - interval '100 days'" for column in columns)
            connection.execute(f"UPDATE {table} SET {moved}")
        connection.execute("UPDATE dagster.runs SET end_time = end_time - 100 * 86400")
    run(instance, "prune")


def show(written: Mapping[str, float], kept: Mapping[str, float]) -> None:
    """Print megabytes: a year without `prune`, and one and five years with it."""
    print(f"{'table':<40}{'kB a day':>10}{'MB a year':>11}{'pruned: 1 y':>13}{'5 y':>8}")
    total: Counter[str] = Counter()
    for table, size in sorted(written.items(), key=lambda item: -item[1]):
        if size < 100:
            continue
        stays = kept.get(table, 0.0)
        young = RETENTION * max(0.0, size - stays)
        if table == "dagster.job_ticks":
            young, stays = SKIPPED_TICKS_DAYS * size, 0.0
        row = {
            "day": size / 1e3,
            "year": size * 365 / 1e6,
            "one": (young + stays * 365) / 1e6,
            "five": (young + stays * 365 * 5) / 1e6,
        }
        total.update(row)
        print_row(table, row)
    print_row("total", total)


def print_row(name: str, row: Mapping[str, float]) -> None:
    day, year, one, five = (row[column] for column in ("day", "year", "one", "five"))
    print(f"{name:<40}{day:>10.1f}{year:>11.1f}{one:>13.1f}{five:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=4, help="nights to measure")
    days = parser.parse_args().days
    warnings.simplefilter("ignore")
    getLogger().setLevel("ERROR")
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    with sandbox(SandboxOptions(daily_quota=None)) as api:
        url = embedded.start(home, database="growth")
        os.environ |= VARIABLES | {
            "MAGNETIS_DATABASE_URL": url,
            "MAGNETIS_API_KEY": SANDBOX_KEY,
            "MAGNETIS_API_URL": api.url,
            "MAGNETIS_DAILY_QUOTA": "1000000",
            "MAGNETIS_START_DATE": "2025-01-01",
            "DAGSTER_HOME": str(home),
        }
        try:
            written: Counter[str] = Counter()
            with daemon(home) as (running, instance):
                today = datetime.now().astimezone().date()
                week = [str(today - timedelta(days=number)) for number in (8, 1)]
                events = {
                    "asset_partition_range_start": week[0],
                    "asset_partition_range_end": week[1],
                }
                jobs = {"daily_events": events, "daily_snapshots": {"partition": str(today)}}
                for job, tags in jobs.items():  # the first runs create the tables
                    run(instance, job, **tags)
                start = table_sizes(url)
                for job, tags in jobs.items():
                    before = table_sizes(url)
                    for _ in range(days):
                        run(instance, job, **tags)
                    grown = {
                        table: (size - before[table]) / days
                        for table, size in table_sizes(url).items()
                    }
                    written.update(grown)
                    dagsters = sum(
                        size for table, size in grown.items() if table.startswith("dagster.")
                    )
                    read = EVENTS_READ if job == "daily_events" else SNAPSHOTS_READ
                    print(
                        f"{job}: {dagsters / read / 1e3:.1f} kB in Dagster's tables "
                        "for each loaded day of a collection"
                    )
                for name, number in SENSORS.items():
                    running.ticks(name, 1)
                    before = table_sizes(url)
                    running.ticks(name, TICKS)
                    grown = {
                        table: (size - before[table]) / TICKS * number
                        for table, size in table_sizes(url).items()
                    }
                    written.update(grown)
                    print(f"{name}: {sum(grown.values()) * 365 / 1e6:.0f} MB a year")
                prune(url, instance)
            remaining = table_sizes(url)
            kept = {table: max(0, remaining[table] - start[table]) / days for table in remaining}
            show(written, kept)
        finally:
            embedded.stop(home)
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
