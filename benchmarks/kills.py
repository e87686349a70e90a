"""Compare the API calls of a backfill that is killed repeatedly with those of an uninterrupted one.

    .venv/bin/python benchmarks/kills.py [--kills 20] [--a-day 60,600] [--seed 1]

Loads three years of calls. The sandbox counts the requests that it receives, with 20 ms latency. It
kills the child (SIGKILL) when it receives certain requests: random ones of the uninterrupted run,
or ones at equal distances with `--even`. The database is embedded, fresh for each run, and survives
the kills. Aim: at most 5 % more calls, plus 2 a kill.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from datetime import date
from pathlib import Path

import _privacy_settings  # noqa: F401 - sets variables
from sqlalchemy import text

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.dates import days_between
from magnetis_dagster.ingest import RunIdentity
from magnetis_dagster.sandbox import SANDBOX_KEY, Request, SandboxOptions, SandboxServer
from magnetis_dagster.settings import Settings
from magnetis_dagster.wiring import open_ingestion

FIRST, LAST = date(2023, 1, 1), date(2025, 12, 31)
LATENCY = 0.02
CHILD_TIMEOUT = 1800.0
"""Seconds that one child may take; the longest takes about 60."""
FORKSERVER = multiprocessing.get_context("forkserver")
"""Forks children from one process with all imports, which take a fresh Python a second."""
FORKSERVER.set_forkserver_preload(
    ["magnetis_dagster.wiring", "sqlalchemy.dialects.postgresql.psycopg", "psycopg"]
)


def load(url: str, database: str, resumes: bool) -> None:
    settings = Settings.load(
        api_url=url, api_key=SANDBOX_KEY, database_url=database, daily_quota=10**6
    )
    catalogue = load_catalogue()
    identity = RunIdentity("benchmark", "manual", resumes=resumes)
    with open_ingestion(settings, catalogue, identity) as ingestion:
        for _ in ingestion.read_days(catalogue["calls"], days_between(FIRST, LAST)):
            pass


def run_backfill(sandbox: SandboxServer, database: str, kill_at: list[int]) -> tuple[int, int]:
    """Run the backfill to its end, killing it at the requests `kill_at`.

    Returns the number of requests received and the number of kills.
    """
    before, pending, kills = sandbox.received, sorted(kill_at), 0
    running: list[int] = []

    def kill(_request: Request) -> None:
        if pending and running and sandbox.received - before >= pending[0]:
            pending.pop(0)
            os.kill(running.pop(), signal.SIGKILL)

    sandbox.intercept(kill)
    while True:
        process = FORKSERVER.Process(target=load, args=(sandbox.url, database, kills > 0))
        process.start()
        assert process.pid
        running[:] = [process.pid]
        process.join(CHILD_TIMEOUT)
        running.clear()
        if process.exitcode != -signal.SIGKILL:
            break
        kills += 1
    if process.exitcode != 0:
        process.kill()
        raise SystemExit(f"the backfill ended with {process.exitcode}")
    return sandbox.received - before, kills


def count_rows(database: str) -> int:
    engine = connect(database)
    with engine.connect() as connection:
        count = text("SELECT count(*) FROM magnetis.calls WHERE deleted_at IS NULL")
        rows = int(connection.execute(count).scalar_one())
    engine.dispose()
    return rows


def choose_kills(requests: int, arguments: argparse.Namespace) -> list[int]:
    """Return the numbers of the requests at which the backfill is killed."""
    if arguments.even:
        return [requests * n // (arguments.kills + 1) for n in range(1, arguments.kills + 1)]
    return random.Random(arguments.seed).sample(range(1, requests + 1), arguments.kills)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--a-day", default="60,600", help="calls a day, separated by commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--even", action="store_true", help="kill at equal distances")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    try:
        for a_day in map(int, arguments.a_day.split(",")):
            options = SandboxOptions(
                calls_per_day=a_day,
                daily_quota=None,
                first_day=FIRST,
                latency=LATENCY,
                cache_bytes=2**30,
            )
            with SandboxServer(options) as sandbox:
                database = embedded.start(home, database=f"uninterrupted_{a_day}")
                uninterrupted, _ = run_backfill(sandbox, database, [])
                kill_at = choose_kills(uninterrupted, arguments)
                database = embedded.start(home, database=f"killed_{a_day}")
                spent, kills = run_backfill(sandbox, database, kill_at)
                expected, rows = sandbox.world.count("calls", FIRST, LAST), count_rows(database)
            if rows != expected:
                raise SystemExit(f"the table contains {rows} rows, the API has {expected}")
            more, limit = spent - uninterrupted, uninterrupted * 1.05 + 2 * kills
            print(
                f"{a_day:>5} calls a day: {uninterrupted} API calls uninterrupted, "
                f"{spent} with {kills} kills: {more} more ({more / max(1, kills):.1f} a kill); "
                f"aim: at most {limit:.0f}: {'met' if spent <= limit else 'MISSED'}",
                flush=True,
            )
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
