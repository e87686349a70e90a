"""Runs whose worker is gone: `magnetis dev` ends them before it starts Dagster, when no worker of its database can be alive.

Dagster's own run launcher cannot tell. Such a run stays STARTED for ever, and one of a backfill keeps the only slot that
`dagster.yaml` gives to backfills. `python -m magnetis_dagster.dagster_support.orphaned_runs` knows Dagster; `any_orphans` only asks the database.
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
"""Value of the tag on the runs of `magnetis dev`'s own load, which asks again for what is missing."""

_UNDER_WAY = ("STARTING", "STARTED", "CANCELING")
_WAITING = ("NOT_STARTED", "QUEUED")


def any_orphans(engine: Engine) -> bool:
    """Whether the schema `dagster` holds runs for `end_orphans`. Raises DatabaseUnavailable, DatabaseRefused."""
    with guarded(engine, "look for runs without a worker"), engine.connect() as connection:
        if connection.execute(
            text(
                "SELECT to_regclass('dagster.runs') IS NULL OR to_regclass('dagster.run_tags') IS NULL"
            )
        ).scalar():
            return False
        found = connection.execute(
            text(
                "SELECT EXISTS (SELECT FROM dagster.runs AS run WHERE status = ANY(:under_way) OR status = ANY(:waiting) "
                "AND EXISTS (SELECT FROM dagster.run_tags AS tag "
                "WHERE tag.run_id = run.run_id AND tag.key = :key AND tag.value = :value))"
            ),
            {
                "under_way": list(_UNDER_WAY),
                "waiting": list(_WAITING),
                "key": STARTED_BY_TAG,
                "value": LOAD,
            },
        )
        return bool(found.scalar())


def end_orphans() -> None:
    """End them in Dagster, and print how many. Only for who knows that no daemon is alive.

    What somebody was canceling is canceled, and so are the load's runs, those that wait in the queue included: the next load would
    read their days a second time. The others fail, and the run-retry daemon starts them again where they stopped.
    """
    from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

    from magnetis_dagster.dagster_support.run_retries import after_death

    canceled = failed = 0
    with DagsterInstance.get() as instance:
        for run in instance.get_runs(
            RunsFilter(statuses=[DagsterRunStatus(status) for status in (*_UNDER_WAY, *_WAITING)])
        ):
            of_load = run.tags.get(STARTED_BY_TAG) == LOAD
            if (run.status.value in _WAITING and not of_load) or _works(instance, run.run_id):
                continue
            if of_load or run.status is DagsterRunStatus.CANCELING:
                instance.report_run_canceled(
                    run,
                    "Its `magnetis dev` ended. Finished days stay; a load requests the others again.",
                )
                canceled += 1
            else:
                instance.report_run_failed(
                    run, f"Its `magnetis dev` ended. {after_death(instance, run)}"
                )
                failed += 1
    print(f"{failed} to be started again, {canceled} canceled")  # noqa: T201 - for `magnetis dev`, which tells it


def _works(instance: "DagsterInstance", run: str) -> bool:
    """Return whether the run's worker is alive: on another machine, or that of `dagster asset materialize` in a terminal.

    A worker that is not is fenced off (run_heartbeat.py).
    """
    from magnetis_dagster.dagster_support.run_heartbeat import SILENCE_SECONDS, heartbeats

    beat = heartbeats(instance).last_beat(run)
    if beat is None:
        return _logged_process_lives(instance, run)
    lives = beat.process_lives()
    works = beat.age < SILENCE_SECONDS if lives is None else lives and not beat.dead
    return works or not heartbeats(instance).declare_dead(run, beat)


def _logged_process_lives(instance: "DagsterInstance", run: str) -> bool:
    """Return whether the process that a run without a heartbeat has logged is alive: it is starting, or of an older version."""
    from dagster import DagsterEventType

    for event in reversed(instance.all_logs(run, of_type=DagsterEventType.ENGINE_EVENT)):
        if found := re.search(r"\(pid: (\d+)\)", event.message):
            try:
                process = psutil.Process(int(found[1]))
                # one that is younger than the event has got the number of a process that is gone
                return (
                    process.create_time() <= event.timestamp
                    and process.status() != psutil.STATUS_ZOMBIE
                )
            except psutil.NoSuchProcess:
                return False
    return False


if __name__ == "__main__":
    end_orphans()
