"""Measure the cost of a grant of the quota, and verify that it respects a calendar day.

    .venv/bin/python benchmarks/quota.py [--seconds 4] [--alone]

Compares the ledger with pyrate-limiter's PostgreSQL bucket in the same run:

1. Grants per second and their p50 and p99 with 1, 4 and 16 processes, on a fresh embedded
PostgreSQL with its durable defaults (fsync on, every commit awaited).
2. The time of a request to an API that responds after 100 ms, with and without the ledger.
3. The calls granted on 26 October 2025 in Paris, a day of 25 hours, to a client that requests the
whole limit about every hour.

pyrate-limiter is not a dependency: uv installs it into an environment for this run, which needs a
package index. `--alone` leaves it out. The benchmark takes one to two minutes.
"""

import argparse
import asyncio
import json
import multiprocessing
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean, median, quantiles
from zoneinfo import ZoneInfo

import psycopg

from magnetis_dagster.api import ApiCall, CallOutcome, MagnetisClient, QuotaGuard
from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.quota import QuotaPolicy, QuotaWindow
from magnetis_dagster.quota.guard import LedgerGuard, RunIdentity
from magnetis_dagster.quota.ledger import Charge, Ledger, QuotaExhausted
from magnetis_dagster.sandbox import SANDBOX_KEY, SandboxOptions, serve
from magnetis_dagster.warehouse.migrate import migrate

PARIS = ZoneInfo("Europe/Paris")
PROCESSES = (1, 4, 16)
ENOUGH = 10**6
"""A limit that no measurement reaches."""
LATENCY = 0.1
CHARGE = Charge(collection="calls", route="/calls", page=1, lane="backfill", run_id="benchmark")
SMALL_LIMIT = 20
PEER = Path(__file__).with_name("_quota_peer.py")
PEER_PACKAGES = ("pyrate-limiter[all]>=4", "psycopg[binary]>=3.2", "psycopg-pool")
SPAWN = multiprocessing.get_context("spawn")


def ledger(url: str, *, limit: int = ENOUGH, window: QuotaWindow = QuotaWindow.CALENDAR) -> Ledger:
    return Ledger(
        connect(url),
        key_fingerprint="benchmark",
        policy=QuotaPolicy(limit=limit, zone=PARIS, window=window),
    )


def charge_repeatedly(
    url: str, window: QuotaWindow, seconds: float, begin: Barrier, results: "Queue[list[float]]"
) -> None:
    book = ledger(url, window=window)
    book.charge(CHARGE)
    begin.wait()
    durations, end = [], time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        book.charge(CHARGE)
        durations.append((time.perf_counter() - started) * 1000)
    results.put(durations)


def our_grants(
    url: str, processes: int, seconds: float, window: QuotaWindow = QuotaWindow.CALENDAR
) -> list[float]:
    """Return the milliseconds of every grant."""
    begin, results = SPAWN.Barrier(processes), SPAWN.Queue()
    arguments = (url, window, seconds, begin, results)
    workers = [SPAWN.Process(target=charge_repeatedly, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    durations = [duration for _ in workers for duration in results.get()]
    for worker in workers:
        worker.join()
    return durations


class Peer:
    """pyrate-limiter in an environment of its own under `home`."""

    def __init__(self, home: Path, url: str) -> None:
        uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
        if uv is None:
            raise SystemExit("uv is needed to install pyrate-limiter; --alone leaves it out.")
        program = "Scripts/python.exe" if platform.system() == "Windows" else "bin/python"
        self._python = home / program
        self._url = url
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, home], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", self._python, *PEER_PACKAGES], check=True
        )
        self.version = self._run(
            "-c", "from importlib.metadata import version; print(version('pyrate-limiter'))"
        ).strip()

    def grants(self, processes: int, seconds: float) -> list[float]:
        """Return the milliseconds of every grant."""
        output = self._run(PEER, "grants", self._url, str(processes), str(seconds), str(ENOUGH))
        durations: list[float] = json.loads(output)
        return durations

    def calendar(self, moments: list[datetime]) -> dict[str, list[int]]:
        """Return the number of calls that each of its algorithms grants at each moment."""
        timestamps = [str(moment.timestamp()) for moment in moments]
        output = self._run(PEER, "calendar", self._url, str(SMALL_LIMIT), *timestamps)
        granted: dict[str, list[int]] = json.loads(output)
        return granted

    def _run(self, *arguments: str | Path) -> str:
        return subprocess.run(
            [self._python, *arguments], check=True, capture_output=True, text=True, timeout=300
        ).stdout


def our_calendar(url: str, moments: list[datetime]) -> list[int]:
    book = ledger(url, limit=SMALL_LIMIT)
    granted = []
    for moment in moments:
        with psycopg.connect(url) as connection:
            connection.execute(
                "CREATE OR REPLACE FUNCTION magnetis_ops.now() RETURNS timestamptz "
                f"LANGUAGE sql VOLATILE AS 'SELECT ''{moment.isoformat()}''::timestamptz'"
            )
        granted.append(0)
        for _ in range(SMALL_LIMIT):
            try:
                book.charge(Charge(collection="calls", route="/calls", page=1, lane="manual"))
            except QuotaExhausted:
                break
            granted[-1] += 1
    return granted


class FreeGuard:
    """Grants every request and records nothing."""

    async def charge(self, _call: ApiCall) -> int:
        """Grant."""
        return 0

    async def confirm(self, charge: int) -> int:
        """Confirm."""
        return charge

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        """Forget."""


