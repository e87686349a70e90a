"""Run one job, or the same load without Dagster; benchmarks/dagster_share.py measures it.

    python _dagster_jobs.py prepare                                   creates the tables of both
    python _dagster_jobs.py alone FIRST_DAY LAST_DAY COLLECTION...    loads without Dagster
    python _dagster_jobs.py EXECUTOR JOB FIRST_DAY LAST_DAY           runs a job

Jobs are `calls`, `daily_events` and `daily_snapshots`. Prints the seconds of each part as JSON.
This module is also the code location of these runs: the shipped one, except for the executor.
"""
# ruff: noqa: PLC0415 - imports are timed, and the load without Dagster must not import it

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from functools import wraps
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster import Definitions, JobDefinition

STARTED = time.perf_counter()
EXECUTOR = "BENCHMARK_EXECUTOR"
"""Variable that passes the executor to the processes of steps: in_process or multiprocess."""
PRELOAD = [
    "magnetis_dagster.definitions",
    "magnetis_dagster.wiring",
    "dagster_postgres",
    "sqlalchemy.dialects.postgresql.psycopg",
]
"""Modules of a step. The forkserver imports them once: the fastest multiprocess executor."""


def location() -> "Definitions":
    from dagster import (
        AssetSelection,
        Definitions,
        define_asset_job,
        in_process_executor,
        multiprocess_executor,
    )

    from magnetis_dagster.definitions import defs

    forkserver = multiprocess_executor.configured(
        {"start_method": {"forkserver": {"preload_modules": PRELOAD}}}
    )
    return Definitions(
        assets=defs.assets,
        asset_checks=defs.asset_checks,
        jobs=[
            *(defs.jobs or ()),
            define_asset_job("calls", AssetSelection.assets("magnetis/calls")),
        ],
        resources=defs.resources,
        executor=forkserver if os.environ[EXECUTOR] == "multiprocess" else in_process_executor,
    )


def calls() -> "JobDefinition":
    return location().resolve_job_def("calls")


def daily_events() -> "JobDefinition":
    return location().resolve_job_def("daily_events")


def daily_snapshots() -> "JobDefinition":
    return location().resolve_job_def("daily_snapshots")


JOBS = {job.__name__: job for job in (calls, daily_events, daily_snapshots)}


def run(job: str, first: date, last: date) -> dict[str, float]:
    from dagster import DagsterInstance, execute_job, reconstructable

    from magnetis_dagster.dagster_support.partition_tags import days_tags

    target = reconstructable(JOBS[job])
    target.get_definition()
    spent = {"imports": time.perf_counter() - STARTED}
    began = time.perf_counter()
    with DagsterInstance.get() as instance:
        storage: Any = instance.event_log_storage
        storage.get_logs_for_run("none")  # the first query opens it
        spent["instance"] = time.perf_counter() - began
        storage.store_event = _timed(storage.store_event, spent)
        began, moment = time.perf_counter(), time.time()
        with execute_job(target, instance, tags=days_tags(first, last)) as result:
            if not result.success:
                failures = result.filter_events(lambda event: event.is_failure)
                raise SystemExit(f"the run failed: {[str(event) for event in failures]}")
        spent["run"] = time.perf_counter() - began
        events = [
            (_kind(event), event.step_key, event.timestamp)
            for event in instance.all_logs(result.run_id)
        ]
    running = {step: at for kind, step, at in events if kind == "STEP_START"}
    ended = {
        step: at
        for kind, step, at in events
        if kind in {"STEP_SUCCESS", "STEP_FAILURE", "STEP_SKIPPED"}
    }
    spent["plan"] = (
        min(at for kind, _, at in events if kind in {"STEP_WORKER_STARTING", "STEP_START"}) - moment
    )
    spent["steps"] = sum(ended[step] - at for step, at in running.items())
    # It would end after this process, and then its processor time would not be counted.
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # noqa: SLF001
    return spent


def _timed(store: Callable[[Any], None], spent: dict[str, float]) -> Callable[[Any], None]:
    """Return a `store` that adds its seconds to `spent` by the type of the event."""

    @wraps(store)
    def timed(event: Any) -> None:
        began = time.perf_counter()
        try:
            store(event)
        finally:
            name = f"write {_kind(event)}"
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    return timed


def _kind(event: Any) -> str:
    return event.dagster_event_type.value if event.dagster_event_type else "log"


def load_without_dagster(first: date, last: date, collections: list[str]) -> dict[str, float]:
    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.dates import days_between
    from magnetis_dagster.ingest import RunIdentity
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.wiring import open_ingestion

    catalogue, spent = load_catalogue(), {"imports": time.perf_counter() - STARTED}
    began = time.perf_counter()
    with open_ingestion(
        Settings.load(), catalogue, RunIdentity("benchmark", "manual")
    ) as ingestion:
        for name in collections:
            if catalogue[name].is_events:
                for _ in ingestion.read_days(catalogue[name], days_between(first, last)):
                    pass
            else:
                ingestion.read_snapshot(catalogue[name], last)
    return spent | {"run": time.perf_counter() - began}


def prepare() -> dict[str, float]:
    from dagster import DagsterInstance

    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.warehouse.migrate import migrate
    from magnetis_dagster.wiring import open_engine

    with open_engine(Settings.load()) as engine:
        migrate(engine, load_catalogue())
    with DagsterInstance.get() as instance:
        instance.get_runs_count()
    return {}


def main(command: str, *arguments: str) -> Mapping[str, float]:
    if command == "prepare":
        return prepare()
    if command == "alone":
        first, last, *collections = arguments
        return load_without_dagster(
            date.fromisoformat(first), date.fromisoformat(last), collections
        )
    os.environ[EXECUTOR] = command
    job, first, last = arguments
    return run(job, date.fromisoformat(first), date.fromisoformat(last))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
