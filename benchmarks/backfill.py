"""What a backfill costs: API calls, seconds and memory, beside the straight line.

    .venv/bin/python benchmarks/backfill.py [--only rate] [--full]

Every contender is a process of its own, reading the same sandbox (a process of its own, on loopback) into a database of its own on
the same embedded PostgreSQL with its durable defaults. Calls are counted by the sandbox, rows by the database, memory from outside.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import httpx
import psutil
import psycopg

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.sandbox import SANDBOX_KEY, SandboxOptions, SandboxServer
from magnetis_dagster.warehouse.migrate import migrate

HERE = Path(__file__).parent
SPAWN = multiprocessing.get_context("spawn")
CALLS_PER_DAY = 10_000
FIRST = date(2025, 1, 1)
PARTS = ("rate",)
LONGEST = 1800
"""Seconds for one contender."""


@dataclass(frozen=True)
class Run:
    """What one contender did. Rows are those of its table; seconds its own, after imports."""

    rows: int
    seconds: float
    calls: int
    peak: float
    """Megabytes."""
    digest: int | None = None
    """Of what magnetis.calls holds, but for the moments of reading."""


class Sandbox:
    """A sandbox in a process of its own that tells how many requests it received."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(options, theirs))
        self._process.start()
        self.url: str = self._pipe.recv()

    def received(self) -> int:
        """Requests since the start."""
        self._pipe.send("received")
        return int(self._pipe.recv())

    def make(self, first: date, last: date) -> None:
        """Make the rows of these days, so that no contender waits for them."""
        with httpx.Client(base_url=self.url, headers={"x-api-key": SANDBOX_KEY}) as client:
            for n in range((last - first).days + 1):
                begin = datetime.combine(first + timedelta(days=n), datetime.min.time(), UTC)
                query = {"limit": "1", "from": f"{begin:%Y%m%d%H%M%S}", "to": f"{begin + timedelta(hours=23):%Y%m%d%H%M%S}"}
                client.get("/calls", params=query).raise_for_status()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def serve(options: SandboxOptions, pipe: Connection) -> None:
    with SandboxServer(options) as server:
        server.app.keep_requests = False
        pipe.send(server.url)
        while pipe.recv():
            pipe.send(server.received)


@contextmanager
def sandbox(options: SandboxOptions) -> Iterator[Sandbox]:
    found = Sandbox(options)
    try:
        yield found
    finally:
        found.stop()


class Bench:
    """Runs contenders on one database server."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._databases = 0

    def run(self, api: Sandbox, command: Sequence[str | Path], days: tuple[date, date], *more: str, table: bool = True) -> Run:
        """Run `command API KEY DATABASE FIRST LAST MORE` on a fresh database, by default with our tables in it."""
        database = self._database(table=table)
        before = api.received()
        arguments = [*command, api.url, SANDBOX_KEY, database, *map(str, days), *more]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            environment = os.environ | {"HOME": str(self._home), "TMPDIR": str(self._home)}
            with subprocess.Popen(arguments, stdout=output, stderr=errors, cwd=self._home, env=environment) as process:
                try:
                    peak = watch(process)
                finally:
                    process.kill()
            output.seek(0)
            errors.seek(0)
            if process.returncode:
                raise SystemExit(f"{' '.join(map(str, command))} failed:\n{errors.read()[-3000:].decode(errors='replace')}")
            told = json.loads(output.read().splitlines()[-1])
        rows, digest = (told["rows"], None) if not table else self._held(database)
        if rows != told["rows"]:
            raise SystemExit(f"{command[-1]} tells {told['rows']} rows, its table holds {rows}")
        return Run(rows, told["seconds"], api.received() - before, peak, digest)

    def _database(self, *, table: bool) -> str:
        self._databases += 1
        url = embedded.start(self._home, database=f"run_{self._databases}")
        if table:
            engine = connect(url)
            migrate(engine, load_catalogue())
            engine.dispose()
        with psycopg.connect(url, autocommit=True) as connection:
            # what the last contender left to be written is not the next one's
            connection.execute("CHECKPOINT")
        return url

    def _held(self, database: str) -> tuple[int, int]:
        row = "to_jsonb(t) - ARRAY['first_seen_at', 'last_seen_at', 'changed_at']"
        with psycopg.connect(database) as connection:
            found = connection.execute(
                f"SELECT count(*), sum(hashtextextended(({row})::text, 0)) FROM magnetis.calls AS t"
            ).fetchone()
        assert found
        return found

    def drop(self) -> None:
        """Drop the database of the last run, its rows are no longer needed."""
        with psycopg.connect(embedded.start(self._home, database="postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE run_{self._databases} WITH (FORCE)")


def watch(process: "subprocess.Popen[bytes]") -> float:
    """Wait for the process and return its largest resident memory in megabytes, sampled 50 times a second."""
    peak, end, seen = 0, time.monotonic() + LONGEST, psutil.Process(process.pid)
    while process.poll() is None:
        if time.monotonic() > end:
            raise SystemExit(f"not done after {LONGEST} s: {process.args!r}")
        try:
            peak = max(peak, seen.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    process.wait()
    return peak / 2**20


OURS = (sys.executable, HERE / "_ours.py")
STRAIGHT = (sys.executable, HERE / "_straight_line.py")


def measure_rate(bench: Bench, *, full: bool) -> None:
    days = 100 if full else 20
    rows = days * CALLS_PER_DAY
    print(f"rows a second from the API to the merged table, about {rows:,} calls, runs in turn", flush=True)
    span = (FIRST, FIRST + timedelta(days=days - 1))
    with sandbox(SandboxOptions(calls_per_day=CALLS_PER_DAY, daily_quota=None, cache_bytes=2 * 2**30)) as api:
        api.make(*span)
        runs: dict[str, list[Run]] = {"ours": [], "straight line": []}
        for _ in range(2):
            for name, command in (("ours", OURS), ("straight line", STRAIGHT)):
                run = bench.run(api, command, span)
                bench.drop()
                runs[name].append(run)
                show(name, run)
        if len({run.digest for found in runs.values() for run in found}) > 1:
            raise SystemExit("the tables of ours and of the straight line differ")
        ours, straight = (median(run.rows / run.seconds for run in runs[name]) for name in runs)
        print(f"  ours / straight line: {ours / straight:.2f} (aim: at least 0.75)", flush=True)
        small = bench.run(api, OURS, (FIRST, FIRST + timedelta(days=9)))
        bench.drop()
        show("ours", small)
        peak = median(run.peak for run in runs["ours"])
        print(
            f"  ours, peak memory at {rows:,} over 100,000: {peak / small.peak:.3f} (aim: at most 1.15 for 1,000,000)", flush=True
        )


def show(name: str, run: Run) -> None:
    least = -(-run.rows // 250)
    print(
        f"  {name:<34} {run.rows:>9,} rows {run.seconds:7.1f} s {run.rows / run.seconds:>8,.0f} rows/s  {run.calls:>6,} calls "
        f"({run.calls / least:.3f} of the least)  peak {run.peak:4.0f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--full", action="store_true", help="the sizes of the claims")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    bench = Bench(home)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(
        f"{multiprocessing.cpu_count()} cores, load {load}, Python {platform.python_version()}, psycopg {psycopg.__version__}",
        flush=True,
    )
    try:
        if "rate" in options.only:
            measure_rate(bench, full=options.full)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
