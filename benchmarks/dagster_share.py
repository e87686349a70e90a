"""Measure what Dagster adds to a load: per partition, per run, and by executor.

    .venv/bin/python benchmarks/dagster_share.py [--only ranges daily]

Measures a ranged run of `calls` over 30, 365 and 1,095 days, and the daily run: all 18 collections
in its two jobs. The daily run has all steps in one process, or a process for each step, forked from
one that has imported everything. Each run is a process of its own, as in production, timed from
start to end. The same load without Dagster is timed beside it.

Dagster's storage is the shipped one, on the embedded PostgreSQL with its durable defaults, with a
fresh database for each run. The sandbox is a process of its own and responds without delay; its
time is reported separately. The results are medians of as many rounds as fit. On two idle cores the
benchmark takes less than four minutes. If other work shares the cores, compare the seconds of
processor time.
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
from _privacy_settings import VARIABLES
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
"""Milliseconds per partition."""
EXECUTORS = ("in_process", "multiprocess")
NAMES = {"in_process": "all steps in one process", "multiprocess": "a process for each step"}
RANGES_SECONDS, DAILY_SECONDS, MOST_ROUNDS = 100.0, 80.0, 5
RUN_TIMEOUT = 150.0
"""Seconds that one run may take; the longest takes about 60."""
PARTS = ("ranges", "daily")


@dataclass(frozen=True)
class Run:
    """The times of one process, or the sums of the processes of one daily run."""

    seconds: float
    """Seconds from before its start to after its end."""
    processor: float
    """Processor seconds of the process, its children and the database server.

    Other work on the machine hardly changes them.
    """
    parts: dict[str, float]
    api: float = 0.0
    """Seconds in which at least one request was in flight."""
    rounds: int = 0
    """Number of such stretches: requests that were sent one after the other."""

    def __add__(self, other: "Run") -> "Run":
        """Return the sums of two runs."""
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
        """Return the seconds in which the run's own process wrote events."""
        return sum(seconds for name, seconds in self.parts.items() if name.startswith("write "))


class Bench:
    """Runs processes, each on its own database that already has all tables."""

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
            # The pending writes of one run must not slow down the next one.
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
        environment = (
            clean
            | VARIABLES
            | {
                "DAGSTER_HOME": str(self._home / "dagster"),
                "MAGNETIS_API_KEY": SANDBOX_KEY,
                "MAGNETIS_API_URL": url,
                "MAGNETIS_DAILY_QUOTA": str(10**6),
                "MAGNETIS_DATABASE_URL": database,
                "MAGNETIS_START_DATE": str(FIRST),
            }
        )
        if not url:
            del environment["MAGNETIS_API_URL"]
        command: list[str | Path] = [sys.executable, HERE / "_dagster_jobs.py", *arguments]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            began, used = time.perf_counter(), self._processor()
            # The working directory has no .env.
            with subprocess.Popen(
                command, stdout=output, stderr=errors, cwd=self._home, env=environment
            ) as process:
                try:
                    process.wait(RUN_TIMEOUT)
                finally:
                    end(process)
            seconds = time.perf_counter() - began
            output.seek(0)
            errors.seek(0)
            if process.returncode:
                stderr = errors.read()[-3000:].decode(errors="replace")
                raise SystemExit(f"{' '.join(arguments)} failed:\n{stderr}")
            parts = json.loads(output.read().splitlines()[-1])
            return Run(seconds, self._processor() - used, parts)

    def _processor(self) -> float:
        """Return the processor seconds of all finished children and of the database server."""
        ours = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = ours.ru_utime + ours.ru_stime
        pid_file = self._home / "postgres" / "postmaster.pid"
        server = psutil.Process(int(pid_file.read_text().split()[0]))
        for process in (server, *server.children()):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
                if process == server:  # and its finished children
                    used += times.children_user + times.children_system
        return used


API_TIME = """
    SELECT coalesce(sum(extract(epoch FROM upper(stretch) - lower(stretch))), 0)::float8,
        count(stretch)
    FROM (
        SELECT unnest(range_agg(
            tstzrange(charged_at, charged_at + milliseconds * interval '1 ms', '[]')
        )) AS stretch
        FROM magnetis_ops.api_calls
    ) AS stretches"""
"""Seconds in which at least one request was in flight, and the number of such stretches."""


def _api_time(database: str) -> tuple[float, int]:
    with psycopg.connect(database) as connection:
        row = connection.execute(API_TIME).fetchone()
    assert row
    return row


def rounds(seconds: float) -> Iterator[int]:
    """Yield the numbers of the rounds that fit into `seconds`: at least one."""
    began = time.monotonic()
    for number in range(MOST_ROUNDS):
        yield number
        elapsed = time.monotonic() - began
        if elapsed / (number + 1) + elapsed > seconds:
            return


