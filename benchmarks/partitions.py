"""Compare `magnetis.calls` as the program creates it with the same table partitioned by month.

    .venv/bin/python benchmarks/partitions.py [--rows 1000000]

The server generates the rows, in the order of their days, evenly over 2023 to 2025, with a payload
of six members. With its indexes, a row takes about a quarter of the space of a row from the
sandbox. The plain table is built and measured, then copied into the partitioned table, and dropped
before that one is measured. The server is the embedded PostgreSQL with its durable defaults.
Autovacuum is off for the table, and VACUUM is measured instead.

A partitioned table has no unique index on `(connection, id)` alone, so it rejects the program's
merge (`ON CONFLICT (connection, id)`). There, the statement MERGE replaces that statement. It finds
the row of a call by searching every partition, or those within 31 days. Everything else about a
window (staging, counts, deletions) is the program's own code. MERGE on the plain table is measured
beside it.

"cold" is the first execution, after the files were removed from the operating system's cache.
"warm" is the median of the following ones. 50,000,000 rows need 60 GB of disk (15 must stay free)
and one to two hours. The benchmark deletes its files.
"""

import argparse
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from sqlalchemy import TextClause, text

from magnetis_dagster.catalog import Collection, load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.key_file import generate_key
from magnetis_dagster.privacy.plan import build_plan
from magnetis_dagster.privacy.protection import Protection
from magnetis_dagster.warehouse import merge as program
from magnetis_dagster.warehouse.merge import MergeResult, WindowFacts
from magnetis_dagster.warehouse.merge_queries import merge_queries
from magnetis_dagster.warehouse.warehouse import Warehouse

FIRST, LAST = date(2023, 1, 1), date(2025, 12, 31)
DAYS = (LAST - FIRST).days + 1
END_OF_PARTITIONS = date(2027, 1, 1)
"""Merged windows follow the generated rows; later rows go into the default partition."""
WINDOW = 62_500
PAGE = 250
NEAR = 31
NUMBERS, CALLERS = 2_000, 1_000_000
KEEP_FREE = 15 * 10**9
BYTES_PER_ROW = 950
"""Of both tables together."""
ZONE = ZoneInfo("UTC")
WORKERS = 2
OWN = "the program's"

GENERATE = """
    INSERT INTO magnetis.calls (id, account_id, payload, occurred_at, day, caller_number,
        duration_seconds, status, number_id, first_seen_at, last_seen_at, changed_at)
    SELECT id, account, ('{"id":"' || id || '","account_id":"' || account || '",' ||
            '"caller":"' || caller || '","duration":' || duration || ',' ||
            '"number_id":"' || number_id || '","date":"' || moment || '",' ||
            '"type":"' || status || '"}')::jsonb,
        moment AT TIME ZONE 'UTC', day, caller, duration, status, number_id,
        %(read)s, %(read)s, %(read)s
    FROM (
        SELECT 'call-' || md5(n::text)::uuid AS id, day,
            'acc-' || (h %% 200) AS account, '0033' || (100000000 + h %% %(callers)s) AS caller,
            CASE WHEN h %% 5 = 0 THEN 0 ELSE 5 + h %% 600 END AS duration,
            CASE WHEN h %% 5 = 0 THEN 'missed' ELSE 'completed' END AS status,
            'num-' || (h %% %(numbers)s) AS number_id,
            day + (n %% %(per_day)s) * 86400 / %(per_day)s * interval '1 second' AS moment
        FROM (SELECT n, %(first)s::date + (n / %(per_day)s)::int AS day,
                  hashint8(n)::bigint + 2147483648 AS h
              FROM generate_series(%(low)s::bigint, %(high)s::bigint - 1) AS n) AS numbered
    ) AS made
"""

PARTITION = """
    ALTER TABLE magnetis.calls RENAME TO calls_before;
    ALTER TABLE magnetis.calls_before RENAME CONSTRAINT calls_pkey TO calls_before_pkey;
    ALTER INDEX magnetis.ix_calls_account RENAME TO ix_calls_before_account;
    ALTER INDEX magnetis.ix_calls_day_connection RENAME TO ix_calls_before_day_connection;
    CREATE TABLE magnetis.calls (LIKE magnetis.calls_before INCLUDING ALL EXCLUDING INDEXES)
        PARTITION BY RANGE (day);
    CREATE TABLE magnetis.calls_other PARTITION OF magnetis.calls DEFAULT;
"""

