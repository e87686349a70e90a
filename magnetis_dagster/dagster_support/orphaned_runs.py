"""Orphaned runs, whose worker died: `magnetis dev` ends them before it starts Dagster.

Otherwise they stay STARTED and keep the only slot for backfills in `dagster.yaml`. `any_orphans`
queries the database only; `python -m magnetis_dagster.dagster_support.orphaned_runs` imports
Dagster and ends the runs.
"""

import re
from typing import TYPE_CHECKING

import psutil
from sqlalchemy import Engine, text

from magnetis_dagster.database import guarded

if TYPE_CHECKING:
    from dagster import DagsterInstance

STARTED_BY_TAG = "magnetis/started_by"
LOAD = "magnetis dev"
"""Value of the tag on runs of the load in `magnetis dev`, which requests missing days again."""

_RUNNING = ("STARTING", "STARTED", "CANCELING")
_QUEUED = ("NOT_STARTED", "QUEUED")


def any_orphans(engine: Engine) -> bool:
    """Return whether Dagster's tables contain runs for `end_orphans`.

    Raises: DatabaseUnavailable; DatabaseRefused.
    """
    no_tables = text(
        "SELECT to_regclass('dagster.runs') IS NULL OR to_regclass('dagster.run_tags') IS NULL"
    )
    orphans = text(
        "SELECT EXISTS (SELECT FROM dagster.runs AS run "
        "WHERE status = ANY(:running) OR status = ANY(:queued) "
        "AND EXISTS (SELECT FROM dagster.run_tags AS tag "
        "WHERE tag.run_id = run.run_id AND tag.key = :key AND tag.value = :value))"
    )
    with guarded(engine, "look for runs without a worker"), engine.connect() as connection:
        if connection.execute(no_tables).scalar():
            return False
        parameters = {
            "running": [*_RUNNING],
            "queued": [*_QUEUED],
            "key": STARTED_BY_TAG,
            "value": LOAD,
        }
        return bool(connection.execute(orphans, parameters).scalar())


def end_orphans() -> None:
    """End the orphaned runs and print their number. Call it only if no daemon is running.

    Runs in cancellation and runs of the load, whose days the next load requests, are canceled.
    Other runs fail, and the run-retry daemon resumes them.
    """
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    from magnetis_dagster.dagster_support.run_retries import after_death

    canceled = failed = 0
    with DagsterInstance.get() as instance:
        unfinished = [DagsterRunStatus(status) for status in (*_RUNNING, *_QUEUED)]
        for run in instance.get_runs(RunsFilter(statuses=unfinished)):
            of_load = run.tags.get(STARTED_BY_TAG) == LOAD
            if (run.status.value in _QUEUED and not of_load) or _worker_lives(instance, run.run_id):
                continue
            if of_load or run.status is DagsterRunStatus.CANCELING:
                instance.report_run_canceled(
                    run,
                    "Its `magnetis dev` ended. Days already loaded stay loaded; the next load "
                    "requests the others.",
                )
                canceled += 1
            else:
                instance.report_run_failed(
                    run, f"Its `magnetis dev` ended. {after_death(instance, run)}"
                )
                failed += 1
    print(f"{failed} to be started again, {canceled} canceled")  # noqa: T201 - `magnetis dev` prints it


def _worker_lives(instance: "DagsterInstance", run: str) -> bool:
    """Return whether the run's worker is alive; fence it off if it is not (run_heartbeat.py).

    The worker may be on another machine, or be `dagster asset materialize` in a terminal.
    """
    from magnetis_dagster.dagster_support.heartbeat_storage import heartbeats
    from magnetis_dagster.dagster_support.run_heartbeat import SILENCE_SECONDS

    beat = heartbeats(instance).last_beat(run)
    if beat is None:
        return _logged_process_lives(instance, run)
    lives = beat.process_lives()
    if lives is None:
        lives = beat.age < SILENCE_SECONDS
    return lives or not heartbeats(instance).declare_dead(run, beat)


def _logged_process_lives(instance: "DagsterInstance", run: str) -> bool:
    """Return whether the logged process of a run without a heartbeat is alive.

    Such a run is starting, or an older version of this package started it.
    """
    from dagster import DagsterEventType

    for event in reversed(instance.all_logs(run, of_type=DagsterEventType.ENGINE_EVENT)):
        if found := re.search(r"\(pid: (\d+)\)", event.message):
            try:
                process = psutil.Process(int(found[1]))
                # a process younger than the event has reused the pid
                return (
                    process.create_time() <= event.timestamp
                    and process.status() != psutil.STATUS_ZOMBIE
                )
            except psutil.NoSuchProcess:
                return False
    return False


if __name__ == "__main__":
    end_orphans()