def measure_ranges(bench: Bench) -> None:
    print(
        "a ranged run of calls (20 a day), process from start to end, "
        "compared with the same load without Dagster",
        flush=True,
    )
    without: dict[int, list[Run]] = {days: [] for days in SPANS}
    whole: dict[int, list[Run]] = {days: [] for days in SPANS}
    with sandbox(SandboxOptions(calls_per_day=20, daily_quota=None, cache_bytes=2**30)) as api:
        api.make(FIRST, FIRST + timedelta(days=max(SPANS) - 1))
        for _ in rounds(RANGES_SECONDS):
            for days in SPANS:
                span = (str(FIRST), str(FIRST + timedelta(days=days - 1)))
                without[days].append(bench.run(api, ("alone", *span, "calls")))
                whole[days].append(bench.run(api, ("in_process", "calls", *span)))
    added: dict[int, float] = {}
    computed: dict[int, float] = {}
    for days in SPANS:
        ours, load = seconds_of(whole[days]), seconds_of(without[days])
        added[days] = ours - load
        computed[days] = processor_of(whole[days]) - processor_of(without[days])
        print(
            f"  {days:>5,} days: {ours:6.2f} s, {load:5.2f} s without Dagster: "
            f"{added[days]:6.2f} s more, {1000 * added[days] / days:6.1f} ms a day; "
            f"{computed[days]:.2f} s of processor time"
        )
    short, middling, long = SPANS

    def slope(values: Mapping[int, float]) -> float:
        return 1000 * (values[long] - values[middling]) / (long - middling)

    each = slope(added)
    verdict = "met" if each <= AIM else "MISSED"
    print(
        f"  a partition, from {middling} to {long:,} days: {each:.1f} ms "
        f"(aim: at most {AIM}): {verdict}; {slope(computed):.1f} ms of processor time"
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
    parts = ", ".join(f"{writes[name]:.1f} ms {name.removeprefix('write ')}" for name in largest)
    rest = each - sum(writes[name] for name in largest)
    print(f"  of these, writing takes {parts}; the rest takes {rest:.1f} ms")
    once = added[short] - short * each / 1000
    imports = part_of(whole[short], "imports") - part_of(without[short], "imports")
    storage = part_of(whole[short], "instance")
    plan = part_of(whole[short], "plan") - sum(
        part_of(whole[short], name) for name in names if name.endswith("_PLANNED")
    )
    print(
        f"  a run, whatever its number of days: {once:.2f} s, "
        f"or {1000 * once / short:.0f} ms a day with {short} days: "
        f"Dagster's imports {imports:.2f} s, opening its storage {storage:.2f} s, "
        f"planning {plan:.2f} s"
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
        f"a daily run: {settings.lookback_days + 1} days of {len(names[Kind.EVENTS])} events "
        f"collections (120 calls a day) and {len(names[Kind.SNAPSHOT])} snapshots",
        flush=True,
    )
    without: list[Run] = []
    found: dict[str, list[Run]] = {executor: [] for executor in EXECUTORS}
    with sandbox(SandboxOptions(daily_quota=None)) as api:
        for _ in rounds(DAILY_SECONDS):
            loads = [("alone", *spans[kind], *names[kind]) for kind in Kind]
            without.append(bench.run(api, *loads))
            for executor, runs in found.items():
                runs.append(
                    bench.run(api, *((executor, JOB_NAMES[kind], *spans[kind]) for kind in Kind))
                )
    over, most = {}, {}
    show(
        "without Dagster",
        without,
        {
            "imports": part_of(without, "imports"),
            "load": median(run.parts["run"] - run.api for run in without),
        },
    )
    cores = multiprocessing.cpu_count()
    for executor, runs in found.items():
        # The multiprocess executor runs one step per core at a time.
        parallel = cores if executor == "multiprocess" else 1
        parts = {
            "imports": part_of(runs, "imports"),
            "opening Dagster's storage": part_of(runs, "instance"),
            "planning": part_of(runs, "plan"),
            "the steps": median(run.parts["steps"] / parallel - run.api for run in runs),
            "starting and ending the steps": median(
                run.parts["run"] - run.parts["plan"] - run.parts["steps"] / parallel for run in runs
            ),
        }
        over[executor] = show(NAMES[executor], runs, parts)
        if executor == "in_process":
            written = median(map(Run.written, runs))
            print(f"    writing events, in planning and in the steps: {written:.1f}")
        most[executor] = max(parts, key=lambda name: parts[name])
    best, other = sorted(over, key=lambda executor: over[executor])
    print(f"  most of the overhead: {most[best]} ({NAMES[best]}), {most[other]} ({NAMES[other]})")
    computed = processor_of(found[other]) / processor_of(found[best])
    print(
        f"  {NAMES[other]}: {over[other] / over[best]:.1f} times the overhead, "
        f"{over[other] - over[best]:.1f} s more; {computed:.1f} times the processor time"
    )
    if best == "in_process":
        in_turn = round(median(run.rounds for run in found[best]))
        worth = (over[other] - over[best]) / (in_turn * (1 - 1 / cores))
        print(
            f"  the run waits for {in_turn} consecutive responses: {cores} parallel steps are "
            f"faster if one response takes over {worth:.1f} s"
        )
    print(f"  faster in this measurement: {best}_executor ({len(without)} rounds)", flush=True)


def show(name: str, runs: Sequence[Run], parts: dict[str, float]) -> float:
    """Print the times of the runs, and return their seconds beyond the API's.

    Seconds that no part explains are added to `parts`.
    """
    over = median(run.seconds - run.api for run in runs)
    parts["starting and ending Python"] = over - sum(parts.values())
    details = ", ".join(f"{part} {value:.1f}" for part, value in parts.items())
    print(
        f"  {name:<26} {seconds_of(runs):5.1f} s ({processor_of(runs):.1f} s of processor time), "
        f"of these API {median(run.api for run in runs):.1f}, overhead {over:.1f}: {details}"
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
    parser.add_argument(
        "--only", choices=PARTS, nargs="+", default=PARTS, help="measure only these parts"
    )
    options = parser.parse_args()
    # A terminated benchmark must end the processes that it started.
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