QUERIES = {
    "one day by status": (
        "SELECT status, count(*) FROM magnetis.calls WHERE day = '2024-07-10' GROUP BY 1",
        7,
    ),
    "one month by number": (
        """SELECT number_id, count(*), sum(duration_seconds) FROM magnetis.calls
           WHERE day >= '2024-07-01' AND day < '2024-08-01' GROUP BY 1""",
        5,
    ),
    "all by month": ("SELECT date_trunc('month', day), count(*) FROM magnetis.calls GROUP BY 1", 2),
    "200 calls by id": (
        """SELECT count(c.day) FROM generate_series(0, %(rows)s - 1, %(rows)s / 200) AS n
           LEFT JOIN LATERAL (
               SELECT day FROM magnetis.calls WHERE id = 'call-' || md5(n::text)::uuid OFFSET 0
           ) AS c ON true""",
        5,
    ),
    "last call of a caller": (
        """SELECT * FROM magnetis.calls WHERE caller_number = '0033100012345'
           ORDER BY occurred_at DESC LIMIT 1""",
        1,
    ),
}


class ByMerge:
    """The program's statements with MERGE as upsert, which needs no unique index on `id`."""

    near: int | None = None
    """Days around the window in which the row of a call is searched. None: everywhere."""
    forbidden: tuple[str, ...] = ("hashjoin", "mergejoin", "seqscan")
    """Otherwise the planner reads the whole table instead of searching 50 indexes 60,000 times."""

    def __init__(self, collection: Collection, undeclared: Sequence[str] = ()) -> None:
        self._own = merge_queries(collection, undeclared)
        names = ["id", "account_id", "payload", "occurred_at", "day", *collection.columns]
        sources = [
            "id",
            "account_id",
            "payload",
            "occurred_at",
            "day",
            *(f"c_{name}" for name in collection.columns),
        ]
        compared = [
            pair for pair in zip(names, sources, strict=True) if pair[0] not in {"id", "payload"}
        ]
        newer = "(t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())"
        assignments = [
            f'"{name}" = s.{source}' for name, source in zip(names[1:], sources[1:], strict=True)
        ]
        days = "CAST(:days AS date[])"
        near = ""
        if self.near:
            lowest, highest = f"({days})[1]", f"({days})[cardinality({days})]"
            near = f"AND t.day BETWEEN {lowest} - {self.near} AND {highest} + {self.near}"
        columns = ", ".join(f'"{name}"' for name in names)
        values = ", ".join(f"s.{source}" for source in sources)
        stored = ", ".join(f't."{name}"' for name, _ in compared)
        staged = ", ".join(f"s.{source}" for _, source in compared)
        self._upsert = text(f"""
            WITH merged AS (
                MERGE INTO magnetis.calls AS t
                USING (
                    SELECT * FROM incoming AS s WHERE s.reason IS NULL
                    AND (s.day = ANY(:days) OR EXISTS (
                        SELECT 1 FROM magnetis.calls AS c
                        WHERE c.connection = :connection AND c.id = s.id
                          AND c.day = ANY(:days)))
                ) AS s ON t.connection = :connection AND t.id = s.id {near}
                WHEN MATCHED AND NOT {newer}
                    AND (t.payload IS DISTINCT FROM s.payload OR t.deleted_at IS NOT NULL
                         OR ({stored}) IS DISTINCT FROM ({staged}))
                    THEN UPDATE SET {", ".join(assignments)},
                        last_seen_at = :read_at, deleted_at = NULL,
                        changed_at = CASE WHEN t.payload = s.payload
                            THEN t.changed_at ELSE :read_at END
                WHEN NOT MATCHED THEN
                    INSERT ({columns}, first_seen_at, last_seen_at, changed_at)
                    VALUES ({values}, :read_at, :read_at, :read_at)
                RETURNING t.day AS day, merge_action() = 'INSERT' AS inserted, t.changed_at
            )
            SELECT day, CASE WHEN NOT inserted THEN day END AS was,
                count(*) FILTER (WHERE inserted),
                count(*) FILTER (WHERE NOT inserted AND changed_at = :read_at), count(*)
            FROM merged GROUP BY 1, 2
        """)

    def __getitem__(self, name: str) -> TextClause:
        """Return one statement."""
        return self._upsert if name == "upsert" else self._own[name]


