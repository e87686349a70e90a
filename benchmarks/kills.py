"""Calls spent by a backfill that is killed again and again (SIGKILL) over those of one that is left alone: three years of calls.

    .venv/bin/python benchmarks/kills.py [--kills 20] [--a-day 60,600] [--seed 1]

The sandbox counts the calls that it receives, with 20 ms latency. The child is killed in the instant in which it receives the call
at which that was to happen; these are drawn from the calls of the uninterrupted run, or given equal distances with `--even`. The
database is embedded, fresh for each run, and survives the kills. Aim: 5 % more calls, and 2 a kill.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from datetime import date, timedelta
from pathlib import Path

from sqlalchemy import text

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.ingest import RunIdentity
from magnetis_dagster.sandbox import SANDBOX_KEY, Request, SandboxOptions, SandboxServer
from magnetis_dagster.settings import Settings
from magnetis_dagster.wiring import open_ingestion

FIRST, LAST = date(2023, 1, 1), date(2025, 12, 31)
LATENCY = 0.02
PATIENCE = 1800.0
"""Seconds for one child; the longest takes about 60."""
FORKSERVER = multiprocessing.get_context("forkserver")
"""Children are forked from one process that has imported everything: a fresh Python takes a second for that."""
FORKSERVER.set_forkserver_preload(
    ["magnetis_dagster.wiring", "sqlalchemy.dialects.postgresql.psycopg", "psycopg"]
)


def load(url: str, database: str, resumes: bool) -> None:
    settings = Settings.load(
        api_url=url, api_key=SANDBOX_KEY, database_url=database, daily_quota=10**6
    )
    catalogue = load_catalogue()
    days = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    with open_ingestion(
        settings, catalogue, RunIdentity("benchmark", "manual", resumes=resumes)
    ) as ingestion:
        for _ in ingestion.read_days(catalogue["calls"], days):
            pass


def killed(sandbox: SandboxServer, database: str, kill_at: list[int]) -> tuple[int, int]:
    """Run the backfill until it ends, killed at the calls `kill_at`; return the calls received and the times it was killed."""
    before, left, kills = sandbox.received, sorted(kill_at), 0
    running: list[int] = []

    def kill(_request: Request) -> None:
        if left and running and sandbox.received - before >= left[0]:
            left.pop(0)
            os.kill(running.pop(), signal.SIGKILL)

    sandbox.intercept(kill)
    while True:
        process = FORKSERVER.Process(target=load, args=(sandbox.url, database, kills > 0))
        process.start()
        assert process.pid
        running[:] = [process.pid]
        process.join(PATIENCE)
        running.clear()
        if process.exitcode != -signal.SIGKILL:
            break
        kills += 1
    if process.exitcode != 0:
        process.kill()
        raise SystemExit(f"the backfill ended with {process.exitcode}")
    return sandbox.received - before, kills


def held(database: str) -> int:
    engine = connect(database)
    with engine.connect() as connection:
        rows = int(
            connection.execute(
                text("SELECT count(*) FROM magnetis.calls WHERE deleted_at IS NULL")
            ).scalar_one()
        )
    engine.dispose()
    return rows


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
                alone, _ = killed(sandbox, embedded.start(home, database=f"alone_{a_day}"), [])
                wanted = range(1, alone + 1)
                at = [alone * n // (arguments.kills + 1) for n in range(1, arguments.kills + 1)]
                if not arguments.even:
                    at = random.Random(arguments.seed).sample(wanted, arguments.kills)
                database = embedded.start(home, database=f"killed_{a_day}")
                spent, kills = killed(sandbox, database, at)
                truth, rows = sandbox.world.count("calls", FIRST, LAST), held(database)
            if rows != truth:
                raise SystemExit(f"{rows} rows held, {truth} at the API")
            most = alone * 1.05 + 2 * kills
            print(
                f"{a_day:>5} calls a day: {alone} calls alone, {spent} with {kills} kills: {spent - alone} more "
                f"({(spent - alone) / max(1, kills):.1f} a kill); {most:.0f} allowed: {'kept' if spent <= most else 'MISSED'}",
                flush=True,
            )
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
