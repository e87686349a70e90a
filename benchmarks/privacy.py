"""Measure what masking costs a load, how long an erasure takes, and a day of retention.

    .venv/bin/python benchmarks/privacy.py [--load-rows 20000] [--rows 10000000] [--rounds 5]

The load stages and merges windows of calls into a fresh database, without an API: masked by the
default plan, masked with hashed callers and 100,000 erased persons, and, as the peer in the same
round, without masking. A figure is the variant's rows per second / the peer's in the same round:
the median. The erasure and the retention use a table of `--rows` calls over two years, with one
person in 50 calls and in one note. 10 million calls need 12 GB of disk.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from unittest.mock import patch
from zoneinfo import ZoneInfo

import psycopg
from caller_key import calls, pages

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.identifiers import keys_of
from magnetis_dagster.privacy.key_file import generate_key
from magnetis_dagster.privacy.masking import MaskedRow, Row, RowMasker
from magnetis_dagster.privacy.plan import build_plan
from magnetis_dagster.privacy.protection import Protection
from magnetis_dagster.warehouse import Emptied, Rules, Warehouse, WindowFacts
from magnetis_dagster.warehouse.erasure import complete_erasures, find, record
from magnetis_dagster.warehouse.retention import retain

PARIS = ZoneInfo("Europe/Paris")
TODAY = datetime.now(PARIS).date()
PERSON = "+33612345678"
PERSONS = 100_000
HASHED = {"classes": {"caller_number": {"on_arrival": "hash"}, "contact": {"on_arrival": "drop"}}}
KEYS = PrivacyKeys.parse(generate_key())
CATALOGUE = load_catalogue()


@contextmanager
def server() -> Iterator[str]:
    home = Path(tempfile.mkdtemp(prefix="magnetis-privacy-"))
    try:
        yield embedded.start(home)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


def warehouse(url: str, plan: object) -> Warehouse:
    made = Warehouse(
        connect(url),
        CATALOGUE,
        response_zone=PARIS,
        partition_zone=PARIS,
        protection=Protection(build_plan(plan, "benchmark", CATALOGUE), KEYS),
    )
    made.prepare()
    return made


def load(target: Warehouse, rows: list[dict[str, object]], day: date) -> float:
    """Load rows as one window; return rows per second."""
    collection = CATALOGUE["calls"]
    start = time.perf_counter()
    with target.staging(collection) as staging:
        for page in pages(rows):
            staging.add(page)
        received = staging.deduplicate().received
        facts = WindowFacts(
            days=[day],
            read_at=datetime.now(UTC),
            announced=received,
            received=received,
            api_calls=1,
            bytes=0,
            milliseconds=0,
            run_id="benchmark",
            read_on=TODAY,
            rules=Rules(Emptied.DELETE),
        )
        target.commit(staging, facts)
    return len(rows) / (time.perf_counter() - start)


def without_masking(_masker: RowMasker, row: Row, **_options: object) -> MaskedRow:
    return MaskedRow(row)


def measure_load(url: str, count: int, rounds: int) -> None:
    default, hashed = warehouse(url, None), warehouse(url, HASHED)
    variants = {
        "default plan, nobody erased": (default, 0),
        "default plan, 100,000 erased": (default, PERSONS),
        "callers stored as keys only, 100,000 erased": (hashed, PERSONS),
    }
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        day = TODAY - timedelta(days=10 + number)
        rows = calls(count)
        for each in rows:
            each["start_at"] = f"{day} 10:00:00"

        def timed(target: Warehouse) -> float:
            with target.engine.begin() as connection:
                connection.exec_driver_sql("TRUNCATE magnetis.calls")
                connection.exec_driver_sql("DELETE FROM magnetis_ops.days")
            return load(target, rows, day)  # noqa: B023 - called in this round

        suppress(url, 0)
        with patch.object(RowMasker, "mask", without_masking):
            peer = timed(default)
        for name, (target, persons) in variants.items():
            suppress(url, persons)
            ratios[name].append(timed(target) / peer)
        print(f"  round {number + 1}: {peer:,.0f} rows/s without masking", flush=True)
    for name, found in ratios.items():
        print(f"{name}: {median(found):.2f} ({min(found):.2f} to {max(found):.2f})", flush=True)


def suppress(url: str, number: int) -> None:
    with psycopg.connect(url) as connection:
        for table in ("suppressions", "erasure_steps", "erasures"):
            connection.execute(f"DELETE FROM magnetis_ops.{table}")
        if not number:
            return
        [erasure] = connection.execute(
            "INSERT INTO magnetis_ops.erasures (requested_at, reason, completed_at) "
            "VALUES (now(), 'benchmark', now()) RETURNING id"
        ).fetchone() or [0]
        with connection.cursor().copy(
            "COPY magnetis_ops.suppressions (connection, person_key, erasure_id, suppressed_at) "
            "FROM STDIN"
        ) as copy:
            for person in range(number):
                for key in KEYS.of_phone("magnetis", f"+337{person:08}"):
                    copy.write_row(("magnetis", key, erasure, datetime.now(UTC)))


def fill(url: str, rows: int) -> None:
    """Insert calls over two years, with other persons' keys, and one person in 51 of them."""
    [key] = KEYS.of_phone("magnetis", PERSON)
    print(f"inserting {rows:,} calls", flush=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE magnetis.calls")
        connection.execute(
            """
            INSERT INTO magnetis.calls (id, payload, occurred_at, day, first_seen_at, last_seen_at,
                changed_at, caller_number, caller_key, gclid, status)
            SELECT 'c' || n,
                   jsonb_build_object('id', 'c' || n, 'caller', jsonb_build_object('number', c),
                       'gclid', 'g' || n, 'status', 'completed', 'channel',
                       jsonb_build_object('name', 'Tout le SEO'), 'duration', n %% 600),
                   d, d::date, d, d, d, c, 'kx:' || md5(c) || '00000000000', 'g' || n, 'completed'
            FROM (SELECT n, now() - make_interval(secs => n * (730 * 86400.0 / %(rows)s)) AS d,
                         '+336' || lpad((n %% 3000000)::text, 8, '0') AS c
                  FROM generate_series(1, %(rows)s) AS n) AS each
            """,
            {"rows": rows},
        )
        step = max(1, rows // 50)
        connection.execute(
            "UPDATE magnetis.calls SET caller_number = %(number)s, caller_key = %(key)s, "
            "payload = jsonb_set(payload, '{caller,number}', to_jsonb(%(number)s::text)) "
            "WHERE substr(id, 2)::int %% %(step)s = 1",
            {"number": PERSON, "key": key, "step": step},
        )
        connection.execute(
            "UPDATE magnetis.calls SET payload = payload || jsonb_build_object('note', "
            "'rappeler le ' || %(number)s::text), mentioned_keys = ARRAY[%(key)s::text] "
            "WHERE id = 'c2'",
            {"number": PERSON, "key": key},
        )
        connection.execute("VACUUM ANALYZE magnetis.calls")


def measure_erasure(url: str, rows: int) -> None:
    target = warehouse(url, None)
    suppress(url, 0)
    protection = target.masking.protection
    fill(url, rows)
    with target.engine.connect() as connection:
        state = target.masking.state(connection)
        connection.commit()
    day = TODAY - timedelta(days=1)
    with psycopg.connect(url, autocommit=True) as database:
        for name, collection in CATALOGUE.collections.items():
            database.execute(
                "INSERT INTO magnetis_ops.retention "
                "(connection, collection, keyed, rules, masked_on) "
                "VALUES ('magnetis', %s, %s, %s, %s) ON CONFLICT (connection, collection) "
                "DO UPDATE SET keyed = excluded.keyed, rules = excluded.rules, "
                "masked_on = excluded.masked_on",
                (
                    name,
                    protection.keys_digest(collection),
                    protection.rules_digest(collection),
                    day,
                ),
            )
    assert state.today == TODAY
    persons = {"magnetis": keys_of([PERSON], target.masking.persons)}
    start = time.perf_counter()
    found = sum(place.rows for place in find(target.engine, {"magnetis": target}, persons))
    print(f"find: {found} rows in {time.perf_counter() - start:.2f} s", flush=True)
    start = time.perf_counter()
    record(target.engine, persons, "benchmark")
    complete_erasures(target.engine, {"magnetis": target})
    print(f"erase: {time.perf_counter() - start:.2f} s", flush=True)
    start = time.perf_counter()
    results = retain(target)
    seconds = time.perf_counter() - start
    read = sum(each.masked.read for each in results)
    changed = sum(each.masked.changed for each in results)
    print(
        f"retention of one day: {seconds:.2f} s, {read:,} rows examined, {changed:,} masked",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load-rows", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    random.seed(7)
    with server() as url:
        if given.rounds:
            measure_load(url, given.load_rows, given.rounds)
        if given.rows:
            measure_erasure(url, given.rows)


if __name__ == "__main__":
    main()