class NearMerge(ByMerge):
    """The same, but it searches the row of a call only within NEAR days of the window."""

    near = NEAR
    forbidden = ("nestloop",)
    """Otherwise the planner compares all rows of a month whose statistics say that it is empty."""


@contextmanager
def merging(statements: type[ByMerge] | None) -> Iterator[None]:
    """Make the program merge with these statements. None: with its own."""
    if statements is None:
        yield
        return
    merge = program._Merge  # noqa: SLF001 - the program's own merge, but for one statement
    analyze, per_day = merge._analyze_staging, merge._rows_per_day  # noqa: SLF001

    def analyze_and_steer(self: program._Merge) -> None:
        analyze(self)
        for method in statements.forbidden:
            self._connection.execute(text(f"SET LOCAL enable_{method} = off"))

    def per_day_unsteered(self: program._Merge, query: str) -> dict[date, int]:
        # the statements after the MERGE join 60,000 rows to as many
        for method in statements.forbidden:
            self._connection.execute(text(f"SET LOCAL enable_{method} = on"))
        return per_day(self, query)

    program.merge_queries = statements
    merge._analyze_staging, merge._rows_per_day = analyze_and_steer, per_day_unsteered  # noqa: SLF001
    try:
        yield
    finally:
        program.merge_queries = merge_queries
        merge._analyze_staging, merge._rows_per_day = analyze, per_day  # noqa: SLF001


