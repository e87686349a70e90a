"""Load missing days through Dagster: find them, launch runs and follow these.

Runs rather than a backfill: the backfill daemon polls every 30 s, the run queue every 5 s.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from magnetis_dagster.catalog import Collection
from magnetis_dagster.dagster_support.orphaned_runs import LOAD, STARTED_BY_TAG
from magnetis_dagster.dagster_support.webserver_client import ASSET_JOB, ENDED, DagsterApi
from magnetis_dagster.dates import contiguous_ranges
from magnetis_dagster.dev.console import LoadProgress
from magnetis_dagster.errors import MagnetisError, PermanentError

POLL_SECONDS = 0.5

LANE = "backfill"
"""Share of the quota for past days, which have the lowest priority."""

TAGS = {"magnetis/lane": LANE, STARTED_BY_TAG: LOAD}


@dataclass(frozen=True, slots=True)
class Batch:
    """One run: collections that miss the same days."""

    collections: tuple[str, ...]
    first: date
    last: date
    """Inclusive."""
    job: str = ASSET_JOB


@dataclass(slots=True)
class LoadResult:
    """The result of a load."""

    runs: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Reason by collection; empty if every requested day was loaded."""
    errors: dict[str, str] = field(default_factory=dict)
    """Class name by collection, if the reason is one of this package's errors."""

    def add(self, other: "LoadResult") -> None:
        """Add the result of another load."""
        self.runs += other.runs
        self.failures |= other.failures
        self.errors |= other.errors

    def of(self, connection: str) -> "LoadResult":
        """Return the result with `connection` before the name of each collection."""
        return LoadResult(
            self.runs,
            {f"{connection}{name}": reason for name, reason in self.failures.items()},
            {f"{connection}{name}": error for name, error in self.errors.items()},
        )

    def reasons(self) -> list[str]:
        """Return the failures as lines; collections with the same reason share a line."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.failures.items():
            common = re.sub(rf"^{re.escape(name)}: (GET \S+, page \d+: )?", "", reason)
            by_reason.setdefault(common, []).append(name)
        lines = []
        for reason, (name, *others) in by_reason.items():
            own = self.failures[name].removeprefix(f"{name}: ")
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            lines.append(f"{name}, {others[0]}{more}: {reason}" if others else f"{name}: {own}")
        return lines

    def needs_change(self) -> bool:
        """Whether a retry cannot succeed: every failure is a PermanentError.

        Finds only imported error classes; `wiring` imports all of them.
        """
        return all(self.errors.get(name) in _names_of(PermanentError) for name in self.failures)


def _names_of(error_type: type[MagnetisError]) -> set[str]:
    return {error_type.__name__}.union(*(_names_of(each) for each in error_type.__subclasses__()))


def requested_days(
    collections: Iterable[Collection], days: int, *, today: date, start: date
) -> dict[str, list[date]]:
    """Return the days to load by collection.

    Events: the last `days` complete days, but none before `start`. Snapshots: today.
    """
    closed = [day for age in range(days, 0, -1) if (day := today - timedelta(days=age)) >= start]
    return {each.name: closed if each.is_events else [today] for each in collections}


def batches(
    missing: Mapping[str, Iterable[date]], jobs: Mapping[str, str] | None = None
) -> list[Batch]:
    """Return the fewest runs that load exactly the missing days.

    Each contiguous range and job has one run, for all collections that miss this range.
    """
    runs: dict[tuple[date, date, str], list[str]] = {}
    for collection, days in missing.items():
        job = (jobs or {}).get(collection, ASSET_JOB)
        for first, last, _ in contiguous_ranges(dict.fromkeys(days)):
            runs.setdefault((first, last, job), []).append(collection)
    return [Batch(tuple(collections), *run) for run, collections in sorted(runs.items())]


def missing_days(api: DagsterApi, requested: Mapping[str, list[date]]) -> dict[str, list[date]]:
    """Return the requested days by collection that are not green in Dagster.

    Raises: DagsterUnavailable if Dagster does not answer.
    """
    green = api.green(requested)
    return {
        name: [day for day in days if day not in green.get(name, set())]
        for name, days in requested.items()
    }


def _in_other_runs(api: DagsterApi, missing: Mapping[str, list[date]]) -> dict[str, list[date]]:
    """Return days that another run loads, for collections that miss only one day."""
    single = {name: days for name, days in missing.items() if len(days) == 1}
    in_progress = api.in_progress(single) if single else {}
    return {name: days for name, days in single.items() if days[0] in in_progress.get(name, ())}


def load(
    api: DagsterApi,
    requested: Mapping[str, list[date]],
    listener: LoadProgress,
    check: Callable[[], None],
    jobs: Mapping[str, str] | None = None,
) -> LoadResult:
    """Launch runs for missing days, follow them, and report days still missing.

    `check` raises if Dagster died. `jobs` maps a collection to its job. If another run, such as a
    settings sensor's, already loads a collection's only missing day, wait for that run instead.
    """
    missing = missing_days(api, requested)
    incomplete = [name for name, days in missing.items() if days]
    elsewhere = _in_other_runs(api, missing)
    missing = {name: days for name, days in missing.items() if name not in elsewhere}
    for name, days in missing.items():
        if days:
            listener.expect(name, len(days))
    if elsewhere:
        listener.log(f"{', '.join(elsewhere)}: another run is already loading the missing day.")
    running = {
        api.launch(batch.collections, batch.first, batch.last, TAGS, job=batch.job): batch
        for batch in batches(missing, jobs)
    }
    result = LoadResult(runs=list(running))
    while running:
        time.sleep(POLL_SECONDS)
        check()
        for run in list(running):
            news = api.news(run)
            for name, rows in news.days:
                listener.add_day(name, rows)
            for name, reason in news.retries.items():
                listener.log(f"{name}: waiting to retry. {reason}")
            result.failures.update(news.failures)
            result.errors.update(news.errors)
            if news.ended_because and not result.failures.keys() & set(running[run].collections):
                result.failures[f"run {run[:8]}"] = news.ended_because
            if news.status in ENDED:
                del running[run]
    while elsewhere := _in_other_runs(api, elsewhere):
        time.sleep(POLL_SECONDS)
        check()
    for name, days in missing_days(api, {name: requested[name] for name in incomplete}).items():
        if days:
            one = f"{days[0]} was not loaded."
            many = f"{len(days)} days were not loaded; the first is {days[0]}."
            result.failures.setdefault(name, one if len(days) == 1 else many)
    return result
