"""Measure how long an upgrade to the column `connection` blocks readers and writers of `calls`.

    .venv/bin/python benchmarks/upgrade.py [--calls 10000000]

Creates the tables of the previous version (tests/integration/warehouse/version_one.sql) on an
embedded PostgreSQL with its durable defaults, and fills `magnetis.calls` with N rows of 91 days.
Then this process migrates, while another one continuously inserts a call, updates a call and reads
the calls of a day, each in a transaction of its own. The result is the longest time that one of
these statements took per step of the migration, and the time of each step. The same statements are
timed for ten seconds before the migration, as the baseline. The benchmark deletes its files.
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psycopg

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.warehouse import migrate
from magnetis_dagster.warehouse.indexes import table_states

OLD_TABLES = Path(__file__).resolve().parent.parent / "tests/integration/warehouse/version_one.sql"
BATCH = 500_000
BASELINE_SECONDS = 10.0
FILL = """
    INSERT INTO magnetis.calls (id, account_id, payload, occurred_at, day, caller_number, status,
        duration_seconds, first_seen_at, last_seen_at, changed_at)
    SELECT 'call-' || md5(n::text)::uuid, 'acc-' || n %% 200,
           jsonb_build_object('id', 'call-' || n, 'duration', n %% 600, 'type', 'completed'),
           at, at::date, '0033' || 100000000 + n %% 1000000, 'completed', n %% 600, at, at, at
    FROM generate_series(%(low)s::bigint, %(high)s::bigint - 1) AS n,
         LATERAL (SELECT timestamptz '2025-01-01Z' + n %% 91 * interval '1 day') AS m(at)
"""
STATEMENTS = {
    "insert": (
        "INSERT INTO magnetis.calls (id, payload, occurred_at, day, first_seen_at, last_seen_at, "
        "changed_at) VALUES (%(id)s, '{}', now(), date '2030-01-01' + %(n)s, now(), now(), now())"
    ),
    # by the day, which is an index of both versions
    "update": (
        "UPDATE magnetis.calls SET status = 'seen' "
        "WHERE id = %(id)s AND day = date '2030-01-01' + %(n)s"
    ),
    "read": "SELECT id, payload FROM magnetis.calls WHERE day = '2025-01-05' LIMIT 100",
}
Timed = tuple[float, float, str]
"""Start and end (time.monotonic, seconds), and the name of the statement."""


def work(url: str, ended: Event, results: "multiprocessing.Queue[list[Timed]]") -> None:
    """Execute the statements until `ended` is set."""
    timed: list[Timed] = []
    with psycopg.connect(url, autocommit=True) as connection:
        number = 0
        while not ended.is_set():
            number += 1
            for name, statement in STATEMENTS.items():
                begun = time.monotonic()
                connection.execute(statement, {"id": f"new {number}", "n": number})  # type: ignore[call-overload]
                timed.append((begun, time.monotonic(), name))
            time.sleep(0.005)
    results.put(timed)


class Steps:
    """Records when each step of a migration ran."""

    def __init__(self) -> None:
        self.found: list[tuple[str, float, float]] = []

    def recorded(
        self, function: Callable[..., Any], label: Callable[..., str]
    ) -> Callable[..., Any]:
        """Return the function, which records a step under the label of its arguments."""

        def step(*arguments: Any, **options: Any) -> Any:
            begun = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                self.found.append((label(*arguments), begun, time.monotonic()))

        return step

    def watch(self) -> None:
        """Replace the functions that change tables."""
        module: Any = sys.modules["magnetis_dagster.warehouse.migrate"]
        labels: dict[str, Callable[..., str]] = {
            "change_tables": lambda _engine, _action, change, *_: change.func.__name__,
            "build_index": lambda _engine, _action, index, *_: f"build {index.name}",
            "build_key": lambda _engine, _action, table, *_: f"build the key of {table.name}",
            "drop_index": lambda _engine, _action, _schema, name: f"drop {name}",
        }
        for name, label in labels.items():
            setattr(module, name, self.recorded(getattr(module, name), label))


def fill(url: str, calls: int) -> None:
    """Create the tables of the previous version and `calls` rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(OLD_TABLES.read_text(encoding="utf-8"))  # type: ignore[call-overload]
        for low in range(0, calls, BATCH):
            connection.execute(FILL, {"low": low, "high": min(calls, low + BATCH)})
        connection.execute("VACUUM ANALYZE magnetis.calls")
        [[size]] = connection.execute(
            "SELECT pg_size_pretty(pg_total_relation_size('magnetis.calls'))"
        ).fetchall()
    print(f"{calls:,} calls, {size} with indexes")


def longest(timed: list[Timed], begun: float, ended: float) -> str:
    """Return the longest statement that overlaps a period, in milliseconds."""
    overlapping = [each for each in timed if each[0] < ended and each[1] > begun]
    if not overlapping:
        return "none"
    start, end, name = max(overlapping, key=lambda each: each[1] - each[0])
    return f"{1000 * (end - start):.0f} ms ({name})"


def measure(url: str) -> None:
    ended = multiprocessing.Event()
    results: multiprocessing.Queue[list[Timed]] = multiprocessing.Queue()
    other = multiprocessing.Process(target=work, args=(url, ended, results))
    steps = Steps()
    steps.watch()
    engine = connect(url)
    other.start()
    first = time.monotonic()
    time.sleep(BASELINE_SECONDS)
    begun = time.monotonic()
    migrate(engine, load_catalogue(), print)
    done = time.monotonic()
    ended.set()
    timed = results.get(timeout=60)
    other.join()
    engine.dispose()
    print("| step | seconds | longest statement of the other process |\n| --- | --- | --- |")
    print(f"| before the migration | {begun - first:.1f} | {longest(timed, first, begun)} |")
    for name, start, end in steps.found:
        print(f"| {name.strip('_')} | {end - start:.2f} | {longest(timed, start, end)} |")
    print(f"| all | {done - begun:.1f} | {longest(timed, begun, done)} |")
    require_complete(url, sum(name == "insert" for _, _, name in timed))


def require_complete(url: str, inserted: int) -> None:
    """Fail unless the key is the new one and all rows of the other process are there."""
    engine = connect(url)
    with engine.connect() as connection:
        assert table_states(connection)["magnetis.calls"].key == ["connection", "id"]
    engine.dispose()
    with psycopg.connect(url) as session:
        [[rows]] = session.execute(
            "SELECT count(*) FROM magnetis.calls WHERE id LIKE 'new %' AND connection = 'magnetis'"
        ).fetchall()
    assert rows == inserted, f"{rows} of {inserted} rows"
    print(f"{inserted:,} rows inserted by the other process, all present")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000_000)
    options = parser.parse_args()
    # not in a private folder: if we are root, the embedded server runs as another user
    home = Path(tempfile.mkdtemp(prefix="magnetis-upgrade-"))
    try:
        url = embedded.start(home, database="upgrade")
        fill(url, options.calls)
        measure(url)
    finally:
        embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
