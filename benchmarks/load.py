"""Measure rows per second and peak memory of a load of calls.

    .venv/bin/python benchmarks/load.py [--small]

Loads 100,000 and 1,000,000 calls, each as one range, from the API to the merged table. A sandbox in
its own process serves over loopback. The embedded PostgreSQL is fresh, with its durable defaults.
Each load runs in its own process, whose peak memory is printed. An incomplete load ends the
benchmark with an error.
"""

import argparse
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from datetime import date, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import _privacy_settings  # noqa: F401 - sets variables

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import embedded
from magnetis_dagster.dates import days_between
from magnetis_dagster.ingest import RunIdentity
from magnetis_dagster.sandbox import SANDBOX_KEY, SandboxOptions, serve
from magnetis_dagster.settings import Settings
from magnetis_dagster.wiring import open_ingestion

CALLS_PER_DAY = 10_000
FIRST = date(2025, 1, 1)


def sandbox(pipe: Connection) -> None:
    options = SandboxOptions(calls_per_day=CALLS_PER_DAY, daily_quota=None, cache_bytes=2 * 2**30)
    serve("127.0.0.1", 0, options, started=pipe.send)


def load(url: str, database: str, days: int, pipe: Connection) -> None:
    settings = Settings.load(
        api_url=url, api_key=SANDBOX_KEY, database_url=database, daily_quota=10**6
    )
    catalogue = load_catalogue()
    before = peak_megabytes()
    started = time.perf_counter()
    span = days_between(FIRST, FIRST + timedelta(days=days - 1))
    with open_ingestion(settings, catalogue, RunIdentity("benchmark", "manual")) as ingestion:
        windows = list(ingestion.read_days(catalogue["calls"], span))
    seconds = time.perf_counter() - started
    rows = sum(day.rows for window in windows for day in window.days)
    calls = sum(window.api_calls for window in windows)
    pipe.send((rows, calls, len(windows), seconds, before, peak_megabytes()))


def peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="only 100,000 rows")
    sizes = (10,) if parser.parse_args().small else (10, 100)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=sandbox, args=(theirs,))
    server.start()
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    try:
        url = ours.recv()
        peaks = []
        for days in sizes:
            database = embedded.start(home, database=f"load_{days}")
            process = context.Process(target=load, args=(url, database, days, theirs))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"the load of {days} days failed")
            rows, calls, windows, seconds, before, peak = ours.recv()
            peaks.append(peak)
            print(
                f"{rows:>9,} rows  {seconds:6.1f} s  {rows / seconds:>7,.0f} rows/s  "
                f"{calls} calls ({calls * 250 / rows:.3f} of the minimum)  {windows} windows  "
                f"peak {peak:.0f} MB (imports alone {before:.0f} MB)",
                flush=True,
            )
        if len(peaks) == 2:
            print(f"peak memory, 1,000,000 rows / 100,000 rows: {peaks[1] / peaks[0]:.3f}")
    finally:
        server.terminate()
        server.join()
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
