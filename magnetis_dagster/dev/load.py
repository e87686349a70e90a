"""The first load: which days are missing, the runs that bring them, and following those to their end. All through Dagster.

Ranged runs rather than a backfill: Dagster's backfill daemon looks for work every 30 s, the run queue every 5 s, and the UI shows
either with the same green days.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Protocol

from magnetis_dagster.catalog import Collection
from magnetis_dagster.dagster_support.orphaned_runs import LOAD, STARTED_BY_TAG
from magnetis_dagster.dagster_support.webserver_client import ASSET_JOB, ENDED, DagsterApi
from magnetis_dagster.defs.job_names import JOB_NAMES
from magnetis_dagster.errors import MagnetisError, PermanentError

POLL_SECONDS = 0.5

LANE = "backfill"
"""Days of the past wait for everybody else: their calls come from this share of the quota."""

TAGS = {"magnetis/lane": LANE, STARTED_BY_TAG: LOAD}


@dataclass(frozen=True, slots=True)
class Batch:
    """One run: the collections that miss the same days."""

    collections: tuple[str, ...]
    first: date
    last: date
    """Inclusive."""
    job: str = ASSET_JOB

    @property
    def days(self) -> int:
        """Number of days."""
        return (self.last - self.first).days + 1


@dataclass(slots=True)
class Outcome:
    """How the load ended."""

    runs: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Collection to the reason; empty if every requested day was loaded."""
    errors: dict[str, str] = field(default_factory=dict)
    """Collection to the class of our error, where the reason is one."""

    def add(self, other: "Outcome") -> None:
        """Count another load in."""
        self.runs += other.runs
        self.failures |= other.failures
        self.errors |= other.errors

    def reasons(self) -> list[str]:
        """Return the failures as lines; collections that failed for the same reason share one."""
        alike: dict[str, list[str]] = {}
        for name, why in self.failures.items():
            alike.setdefault(
                re.sub(rf"^{re.escape(name)}: (GET \S+, page \d+: )?", "", why), []
            ).append(name)
        lines = []
        for why, names in alike.items():
            if len(names) == 1:
                lines.append(f"{names[0]}: {self.failures[names[0]].removeprefix(f'{names[0]}: ')}")
            else:
                more = f" and {len(names) - 2} more" if len(names) > 2 else ""
                lines.append(f"{', '.join(names[:2])}{more}: {why}")
        return lines

    def needs_change(self) -> bool:
        """Whether every failure is one that only a change helps against. Knows the errors of what is imported: `wiring` has all."""
        return all(self.errors.get(name) in _names_of(PermanentError) for name in self.failures)


def _names_of(kind: type[MagnetisError]) -> set[str]:
    return {kind.__name__}.union(*(_names_of(each) for each in kind.__subclasses__()))


class Watcher(Protocol):
    """Receives the progress of a load."""

    def asked(self, collection: str, days: int) -> None:
        """Days of the collection that will be loaded."""

    def done(self, collection: str, rows: int) -> None:
        """One more day of the collection is loaded, with this many rows."""

    def note(self, line: str) -> None:
        """Something worth a line: a step that is tried again, a failure."""


def asked_days(
    collections: Iterable[Collection], days: int, *, today: date, start: date
) -> dict[str, list[date]]:
    """Return collection to the days to have: the last `days` closed ones, not before `start`, for events; today for snapshots."""
    closed = [day for age in range(days, 0, -1) if (day := today - timedelta(days=age)) >= start]
    return {
        collection.name: closed if collection.is_events else [today] for collection in collections
    }


def jobs_of(collections: Iterable[Collection]) -> dict[str, str]:
    """Return collection to the named job over its kind, by which people find the run."""
    return {collection.name: JOB_NAMES[collection.kind] for collection in collections}


def batches(
    missing: Mapping[str, Iterable[date]], jobs: Mapping[str, str] | None = None
) -> list[Batch]:
    """Return as few runs as bring exactly the missing days: one for each stretch and job, for all collections that miss it."""
    stretches: dict[tuple[date, date, str], list[str]] = {}
    for collection, days in missing.items():
        for first, last in _stretches(sorted(days)):
            stretches.setdefault((first, last, (jobs or {}).get(collection, ASSET_JOB)), []).append(
                collection
            )
    return [
        Batch(tuple(collections), *stretch) for stretch, collections in sorted(stretches.items())
    ]


def _stretches(days: list[date]) -> list[tuple[date, date]]:
    stretches: list[tuple[date, date]] = []
    for day in days:
        if stretches and stretches[-1][1] == day - timedelta(days=1):
            stretches[-1] = (stretches[-1][0], day)
        else:
            stretches.append((day, day))
    return stretches


def missing_days(api: DagsterApi, asked: Mapping[str, list[date]]) -> dict[str, list[date]]:
    """Return collection to the asked days that are not green in Dagster. Raises DagsterUnavailable."""
    green = api.green(asked)
    return {
        name: [day for day in days if day not in green.get(name, set())]
        for name, days in asked.items()
    }


def _loaded_elsewhere(api: DagsterApi, missing: Mapping[str, list[date]]) -> dict[str, list[date]]:
    """Return those of the missing days that are the only one of their collection and that a run is loading already."""
    single = {name: days for name, days in missing.items() if len(days) == 1}
    under_way = api.in_progress(single) if single else {}
    return {name: days for name, days in single.items() if days[0] in under_way.get(name, ())}


def load(
    api: DagsterApi,
    asked: Mapping[str, list[date]],
    watcher: Watcher,
    alive: Callable[[], None],
    jobs: Mapping[str, str] | None = None,
) -> Outcome:
    """Launch runs for the missing days of `asked`, follow them to the end, and report the days that are still missing.

    `alive` raises if Dagster died; `jobs` is collection to the job that loads it. A single day that another run is loading, such as
    today's settings that a sensor has just noticed, is waited for instead.
    """
    missing = missing_days(api, asked)
    wanted = [name for name, days in missing.items() if days]
    elsewhere = _loaded_elsewhere(api, missing)
    missing = {name: days for name, days in missing.items() if name not in elsewhere}
    for name, days in missing.items():
        if days:
            watcher.asked(name, len(days))
    if elsewhere:
        watcher.note(f"{', '.join(elsewhere)}: another run is already loading the missing day.")
    running = {
        api.launch(batch.collections, batch.first, batch.last, TAGS, job=batch.job): batch
        for batch in batches(missing, jobs)
    }
    outcome = Outcome(runs=list(running))
    while running:
        time.sleep(POLL_SECONDS)
        alive()
        for run in list(running):
            news = api.news(run)
            for day in news.days:
                watcher.done(day.collection, day.rows)
            for name, why in news.retries.items():
                watcher.note(f"{name}: will be tried again. {why}")
            outcome.failures.update(news.failures)
            outcome.errors.update(news.errors)
            if news.ended_because and not outcome.failures.keys() & set(running[run].collections):
                outcome.failures[f"run {run[:8]}"] = news.ended_because
            if news.status in ENDED:
                del running[run]
    while elsewhere := _loaded_elsewhere(api, elsewhere):
        time.sleep(POLL_SECONDS)
        alive()
    for name, days in missing_days(api, {name: asked[name] for name in wanted}).items():
        if days:
            outcome.failures.setdefault(name, _not_loaded(days))
    return outcome


def _not_loaded(days: list[date]) -> str:
    return (
        f"{days[0]} was not loaded."
        if len(days) == 1
        else f"{len(days)} days were not loaded, the first is {days[0]}."
    )
