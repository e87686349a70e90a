"""Measure API calls, seconds and memory of a backfill, and compare other tools.

    .venv/bin/python benchmarks/backfill.py [--only calls rate latency] [--alone] [--full]

The other tools are dlt, a Singer SDK tap, airbyte-cdk, and the straight line: a minimal program
without framework, quota or checks. Every contender is a process of its own. It loads from the same
sandbox (a process of its own, on loopback) into its own database on the same embedded PostgreSQL
with its durable defaults. The sandbox counts the calls, memory is sampled from outside, and the
contender measures its own seconds after its imports. Before seconds are measured, the sandbox
generates its rows. Our table and the straight line's table must then contain the same values.

Peers are not dependencies: uv installs them from benchmarks/peers/*.lock, which needs a package
index. Afterwards nothing leaves the machine. dlt and the tap load PostgreSQL; airbyte-cdk's source
only prints its records. `--alone` leaves the peers out. Without `--full` it takes less than ten
minutes.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import signal
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
import orjson
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
THREE_YEARS = (date(2023, 1, 1), date(2025, 12, 31))
PAGE = 250
LATENCY = 0.2
PARTS = ("calls", "rate", "latency")
CONTENDER_TIMEOUT = 1800
"""Seconds that one contender may take."""


@dataclass(frozen=True)
class Run:
    """The result of one contender: rows of its table, its own seconds after imports."""

    rows: int
    seconds: float
    calls: int
    peak: float
    """Megabytes."""
    digest: int | None = None
    """Digest of the rows of magnetis.calls, without the times of reads."""


class Sandbox:
    """A sandbox in a process of its own that counts the requests that it receives."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(options, theirs))
        self._process.start()
        self.url: str = self._pipe.recv()

    def received(self) -> int:
        """Return the number of requests since the start."""
        self._pipe.send("received")
        return int(self._pipe.recv())

    def make(self, first: date, last: date) -> None:
        """Generate the rows of these days in advance, so that no contender waits for them.

        Our program also requests hours of the adjacent days, so those are generated too.
        """
        with httpx.Client(base_url=self.url, headers={"x-api-key": SANDBOX_KEY}) as client:
            for n in range(-1, (last - first).days + 2):
                begin = datetime.combine(first + timedelta(days=n), datetime.min.time(), UTC)
                query = {
                    "limit": "1",
                    "from": f"{begin:%Y%m%d%H%M%S}",
                    "to": f"{begin + timedelta(hours=23):%Y%m%d%H%M%S}",
                }
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

    def run(self, api: Sandbox, contender: "Contender", days: tuple[date, date]) -> Run:
        """Run a contender on a fresh database, with our tables unless it is a peer."""
        url = self._database(tables=not contender.is_peer)
        try:
            return self._run(api, contender, days, url)
        finally:
            with psycopg.connect(
                embedded.start(self._home, database="postgres"), autocommit=True
            ) as connection:
                connection.execute(f"DROP DATABASE run_{self._databases} WITH (FORCE)")

    def _run(
        self, api: Sandbox, contender: "Contender", days: tuple[date, date], database: str
    ) -> Run:
        before = api.received()
        arguments = [
            *contender.command,
            api.url,
            SANDBOX_KEY,
            database,
            *map(str, days),
            *([contender.how] if contender.how else []),
        ]
        with (
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
            tempfile.TemporaryDirectory(dir=self._home) as folder,
        ):
            # Peers keep state in the working directory and in the user's home folder.
            environment = os.environ | {"HOME": folder, "TMPDIR": folder}
            with subprocess.Popen(
                arguments, stdout=output, stderr=errors, cwd=folder, env=environment
            ) as process:
                try:
                    peak = watch(process)
                finally:
                    end(process)
            output.seek(0)
            errors.seek(0)
            if process.returncode:
                stderr = errors.read()[-3000:].decode(errors="replace")
                raise SystemExit(f"{contender.name} failed:\n{stderr}")
            result = json.loads(output.read().splitlines()[-1])
        rows, digest = (result["rows"], None) if contender.is_peer else self._stored(database)
        if rows != result["rows"]:
            raise SystemExit(
                f"{contender.name} reports {result['rows']} rows, its table contains {rows}"
            )
        return Run(rows, result["seconds"], api.received() - before, peak, digest)

    def _database(self, *, tables: bool) -> str:
        self._databases += 1
        url = embedded.start(self._home, database=f"run_{self._databases}")
        if tables:
            engine = connect(url)
            migrate(engine, load_catalogue())
            engine.dispose()
        with psycopg.connect(url, autocommit=True) as connection:
            # The pending writes of one contender must not slow down the next one.
            connection.execute("CHECKPOINT")
        return url

    def _stored(self, database: str) -> tuple[int, int]:
        """Return the number of rows in magnetis.calls and their digest."""
        values = "to_jsonb(t) - ARRAY['first_seen_at', 'last_seen_at', 'changed_at']"
        digest = f"sum(hashtextextended(({values})::text, 0))"
        with psycopg.connect(database) as connection:
            row = connection.execute(
                f"SELECT count(*), {digest} FROM magnetis.calls AS t"
            ).fetchone()
        assert row
        return row


