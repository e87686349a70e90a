"""What Dagster adds to the reading itself: milliseconds a partition in a ranged run, seconds in a
daily run, and by which executor.

    .venv/bin/python benchmarks/dagster_share.py [--only ranges daily]

A ranged run of `calls` over 30, 365 and 1,095 days; the daily run, all 18 collections in its two
jobs, with all steps in one process and with a process for each, forked from one that has imported
everything. Each run is a process of its own, as in production, timed from start to end; so is the
same reading without Dagster beside it. Dagster's storage is the shipped one, on the embedded
PostgreSQL with its durable defaults, a fresh database for each run. The sandbox is a process of its
own, answers without delay, and its time is told apart. Medians of as many rounds as fit; alone on
two cores it stops after less than four minutes. Where other work shares them, look at the seconds
of processor.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil
import psycopg
from backfill import Sandbox, end, sandbox

from magnetis_dagster.catalog import Kind, load_catalogue
from magnetis_dagster.database import embedded
from magnetis_dagster.defs.jobs import JOB_NAMES
from magnetis_dagster.sandbox import SANDBOX_KEY, SandboxOptions
from magnetis_dagster.settings import Settings

HERE = Path(__file__).parent
FIRST = date(2023, 1, 1)
SPANS = (30, 365, 1095)
AIM = 20
"""Milliseconds a partition."""
EXECUTORS = ("in_process", "multiprocess")
NAMES = {"in_process": "all steps in one process", "multiprocess": "a process for each step"}
RANGES_SECONDS, DAILY_SECONDS, MOST_ROUNDS = 100.0, 80.0, 5
LONGEST = 150.0
"""Seconds for one run; the longest takes about 60."""
PARTS = ("ranges", "daily")


@dataclass(frozen=True)
class Run:
    """One process, or several of one daily run added up."""

    seconds: float
    """From before its start to after its end."""
    processor: float
    """Seconds of processor that it, what it started and the database server used: other work on the machine hardly changes them."""
    parts: dict[str, float]
    api: float = 0.0
    """Seconds in which at least one call was under way."""
    rounds: int = 0
    """Stretches of such seconds: calls that came one after the other."""

    def __add__(self, other: "Run") -> "Run":
        """Return both, one after the other."""
        parts = {
            name: self.parts.get(name, 0.0) + other.parts.get(name, 0.0)
            for name in self.parts | other.parts
        }
        return Run(
            self.seconds + other.seconds,
            self.processor + other.processor,
            parts,
            self.api + other.api,
            self.rounds + other.rounds,
        )

    def written(self) -> float:
        """Return the seconds of writing events, those of other processes than the run's own left out."""
        return sum(seconds for name, seconds in self.parts.items() if name.startswith("write "))