def sandbox(pipe: Connection) -> None:
    serve(
        "127.0.0.1",
        0,
        SandboxOptions(calls_per_day=10_000, daily_quota=None, latency=LATENCY),
        started=pipe.send,
    )


@contextmanager
def slow_api() -> Iterator[str]:
    ours, theirs = SPAWN.Pipe()
    server = SPAWN.Process(target=sandbox, args=(theirs,))
    server.start()
    try:
        yield ours.recv()
    finally:
        server.terminate()
        server.join()


async def read(api: str, gate: QuotaGuard, concurrency: int, calls: int) -> float:
    """Return the mean milliseconds of a request, with `concurrency` parallel tasks."""
    window = {"from": "20250601000000", "to": "20250602000000"}
    async with MagnetisClient(api, SANDBOX_KEY, gate, concurrency=concurrency) as client:

        async def one_after_another() -> float:
            # The first requests open the connections and start simultaneously.
            for page in range(1, 4):
                await client.page(ApiCall("calls", "/calls", window, page=page))
            started = time.perf_counter()
            for page in range(1, calls + 1):
                await client.page(ApiCall("calls", "/calls", window, page=page))
            return (time.perf_counter() - started) * 1000 / calls

        return mean(await asyncio.gather(*(one_after_another() for _ in range(concurrency))))


def measure_grants(url: str, peer: Peer | None, seconds: float) -> None:
    print(f"grants, durable, {seconds:g} s each         grants/s     p50 ms     p99 ms")
    for processes in PROCESSES:
        ours = show(f"ledger, {processes} processes", our_grants(url, processes, seconds), seconds)
        if peer:
            theirs = show(
                f"pyrate-limiter {peer.version}, {processes} processes",
                peer.grants(processes, seconds),
                seconds,
            )
            print(f"  ledger / pyrate-limiter: {ours / theirs:.1f}x", flush=True)
    with psycopg.connect(url) as connection:
        connection.execute("TRUNCATE magnetis_ops.api_calls")
        connection.execute(
            "INSERT INTO magnetis_ops.api_calls "
            "(key_fingerprint, day, charged_at, settled_at, collection, route, page, lane) "
            "SELECT 'benchmark', current_date, now(), now(), 'calls', '/calls', 1, 'manual' "
            "FROM generate_series(1, 5000)"
        )
    show(
        "rolling window with 5,000 calls, 16 processes",
        our_grants(url, 16, seconds, QuotaWindow.ROLLING),
        seconds,
    )


def show(name: str, durations: list[float], seconds: float) -> float:
    """Print grants per second, p50 and p99; return the grants per second."""
    cuts, rate = quantiles(durations, n=100), len(durations) / seconds
    print(f"  {name:<40} {rate:8,.0f} {cuts[49]:10.1f} {cuts[98]:10.1f}", flush=True)
    return rate


def measure_overhead(url: str) -> None:
    gate = LedgerGuard(ledger(url), RunIdentity("benchmark", "manual"))
    print(
        f"a request to an API that responds after {LATENCY * 1000:.0f} ms, "
        "five rounds of 20 requests for each task"
    )
    with slow_api() as api:
        for concurrency in (1, 8):
            without, with_ledger = [], []
            for _ in range(5):
                without.append(asyncio.run(read(api, FreeGuard(), concurrency, 20)))
                with_ledger.append(asyncio.run(read(api, gate, concurrency, 20)))
            ratio = median(ours / free for ours, free in zip(with_ledger, without, strict=True))
            print(
                f"  {concurrency} at a time: {median(without):.1f} ms without the ledger, "
                f"{median(with_ledger):.1f} ms with it: {(ratio - 1) * 100:+.1f} %",
                flush=True,
            )


def measure_calendar(url: str, peer: Peer | None) -> None:
    day = date(2025, 10, 26)
    begin = datetime(2025, 10, 26, 0, 10, tzinfo=PARIS).astimezone(UTC)
    moments = [begin + timedelta(minutes=61 * turn) for turn in range(36)]
    granted = {"ledger": our_calendar(url, moments)}
    if peer:
        granted |= {
            f"pyrate-limiter, {name}": numbers for name, numbers in peer.calendar(moments).items()
        }
    print(
        f"calls granted on {day} in Paris (25 hours), limit {SMALL_LIMIT}, "
        f"{SMALL_LIMIT} requested every 61 minutes"
    )
    for name, numbers in granted.items():
        on_day = sum(
            number
            for moment, number in zip(moments, numbers, strict=True)
            if moment.astimezone(PARIS).date() == day
        )
        verdict = "within the limit" if on_day <= SMALL_LIMIT else "ABOVE THE LIMIT"
        print(f"  {name:<40} {on_day:>3}   {verdict}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=4, help="length of each measurement of grants"
    )
    parser.add_argument("--alone", action="store_true", help="leave pyrate-limiter out")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    try:
        urls = [
            embedded.start(home, database=name)
            for name in ("grants", "overhead", "calendar", "peer")
        ]
        for url in urls[:3]:
            engine = connect(url)
            migrate(engine, load_catalogue())
            engine.dispose()
        with psycopg.connect(urls[0]) as connection:
            names = ("fsync", "synchronous_commit", "server_version")
            facts = [f"{name} {connection.execute(f'SHOW {name}').fetchone()[0]}" for name in names]
        print(
            f"PostgreSQL: {', '.join(facts)}; {multiprocessing.cpu_count()} cores, "
            f"Python {platform.python_version()}",
            flush=True,
        )
        peer = None if options.alone else Peer(home / "peer", urls[3])
        measure_grants(urls[0], peer, options.seconds)
        measure_overhead(urls[1])
        measure_calendar(urls[2], peer)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