def watch(process: "subprocess.Popen[bytes]") -> float:
    """Wait for the process and return its peak memory in megabytes, sampled 50 times a second."""
    peak, deadline, sampled = 0, time.monotonic() + CONTENDER_TIMEOUT, psutil.Process(process.pid)
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"not finished after {CONTENDER_TIMEOUT} s: {process.args!r}")
        try:
            peak = max(peak, sampled.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    process.wait()
    return peak / 2**20


@dataclass(frozen=True)
class Contender:
    """A command that reads a range of calls."""

    name: str
    command: Sequence[str | Path]
    how: str | None = None
    """The last argument of a peer: how it splits the range."""
    versions: str = ""

    @property
    def is_peer(self) -> bool:
        """Return whether it creates its own tables."""
        return self.how is not None


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and its children, unless it has ended."""
    if process.poll() is None:
        tree = psutil.Process(process.pid)
        for each in (*tree.children(recursive=True), tree):
            each.kill()


OURS = Contender("ours", (sys.executable, HERE / "_ours.py"))
STRAIGHT = Contender("straight line", (sys.executable, HERE / "_straight_line.py"))
PEERS = (
    # name, environment, program, how, packages whose versions are printed
    ("dlt by day", "dlt", "dlt_rest_api.py", "day", ("dlt",)),
    ("dlt by range", "dlt", "dlt_rest_api.py", "range", ("dlt",)),
    (
        "Singer SDK tap by range",
        "singer",
        "singer_tap.py",
        "range",
        ("singer-sdk", "meltanolabs-target-postgres"),
    ),
    ("airbyte-cdk by day, not stored", "airbyte", "airbyte_source.py", "day", ("airbyte-cdk",)),
    (
        "airbyte-cdk by long step, not stored",
        "airbyte",
        "airbyte_source.py",
        "long",
        ("airbyte-cdk",),
    ),
)


PRINT_VERSIONS = """
import sys
from importlib.metadata import version
print(*(f"{name} {version(name)}" for name in sys.argv[1:]), sep=", ")
"""


def install(environment: str) -> Path:
    """Install the lock of a peer into its environment, and return its interpreter."""
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if uv is None:
        raise SystemExit("uv is needed to install the peers; --alone leaves them out.")
    home, lock = HERE / "peers" / f".venv-{environment}", HERE / "peers" / f"{environment}.lock"
    python = home / ("Scripts/python.exe" if platform.system() == "Windows" else "bin/python")
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, home], check=True)
    subprocess.run(
        [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, lock], check=True
    )
    return python


def peers() -> list[Contender]:
    """Install the peers and return them."""
    pythons = {name: install(name) for name in dict.fromkeys(peer[1] for peer in PEERS)}
    contenders = []
    for name, environment, program, how, packages in PEERS:
        python = pythons[environment]
        versions = subprocess.run(
            [python, "-c", PRINT_VERSIONS, *packages], check=True, capture_output=True, text=True
        ).stdout.strip()
        contenders.append(Contender(name, (python, HERE / "peers" / program), how, versions))
    return contenders


def measure_calls(bench: Bench, others: Sequence[Contender], *, full: bool) -> None:
    print(
        "API calls to load the calls of 2023-01-01 to 2025-12-31, and their ratio to the minimum "
        "(rows / 250, rounded up)",
        flush=True,
    )
    for calls_per_day in (60, 600, 6000):
        span = (
            THREE_YEARS if calls_per_day < 6000 or full else (date(2025, 12, 1), date(2025, 12, 31))
        )
        shorter = "" if span == THREE_YEARS else f"; {span[0]} to {span[1]} only, --full loads all"
        peers = others if calls_per_day == 60 or (full and calls_per_day == 600) else ()
        skipped = "" if peers or not others else "; peers not run"
        print(f" {calls_per_day:,} a day{shorter}{skipped}", flush=True)
        options = SandboxOptions(calls_per_day=calls_per_day, daily_quota=None, cache_bytes=2**30)
        with sandbox(options) as api:
            rows = set()
            for contender in (OURS, *peers):
                run = bench.run(api, contender, span)
                rows.add(run.rows)
                minimum = -(-run.rows // PAGE)
                ratio = f"{run.calls / minimum:.3f} of the minimum"
                aim = "" if contender.is_peer else f", aim: at most {1.02 * minimum + 5:,.0f}"
                price = f"{run.calls:>6,} calls for {run.rows:>9,} rows"
                print(f"  {contender.name:<38} {price}: {ratio}{aim}", flush=True)
            if len(rows) > 1:
                raise SystemExit(f"the contenders loaded different numbers of rows: {sorted(rows)}")


def measure_rate(bench: Bench, others: Sequence[Contender], *, full: bool) -> None:
    days = 100 if full else 20
    print(
        f"rows per second from the API to the merged table, {CALLS_PER_DAY:,} calls a day, "
        "contenders in turn",
        flush=True,
    )
    options = SandboxOptions(calls_per_day=CALLS_PER_DAY, daily_quota=None, cache_bytes=2 * 2**30)
    with sandbox(options) as api:
        api.make(FIRST, FIRST + timedelta(days=days - 1))
        dlt = [peer for peer in others if peer.name == "dlt by range"]
        small = compete(bench, api, (OURS, STRAIGHT, *dlt), 10)
        large = compete(bench, api, (OURS, STRAIGHT), days)
        if dlt and full:
            large |= compete(bench, api, dlt, days, times=1)
    if dlt:
        results = large if dlt[0].name in large else small
        ratio = speed(results[OURS.name]) / speed(results[dlt[0].name])
        print(f"  ours / {dlt[0].versions}: {ratio:.1f} (aim: at least 2.5)")
    ratio = speed(large[OURS.name]) / speed(large[STRAIGHT.name])
    print(f"  ours / straight line: {ratio:.2f} (aim: at least 0.75)")
    for name, runs in large.items():
        many, few = (median(run.rows for run in each) for each in (runs, small[name]))
        ratio = peak(runs) / peak(small[name])
        aim = " (aim: at most 1.15 at 1,000,000)" if name == OURS.name else ""
        print(
            f"  {name}, peak memory, {many:,.0f} rows / {few:,.0f} rows: {ratio:.3f}{aim}",
            flush=True,
        )


def compete(
    bench: Bench, api: Sandbox, contenders: Sequence[Contender], days: int, times: int = 2
) -> dict[str, list[Run]]:
    """Run the contenders in turn over the first `days` days; return their runs by name."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for _ in range(times):
        for contender in contenders:
            run = bench.run(api, contender, (FIRST, FIRST + timedelta(days=days - 1)))
            runs[contender.name].append(run)
            show(contender.name, run)
    digests = {run.digest for each in runs.values() for run in each if run.digest is not None}
    if len(digests) > 1:
        raise SystemExit("the tables of ours and of the straight line differ")
    return runs


def speed(runs: list[Run]) -> float:
    """Return the median of the rows per second."""
    return median(run.rows / run.seconds for run in runs)


def peak(runs: list[Run]) -> float:
    """Return the median of the peak memory in megabytes."""
    return median(run.peak for run in runs)


def measure_latency(bench: Bench) -> None:
    print(
        f"a range of about 1,000 pages from an API that responds after {LATENCY * 1000:.0f} ms, "
        "8 pages in flight",
        flush=True,
    )
    span = (FIRST, FIRST + timedelta(days=25))
    options = SandboxOptions(
        calls_per_day=CALLS_PER_DAY, daily_quota=None, cache_bytes=2 * 2**30, latency=LATENCY
    )
    with sandbox(options) as api:
        api.make(*span)
        for contender in (OURS, STRAIGHT) * 3:
            run = bench.run(api, contender, span)
            pages = -(-run.rows // PAGE)
            bound = pages * LATENCY / 8
            aim = " (aim: at most 1.2)" if contender is OURS else ""
            print(
                f"  {contender.name:<38} {pages:,} pages in {run.seconds:.1f} s: "
                f"{run.seconds / bound:.2f} of {pages:,} x {LATENCY} s / 8 = {bound:.1f} s{aim}",
                flush=True,
            )


def show(name: str, run: Run) -> None:
    minimum = -(-run.rows // PAGE)
    print(
        f"  {name:<38} {run.rows:>9,} rows {run.seconds:7.1f} s "
        f"{run.rows / run.seconds:>8,.0f} rows/s  {run.calls:>6,} calls "
        f"({run.calls / minimum:.3f} of the minimum)  peak {run.peak:4.0f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", choices=PARTS, nargs="+", default=PARTS, help="measure only these parts"
    )
    parser.add_argument("--alone", action="store_true", help="leave the peers out")
    parser.add_argument(
        "--full",
        action="store_true",
        help="the sizes of the claims: one to two hours, 30 GB of disk",
    )
    options = parser.parse_args()
    # A terminated benchmark must end the processes that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    bench = Bench(home)
    try:
        others = [] if options.alone or options.only == ["latency"] else peers()
        facts = [
            f"{multiprocessing.cpu_count()} cores",
            f"load {os.getloadavg()[0]:.1f}",
            f"Python {platform.python_version()}",
            f"httpx {httpx.__version__}",
            f"orjson {orjson.__version__}",
            f"psycopg {psycopg.__version__}",
            *dict.fromkeys(peer.versions for peer in others),
        ]
        print(", ".join(facts), flush=True)
        if "calls" in options.only:
            measure_calls(bench, others, full=options.full)
        if "rate" in options.only:
            measure_rate(bench, others, full=options.full)
        if "latency" in options.only:
            measure_latency(bench)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