class Table:
    """The table of calls, plain and then partitioned."""

    def __init__(self, home: Path, rows: int) -> None:
        self.variant = "plain"
        self.per_day = max(1, rows // DAYS)
        self.rows = self.per_day * DAYS
        self.seconds: dict[str, dict[str, float]] = {"plain": {}, "partitioned": {}}
        """Warm seconds by variant and by measurement."""
        self._home = home
        self._url = embedded.start(home)
        self._engine = connect(self._url)
        catalogue = load_catalogue()
        self.calls = catalogue["calls"]
        plan = build_plan(None, "", catalogue)
        protection = Protection(plan, PrivacyKeys.parse(generate_key()))
        self._warehouse = Warehouse(
            self._engine,
            catalogue,
            response_zone=ZONE,
            partition_zone=ZONE,
            protection=protection,
        )
        self._warehouse.prepare()
        self._db = psycopg.connect(self._url, autocommit=True)
        self._random = random.Random(1)
        self._next_day = LAST + timedelta(days=40)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()
        self._db.close()

    def report(self, name: str, figure: str, seconds: float | None = None) -> None:
        """Print a measurement, and keep its seconds for the comparison."""
        if seconds is not None:
            self.seconds[self.variant][name] = seconds
        print(f"  {time.strftime('%H:%M:%S')} {self.variant:<12} {name:<54} {figure}", flush=True)

    def compare(self) -> None:
        """Print the ratios of the partitioned table's times to the plain table's."""
        print("partitioned / plain, warm")
        for plain_name, plain in self.seconds["plain"].items():
            name = plain_name.removeprefix(f"{OWN}: ")
            for other, partitioned in self.seconds["partitioned"].items():
                if other == plain_name or other.endswith(f": {name}"):
                    print(f"  {other:<60} {partitioned / plain:.2f}", flush=True)

    # --- building

    def build(self) -> None:
        """Fill the program's table, and then build its indexes."""
        self._db.execute("ALTER TABLE magnetis.calls DROP CONSTRAINT calls_pkey")
        self._db.execute("DROP INDEX magnetis.ix_calls_account, magnetis.ix_calls_day_connection")
        self._no_autovacuum()
        began = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            # Day by day, so that the rows of a day are adjacent although two connections write.
            for finished, _ in enumerate(pool.map(self._generate, range(DAYS)), 1):
                if finished % 100 == 0:
                    elapsed = time.perf_counter() - began
                    print(f"  {finished} of {DAYS} days after {elapsed:,.0f} s", flush=True)
        seconds = time.perf_counter() - began
        self.report(
            "generate, without indexes", f"{seconds:,.0f} s, {self.rows / seconds:,.0f} rows/s"
        )
        self._index("connection, id")

    def convert(self) -> None:
        """Copy the plain table into a partitioned one; rename the plain one to calls_before."""
        self.variant = "partitioned"
        for statement in PARTITION.strip().split(";\n"):
            self._db.execute(statement)
        for first, after in months(FIRST, END_OF_PARTITIONS):
            self._db.execute(
                f"CREATE TABLE magnetis.calls_{first:%Y_%m} PARTITION OF magnetis.calls "
                f"FOR VALUES FROM ('{first}') TO ('{after}')"
            )
        self._no_autovacuum()
        began = time.perf_counter()
        for first, after in months(FIRST, END_OF_PARTITIONS):
            self._keep_free()
            self._db.execute(
                "INSERT INTO magnetis.calls "
                "SELECT * FROM magnetis.calls_before WHERE day >= %s AND day < %s",
                (first, after),
            )
        self.report("copy from the plain table, without indexes", show(time.perf_counter() - began))
        self._index("connection, id, day")
        if operations := self._migrations():
            raise SystemExit(f"migrate would alter the partitioned table: {operations}")

    def _no_autovacuum(self) -> None:
        for name in self._leaves():
            self._db.execute(
                f"ALTER TABLE magnetis.{name} "
                "SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)"
            )

    def _index(self, key: str) -> None:
        self._db.execute("SET maintenance_work_mem = '1GB'")
        seconds = sum(
            self._timed(statement)
            for statement in (
                f"ALTER TABLE magnetis.calls ADD CONSTRAINT calls_pkey PRIMARY KEY ({key})",
                "CREATE INDEX ix_calls_account ON magnetis.calls (account_id)",
                "CREATE INDEX ix_calls_day_connection ON magnetis.calls (day, connection)",
            )
        )
        self._db.execute("RESET maintenance_work_mem")
        self.report("build the three indexes (1 GB of memory)", show(seconds))
        self.report(
            "VACUUM ANALYZE after that", show(self._timed("VACUUM (ANALYZE) magnetis.calls"))
        )
        self.report("size: table / key / two indexes", self._sizes())

    def _keep_free(self) -> None:
        free = shutil.disk_usage(self._home).free
        if free < KEEP_FREE:
            raise SystemExit(
                f"only {free / 1e9:.0f} GB of disk are free, and {KEEP_FREE / 1e9:.0f} must stay "
                "free. Use fewer --rows."
            )

    def _generate(self, day: int) -> None:
        self._keep_free()
        parameters = {
            "low": day * self.per_day,
            "high": (day + 1) * self.per_day,
            "first": FIRST,
            "per_day": self.per_day,
            "read": datetime(2026, 1, 2, tzinfo=UTC),
            "callers": CALLERS,
            "numbers": NUMBERS,
        }
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(GENERATE, parameters)

    def _migrations(self) -> list[str]:
        """Return the operations that `migrate` would execute on the table now."""
        from magnetis_dagster.warehouse.migrate import _ADDITIVE, differences  # noqa: PLC0415
        from magnetis_dagster.warehouse.schema import data_metadata  # noqa: PLC0415

        with self._engine.connect() as connection:
            operations = differences(connection, data_metadata(self._warehouse.catalogue))
        return [str(each.to_diff_tuple()) for each in operations if isinstance(each, _ADDITIVE)]

    def _leaves(self) -> list[str]:
        names = self._db.execute(
            "SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'magnetis' AND c.relkind = 'r' "
            "AND (c.relname = 'calls' OR c.relname ~ '^calls_([0-9_]+|other)$')"
        )
        return [name for (name,) in names]

    def _sizes(self) -> str:
        key, others, table = 0, 0, 0
        for name in self._leaves():
            for index, size in self._db.execute(
                "SELECT c.relname, pg_relation_size(c.oid) FROM pg_index AS i "
                "JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = %s::regclass",
                (f"magnetis.{name}",),
            ):
                if index.endswith("pkey"):
                    key += size
                else:
                    others += size
            row = self._db.execute(
                "SELECT pg_table_size(%s::regclass)", (f"magnetis.{name}",)
            ).fetchone()
            table += row[0] if row else 0
        return f"{table / 1e9:.2f} / {key / 1e9:.2f} / {others / 1e9:.2f} GB"

    def _timed(self, statement: str, parameters: dict[str, Any] | None = None) -> float:
        began = time.perf_counter()
        cursor = self._db.execute(statement, parameters)
        if cursor.description:
            cursor.fetchall()
        return time.perf_counter() - began

    def _empty_cache(self) -> None:
        """Remove the files from the operating system's cache; the server's own has only 128 MB."""
        self._db.execute("CHECKPOINT")
        if not hasattr(os, "posix_fadvise"):
            return
        for path in (self._home / "postgres" / "base").glob("*/[0-9]*"):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)

    # --- queries

    def query(self) -> None:
        """Measure the queries, cold and warm."""
        for name, (statement, times) in QUERIES.items():
            self._query(name, statement, times)

    def _query(self, name: str, statement: str, times: int) -> None:
        self._empty_cache()
        parameters = {"rows": self.rows} if "%(rows)s" in statement else None
        seconds = [self._timed(statement, parameters) for _ in range(times + 1)]
        self.report(
            name, f"cold {show(seconds[0])}, warm {show(median(seconds[1:]))}", median(seconds[1:])
        )

    def query_with_other_indexes(self) -> None:
        """Measure an index on the callers, and BRIN instead of the B-tree on `day`."""
        if self.variant == "partitioned":
            return
        name, (statement, times) = "last call of a caller", QUERIES["last call of a caller"]
        seconds = self._timed(
            "CREATE INDEX ix_caller ON magnetis.calls (caller_number, occurred_at)"
        )
        self.report(
            "index (caller_number, occurred_at)", f"{seconds:,.0f} s, {self._size_of('%caller%')}"
        )
        self._query(f"{name}, with that index", statement, times)
        self._db.execute("DROP INDEX magnetis.ix_caller")
        seconds = self._timed("CREATE INDEX ix_brin ON magnetis.calls USING brin (day)")
        brin, tree = self._size_of("ix_brin"), self._size_of("ix_calls_day_connection")
        self.report("BRIN (day)", f"{seconds:,.0f} s, {brin}; B-tree: {tree}")
        for name in ("one day by status", "one month by number"):
            self._db.execute("BEGIN")
            self._db.execute("DROP INDEX magnetis.ix_calls_day_connection")
            seconds = median([self._timed(QUERIES[name][0]) for _ in range(4)][1:])
            self._db.execute("ROLLBACK")
            self.report(f"{name}, with BRIN alone", f"warm {show(seconds)}")
        self._db.execute("DROP INDEX magnetis.ix_brin")

    def _size_of(self, pattern: str) -> str:
        row = self._db.execute(
            "SELECT coalesce(sum(pg_relation_size(oid)), 0) FROM pg_class "
            "WHERE relname LIKE %s AND relkind = 'i'",
            (pattern,),
        ).fetchone()
        return f"{int(row[0]) / 1e6:,.1f} MB" if row else ""

    # --- merging

    def merge(self) -> None:
        """Measure the merges of windows, with each statement that the table allows."""
        methods: dict[str, type[ByMerge] | None] = {OWN: None, "MERGE": ByMerge}
        if self.variant == "partitioned":
            self._expect_rejection()
            methods = {"MERGE, all partitions": ByMerge, f"MERGE, within {NEAR} days": NearMerge}
        for method, statements in methods.items():
            with merging(statements):
                self._merge_by(method)

    def _merge_by(self, method: str) -> None:
        self._empty_cache()
        last: tuple[list[date], list[dict[str, Any]]] = ([], [])
        for name, size in (
            (f"a new day ({self.per_day:,} rows)", self.per_day),
            (f"a new window ({WINDOW:,} rows)", WINDOW),
        ):
            times = []
            for _ in range(3):
                last = self._invent(size)
                times.append(self._window(*last, all_inserted(size)))
            self.report(f"{method}: {name}", format_times(times), warm(times))
        unchanged = [self._window(*last, is_unchanged) for _ in range(4)]
        self.report(
            f"{method}: that window again, unchanged", format_times(unchanged), warm(unchanged)
        )
        old = [
            self._window(*self._stored(date(2024, 3, 1) + timedelta(days=n)), is_unchanged)
            for n in range(4)
        ]
        self.report(f"{method}: an old day again, unchanged", format_times(old), warm(old))
        self._move(method, *last)

    def _window(
        self,
        days: list[date],
        rows: list[dict[str, Any]],
        is_expected: Callable[[MergeResult], bool],
    ) -> tuple[float, float]:
        """Stage and merge a window; return the seconds of both."""
        with self._warehouse.staging(self.calls) as staging:
            began = time.perf_counter()
            for low in range(0, len(rows), PAGE):
                staging.add(rows[low : low + PAGE])
            tally = staging.deduplicate()
            staged = time.perf_counter()
            read_at = self._warehouse.now()
            facts = WindowFacts(
                days,
                read_at,
                len(rows),
                tally.received,
                1,
                0,
                0,
                None,
                days[-1] + timedelta(days=1),
            )
            merged = self._warehouse.commit(staging, facts)
            done = time.perf_counter()
        if not is_expected(merged):
            raise SystemExit(f"{self.variant}: unexpected result of a merge: {merged.days[:3]}")
        return staged - began, done - staged

    def _invent(self, size: int) -> tuple[list[date], list[dict[str, Any]]]:
        """Return invented rows of days that the table does not contain yet."""
        days = [self._next_day + timedelta(days=n) for n in range(-(-size // self.per_day))]
        self._next_day = days[-1] + timedelta(days=1)
        pick = self._random
        rows = []
        for n in range(size):
            missed = pick.random() < 0.2
            moment = datetime.combine(days[n // self.per_day], datetime.min.time()) + timedelta(
                seconds=n % self.per_day * 86400 // self.per_day
            )
            rows.append(
                {
                    "id": f"call-{uuid.UUID(int=pick.getrandbits(128))}",
                    "account_id": f"acc-{pick.randrange(200)}",
                    "caller": f"0033{100_000_000 + pick.randrange(CALLERS)}",
                    "duration": 0 if missed else pick.randrange(5, 605),
                    "number_id": f"num-{pick.randrange(NUMBERS)}",
                    "date": f"{moment:%Y-%m-%d %H:%M:%S}",
                    "type": "missed" if missed else "completed",
                }
            )
        return days, rows

    def _stored(self, day: date) -> tuple[list[date], list[dict[str, Any]]]:
        rows = self._db.execute(
            "SELECT payload FROM magnetis.calls WHERE day = %s ORDER BY occurred_at", (day,)
        )
        return [day], [payload for (payload,) in rows]

    def _move(self, method: str, days: list[date], rows: list[dict[str, Any]]) -> None:
        """Move a hundred calls to another day, by two days and by years, and count their rows."""
        target = days[0]
        present = [row for row in rows if row["date"].startswith(str(target))]
        _, near = self._invent(self.per_day)
        self._window([date.fromisoformat(near[0]["date"][:10])], near, lambda _: True)
        for distance, source in (
            ("two days", near),
            ("years", self._stored(date(2024, 5, self._random.randint(1, 31)))[1]),
        ):
            moved = [row | {"date": f"{target} 12:00:00"} for row in source[:100]]
            present = present + moved
            self._window([target], present, lambda _: True)
            row = self._db.execute(
                "SELECT count(*) FROM magnetis.calls WHERE id = ANY(%s)",
                ([row["id"] for row in moved],),
            ).fetchone()
            self.report(
                f"{method}: rows of {len(moved)} calls that moved by {distance}",
                f"{row[0] if row else 0}",
            )

    def _expect_rejection(self) -> None:
        """Verify that the partitioned table rejects the program's own merge."""
        try:
            self._window(*self._invent(self.per_day), lambda _: True)
        except Exception as error:  # noqa: BLE001 - the error is the result
            text = f"rejected: {type(error).__name__}: {str(error)[-100:]}"
            self.report("the program's merge", text)
        else:
            raise SystemExit(
                "the program's own merge works on a partitioned table: update this benchmark"
            )

    # --- dropping

    def delete_a_year(self) -> None:
        """Delete the oldest year from the plain table, and then drop the table."""
        before = self._bytes()
        seconds = self._timed(
            "DELETE FROM magnetis.calls_before WHERE day < %(end)s",
            {"end": date(FIRST.year + 1, 1, 1)},
        )
        vacuum = self._timed("VACUUM magnetis.calls_before")
        gigabytes = (before - self._bytes()) / 1e9
        self.report(
            "the oldest year of the plain table",
            f"DELETE {show(seconds)}, VACUUM {show(vacuum)}, {gigabytes:.2f} GB freed",
        )
        self._db.execute("DROP TABLE magnetis.calls_before")
        self._db.execute("CHECKPOINT")

    def detach_a_year(self) -> None:
        """Detach and drop the oldest year of the partitioned table."""
        before, began = self._bytes(), time.perf_counter()
        for first, _ in months(FIRST, date(FIRST.year + 1, 1, 1)):
            self._db.execute(
                f"ALTER TABLE magnetis.calls DETACH PARTITION magnetis.calls_{first:%Y_%m}"
            )
            self._db.execute(f"DROP TABLE magnetis.calls_{first:%Y_%m}")
        seconds, gigabytes = time.perf_counter() - began, (before - self._bytes()) / 1e9
        self.report("the oldest year", f"DETACH, DROP {show(seconds)}, {gigabytes:.2f} GB freed")

    def _bytes(self) -> int:
        row = self._db.execute("SELECT pg_database_size(current_database())").fetchone()
        return int(row[0]) if row else 0

    def measure(self) -> None:
        """Measure the queries, then the merges."""
        self.query()
        self.query_with_other_indexes()
        self.merge()
        self.vacuum_after_merges()

    def vacuum_after_merges(self) -> None:
        """Measure the work of autovacuum after the merges."""
        self.report(
            "VACUUM ANALYZE after the merges", show(self._timed("VACUUM (ANALYZE) magnetis.calls"))
        )


def is_unchanged(merged: MergeResult) -> bool:
    return not any(day.inserted or day.changed or day.deleted for day in merged.days)


def all_inserted(rows: int) -> Callable[[MergeResult], bool]:
    """Return whether a merge inserted that number of rows, as a function."""
    return lambda merged: sum(day.inserted for day in merged.days) == rows


def format_times(times: Sequence[tuple[float, float]]) -> str:
    staging = median(staged for staged, _ in times)
    return f"merge cold {show(times[0][1])}, warm {show(warm(times))}; staging {show(staging)}"


def warm(times: Sequence[tuple[float, float]]) -> float:
    return median(merged for _, merged in times[1:])


def show(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def months(first: date, end: date) -> Iterator[tuple[date, date]]:
    """Yield each month from that of `first` to `end`, exclusive, and the month after it."""
    while first < end:
        after = (first.replace(day=1) + timedelta(days=32)).replace(day=1)
        yield first, min(after, end)
        first = after


def facts() -> str:
    return ", ".join(
        [
            f"{multiprocessing.cpu_count()} cores",
            f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
            f"load {os.getloadavg()[0]:.1f}",
            platform.platform(terse=True),
            f"Python {platform.python_version()}",
            f"psycopg {psycopg.__version__}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of rows to generate")
    options = parser.parse_args()
    # A terminated benchmark must end the processes that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    needed = options.rows * BYTES_PER_ROW + 4 * 10**9 + KEEP_FREE
    if (free := shutil.disk_usage(tempfile.gettempdir()).free) < needed:
        raise SystemExit(
            f"{options.rows:,} rows need {needed / 1e9:.0f} GB of free disk, reserve included; "
            f"only {free / 1e9:.0f} GB are free"
        )
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    try:
        with psycopg.connect(embedded.start(home, database="postgres")) as connection:
            version = connection.info.parameter_status("server_version")
        print(f"{facts()}, PostgreSQL {version}", flush=True)
        table = Table(home, options.rows)
        try:
            print(f"{table.rows:,} rows, {table.per_day:,} a day", flush=True)
            table.build()
            table.measure()
            table.convert()
            table.delete_a_year()
            table.measure()
            table.detach_a_year()
            table.compare()
        finally:
            table.close()
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