class Bench:
    """Runs processes, each on a database of its own that has all tables already."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._databases = 0
        (home / "dagster").mkdir()
        shutil.copy(HERE.parent / "dagster.yaml", home / "dagster")
        self._start(embedded.start(home, database="prepared"), "prepare")

    def run(self, api: Sandbox, *commands: Sequence[str]) -> Run:
        """Run the commands one after the other on one fresh database."""
        self._databases += 1
        name = f"run_{self._databases}"
        with psycopg.connect(
            embedded.start(self._home, database="postgres"), autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE prepared")
            # what the last run left to be written is not this one's
            connection.execute("CHECKPOINT")
            url = embedded.start(self._home, database=name)
            runs = [self._start(url, *command, url=api.url) for command in commands]
            whole = sum(runs[1:], runs[0])
            api_seconds, in_turn = _api_time(url)
            found = replace(whole, api=api_seconds, rounds=in_turn)
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        return found

    def _start(self, database: str, *arguments: str, url: str = "") -> Run:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAGNETIS_", "DAGSTER_"))
        }
        environment = clean | {
            "DAGSTER_HOME": str(self._home / "dagster"),
            "MAGNETIS_API_KEY": SANDBOX_KEY,
            "MAGNETIS_API_URL": url,
            "MAGNETIS_DAILY_QUOTA": str(10**6),
            "MAGNETIS_DATABASE_URL": database,
            "MAGNETIS_START_DATE": str(FIRST),
        }
        if not url:
            del environment["MAGNETIS_API_URL"]
        command: list[str | Path] = [sys.executable, HERE / "_dagster_jobs.py", *arguments]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            began, used = time.perf_counter(), self._processor()
            # started in a folder without .env
            with subprocess.Popen(
                command, stdout=output, stderr=errors, cwd=self._home, env=environment
            ) as process:
                try:
                    process.wait(LONGEST)
                finally:
                    end(process)
            seconds = time.perf_counter() - began
            output.seek(0)
            errors.seek(0)
            if process.returncode:
                raise SystemExit(
                    f"{' '.join(arguments)} failed:\n{errors.read()[-3000:].decode(errors='replace')}"
                )
            return Run(
                seconds, self._processor() - used, json.loads(output.read().splitlines()[-1])
            )

    def _processor(self) -> float:
        """Return the processor seconds of all processes that ended here, and of the database server."""
        ours = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = ours.ru_utime + ours.ru_stime
        server = psutil.Process(
            int((self._home / "postgres" / "postmaster.pid").read_text().split()[0])
        )
        for process in (server, *server.children()):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
                if process == server:  # and those that it has waited for
                    used += times.children_user + times.children_system
        return used


def _api_time(database: str) -> tuple[float, int]:
    took = "tstzrange(charged_at, charged_at + milliseconds * interval '1 ms', '[]')"
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(extract(epoch FROM upper(stretch) - lower(stretch))), 0)::float8, count(stretch) "
            f"FROM (SELECT unnest(range_agg({took})) AS stretch FROM magnetis_ops.api_calls) AS stretches"
        ).fetchone()
    assert row
    return row


def rounds(seconds: float) -> Iterator[int]:
    """Count rounds that fit into so many seconds: one in any case."""
    began = time.monotonic()
    for number in range(MOST_ROUNDS):
        yield number
        took = time.monotonic() - began
        if took / (number + 1) + took > seconds:
            return


def measure_ranges(bench: Bench) -> None:
    print(
        "a ranged run of calls (20 a day), process from start to end, over the same reading without Dagster",
        flush=True,
    )
    alone: dict[int, list[Run]] = {days: [] for days in SPANS}
    whole: dict[int, list[Run]] = {days: [] for days in SPANS}
    with sandbox(SandboxOptions(calls_per_day=20, daily_quota=None, cache_bytes=2**30)) as api:
        api.make(FIRST, FIRST + timedelta(days=max(SPANS) - 1))
        for _ in rounds(RANGES_SECONDS):
            for days in SPANS:
                span = (str(FIRST), str(FIRST + timedelta(days=days - 1)))
                alone[days].append(bench.run(api, ("alone", *span, "calls")))
                whole[days].append(bench.run(api, ("in_process", "calls", *span)))
    added: dict[int, float] = {}
    computed: dict[int, float] = {}
    for days in SPANS:
        ours, reading = seconds_of(whole[days]), seconds_of(alone[days])
        added[days] = ours - reading
        computed[days] = processor_of(whole[days]) - processor_of(alone[days])
        a_day = 1000 * added[days] / days
        print(
            f"  {days:>5,} days: {ours:6.2f} s over {reading:5.2f} s: {added[days]:6.2f} s more, {a_day:6.1f} ms a day; "
            f"{computed[days]:.2f} s of processor"
        )
    short, middling, long = SPANS

    def slope(values: Mapping[int, float]) -> float:
        return 1000 * (values[long] - values[middling]) / (long - middling)

    each = slope(added)
    verdict = "kept" if each <= AIM else "MISSED"
    print(
        f"  a partition, from {middling} to {long:,} days: {each:.1f} ms (aim: at most {AIM}): {verdict}; "
        f"{slope(computed):.1f} ms of processor"
    )
    names = {
        name
        for runs in whole.values()
        for run in runs
        for name in run.parts
        if name.startswith("write ")
    }
    writes = {name: slope({days: part_of(whole[days], name) for days in SPANS}) for name in names}
    largest = sorted(writes, key=lambda name: writes[name], reverse=True)[:3]
    told = ", ".join(f"{writes[name]:.1f} ms {name.removeprefix('write ')}" for name in largest)
    print(
        f"  of these to write {told}; all else {each - sum(writes[name] for name in largest):.1f} ms"
    )
    once = added[short] - short * each / 1000
    imports = part_of(whole[short], "imports") - part_of(alone[short], "imports")
    storage = part_of(whole[short], "instance")
    plan = part_of(whole[short], "plan") - sum(
        part_of(whole[short], name) for name in names if name.endswith("_PLANNED")
    )
    print(
        f"  a run, however many its days: {once:.2f} s, or {1000 * once / short:.0f} ms a day where there are {short}: "
        f"Dagster's imports {imports:.2f} s, opening its storage {storage:.2f} s, planning {plan:.2f} s"
    )
    print(f"  ({len(whole[short])} rounds)", flush=True)


def measure_daily(bench: Bench) -> None:
    settings, catalogue = Settings.model_construct(), load_catalogue()
    today = datetime.now(settings.timezone).date()
    yesterday = today - timedelta(days=1)
    spans = {
        Kind.EVENTS: (str(yesterday - timedelta(days=settings.lookback_days)), str(yesterday)),
        Kind.SNAPSHOT: (str(today), str(today)),
    }
    names = {
        kind: [collection.name for collection in catalogue.enabled if collection.kind is kind]
        for kind in Kind
    }
    print(
        f"a daily run: {settings.lookback_days + 1} days of {len(names[Kind.EVENTS])} events collections (120 calls a day) "
        f"and {len(names[Kind.SNAPSHOT])} snapshots",
        flush=True,
    )
    alone: list[Run] = []
    found: dict[str, list[Run]] = {executor: [] for executor in EXECUTORS}
    with sandbox(SandboxOptions(daily_quota=None)) as api:
        for _ in rounds(DAILY_SECONDS):
            alone.append(bench.run(api, *(("alone", *spans[kind], *names[kind]) for kind in Kind)))
            for executor, runs in found.items():
                runs.append(
                    bench.run(api, *((executor, JOB_NAMES[kind], *spans[kind]) for kind in Kind))
                )
    over, most = {}, {}
    show(
        "without Dagster",
        alone,
        {
            "imports": part_of(alone, "imports"),
            "reading": median(run.parts["run"] - run.api for run in alone),
        },
    )
    cores = multiprocessing.cpu_count()
    for executor, runs in found.items():
        # the executor starts as many steps at once as there are cores
        at_once = cores if executor == "multiprocess" else 1
        parts = {
            "imports": part_of(runs, "imports"),
            "opening Dagster's storage": part_of(runs, "instance"),
            "planning": part_of(runs, "plan"),
            "the steps": median(run.parts["steps"] / at_once - run.api for run in runs),
            "getting them started and ended": median(
                run.parts["run"] - run.parts["plan"] - run.parts["steps"] / at_once for run in runs
            ),
        }
        over[executor] = show(NAMES[executor], runs, parts)
        if executor == "in_process":
            print(
                f"    writing events, in planning and in the steps: {median(map(Run.written, runs)):.1f}"
            )
        most[executor] = max(parts, key=lambda name: parts[name])
    best, other = sorted(over, key=lambda executor: over[executor])
    print(f"  most of the overhead: {most[best]} ({NAMES[best]}), {most[other]} ({NAMES[other]})")
    computed = processor_of(found[other]) / processor_of(found[best])
    print(
        f"  {NAMES[other]}: {over[other] / over[best]:.1f} times the overhead, {over[other] - over[best]:.1f} s more; "
        f"{computed:.1f} times the processor"
    )
    if best == "in_process":
        in_turn = round(median(run.rounds for run in found[best]))
        worth = (over[other] - over[best]) / (in_turn * (1 - 1 / cores))
        print(
            f"  {in_turn} answers are waited for in turn: {cores} steps at a time win where one takes over {worth:.1f} s"
        )
    print(f"  by this measurement: {best}_executor ({len(alone)} rounds)", flush=True)


def show(name: str, runs: Sequence[Run], parts: dict[str, float]) -> float:
    """Print what the runs took, return the seconds beyond the API's, and put what is left of them into `parts`."""
    over = median(run.seconds - run.api for run in runs)
    parts["starting and ending Python"] = over - sum(parts.values())
    told = ", ".join(f"{part} {value:.1f}" for part, value in parts.items())
    print(
        f"  {name:<26} {seconds_of(runs):5.1f} s ({processor_of(runs):.1f} s of processor), of these API "
        f"{median(run.api for run in runs):.1f}, overhead {over:.1f}: {told}"
    )
    return over


def seconds_of(runs: Sequence[Run]) -> float:
    return median(run.seconds for run in runs)


def processor_of(runs: Sequence[Run]) -> float:
    return median(run.processor for run in runs)


def part_of(runs: Sequence[Run], name: str) -> float:
    return median(run.parts.get(name, 0.0) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="these parts")
    options = parser.parse_args()
    # whoever ends the benchmark ends what it started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    try:
        facts = (
            f"{multiprocessing.cpu_count()} cores",
            f"load {os.getloadavg()[0]:.1f}",
            f"Python {platform.python_version()}",
        )
        print(*facts, f"Dagster {version('dagster')}", sep=", ", flush=True)
        bench = Bench(home)
        if "ranges" in options.only:
            measure_ranges(bench)
        if "daily" in options.only:
            measure_daily(bench)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
