"""A backfill and a snapshot under all faults together end with the rows of the sandbox.

Responses: 429, 500, 502 in HTML, time-outs, truncated bodies, repeated and shifted pages. Rows are
edited, inserted, moved and deleted while they are read. The database ends sessions, restarts or
crashes. Failed runs are retried, as Dagster does. Days that were not edited after their read must
be right immediately; the others after one more undisturbed read.

20 seeds, or CHAOS_SEEDS of them:
`CHAOS_SEEDS=200 make test ARGS=tests/integration/ingest/test_chaos.py`.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from parsed_rows import read_row
from small_api import Open
from sqlalchemy.exc import OperationalError

from magnetis_dagster.api import ClientLimits
from magnetis_dagster.catalog import Catalogue, ColumnType
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.errors import TransientError
from magnetis_dagster.ingest import Ingestion
from magnetis_dagster.quota import guard
from magnetis_dagster.quota.ledger import QuotaExhausted
from magnetis_dagster.sandbox import Answer, Request, SandboxOptions, SandboxServer
from magnetis_dagster.warehouse.migrate import migrate

SEEDS = int(os.environ.get("CHAOS_SEEDS", "20"))
FIRST_DAYS = (date(2025, 3, 27), date(2025, 10, 23), date(2025, 6, 2))
"""Days with each of the two clock changes, and days without one."""
DAYS = 5
CALLS = 24
"""Calls a day, mean over the week."""
PAGE = 10
"""Rows of a page; a small page makes many requests."""
MOST_RUNS = 400
IMPATIENT = ClientLimits(
    attempts=2, connect=5.0, read=0.15, total=1.0, wait_initial=0.001, wait_max=0.002
)
PATIENT = ClientLimits(attempts=2, wait_initial=0.001, wait_max=0.002)
"""Without faults, a slow machine must not look like a time-out."""
FAULTS = {
    "error_500": 0.08,
    "bad_gateway": 0.06,
    "hang": 0.03,
    "truncated": 0.06,
    "empty": 0.03,
    "dropped": 0.05,
    "duplicated": 0.08,
    "total_moved": 0.04,
}
"""The sandbox's faults, each with the highest probability that a seed may draw."""
Query = Callable[..., list[Any]]


class Server:
    """An embedded server that these tests may stop and crash."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.url = embedded.start(home, database="postgres")
        for setting in ("fsync", "full_page_writes"):
            self.execute(
                f"ALTER SYSTEM SET {setting} = off"
            )  # only processes die here, not the machine
        self.execute("SELECT pg_reload_conf()")

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        with psycopg.connect(
            self.url.replace("/postgres?", f"/{database}?"), autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def end_sessions(self) -> None:
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
        )

    def restart(self) -> None:
        embedded.stop(self._home)
        embedded.start(self._home, database="postgres")

    def crash(self) -> None:
        """Kill one session: the server ends all others and recovers.

        It loses unlogged tables and commits that were not awaited.
        """
        with (
            closing(psycopg.connect(self.url)) as victim,
            closing(psycopg.connect(self.url)) as witness,
        ):
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            with suppress(psycopg.OperationalError):
                witness.execute(
                    "SELECT pg_sleep(60)"
                )  # until the server notices the crash, it accepts sessions that it will end
        embedded.start(self._home, database="postgres")  # waits for the recovery

    def stop(self) -> None:
        embedded.stop(self._home)


@pytest.fixture(scope="module")
def server(catalogue: Catalogue) -> Iterator[Server]:
    home = Path(tempfile.mkdtemp(prefix="magnetis-chaos-"))
    server = Server(home)
    server.execute("CREATE DATABASE template_chaos")
    engine = connect(server.url.replace("/postgres?", "/template_chaos?"))
    migrate(engine, catalogue)
    engine.dispose()
    yield server
    server.stop()
    shutil.rmtree(home)


@pytest.fixture
def database_url(server: Server) -> Iterator[str]:
    name = f"chaos_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE template_chaos")
    yield server.url.replace("/postgres?", f"/{name}?")
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Chaos:
    """The faults of one seed, by the number of the request, up to the last faulty one."""

    def __init__(
        self,
        seed: int,
        sandbox: SandboxServer,
        faults: dict[str, float],
        server: Server,
        query: Query,
    ) -> None:
        dice = random.Random(seed)
        self._seed = seed
        self._sandbox = sandbox
        self._server = server
        self._query = query
        first = dice.choice(FIRST_DAYS)
        self.days = [first + timedelta(days=n) for n in range(DAYS)]
        self.concurrency = dice.choice([1, 2, 8])
        self.chunk_rows = dice.choice([25, 60, 5000])
        self.quota = dice.choice([25, 5000, 5000])
        self.snapshot_first = dice.random() < 0.5
        self._last_call = dice.randrange(25, 80)
        self._editing = dice.choice([0.0, 0.1, 0.4])
        self._again = dice.uniform(0.0, 0.06)
        self._too_many = dice.uniform(0.0, 0.04)
        disturbances = dice.choice(
            [
                [],
                ["end_sessions"],
                ["end_sessions"] * 3,
                ["restart"],
                ["crash"],
                ["restart", "crash"],
            ]
        )
        self._disturbances = dict(
            zip(
                dice.sample(range(1, self._last_call), len(disturbances)), disturbances, strict=True
            )
        )
        self._faults = faults
        self._faults.update({kind: dice.uniform(most / 4, most) for kind, most in FAULTS.items()})
        self.over = False
        self.edits: list[tuple[datetime, str, date | None]] = []
        """Latest possible time of each edit, with collection and day."""
        self.disturbed_at: datetime | None = None
        """Time of the last end of database sessions."""
        self.failures: list[BaseException] = []

    def __call__(self, request: Request) -> Answer | None:
        request.query["limit"] = str(PAGE)
        if self.over or request.number > self._last_call:
            self.end()
            return None
        try:
            return self._disturb(request, random.Random(f"{self._seed}:{request.number}"))
        except BaseException as error:
            self.failures.append(error)  # otherwise the error is lost: the server answers 500
            raise

    def end(self) -> None:
        self.over = True
        self._faults.clear()

    def _disturb(self, request: Request, dice: random.Random) -> Answer | None:
        if how := self._disturbances.get(request.number):
            getattr(self._server, how)()
            self.disturbed_at = self._now()
        if dice.random() < self._editing:
            self._edit(dice)
        if dice.random() < self._too_many:
            return self._rate_limited(dice)
        if (page := int(request.query["page"])) > 1 and dice.random() < self._again:
            request.query["page"] = str(page - 1)
        return None

    def _rate_limited(self, dice: random.Random) -> Answer:
        status, message = dice.choice([(429, "Too Many Attempts."), (403, "Daily quota reached.")])
        wait = dice.choice([{}, {"retry-after": "2"}, {"retry-after": "7200"}])
        return Answer(
            status,
            b'{"message": "%b"}' % message.encode(),
            {"content-type": "application/json", **wait},
        )

    def _edit(self, dice: random.Random) -> None:
        world = self._sandbox.world
        collection, day = (
            ("numbers", None) if dice.random() < 0.15 else ("calls", dice.choice(self.days))
        )
        row = dice.choice(list(world.truth(collection, day, day)))
        number = len(self.edits)
        # with more changes of the count, few windows would survive three attempts
        match dice.choices(["edit", "insert", "delete", "move"], [10, 2, 1, 2])[0]:
            case "edit":
                world.edit(
                    collection,
                    row["id"],
                    version=number,
                    status=f"status-{number}",
                    name=f"name-{number}",
                )
            case "insert":
                world.insert(
                    collection,
                    row | {"id": f"{row['id'][:-12]}new{number:09d}"} | self._at(dice, day),
                )
            case "delete":
                world.delete(collection, row["id"])
            case "move" if day is not None:
                other = dice.choice(self.days)
                world.edit(collection, row["id"], **self._at(dice, other))
                self.edits.append((self._now(), collection, other))
            case _:
                pass
        self.edits.append((self._now(), collection, day))

    @staticmethod
    def _at(dice: random.Random, day: date | None) -> dict[str, str]:
        """Return members that place a row at an edge of the day, or inside it."""
        return (
            {"start_at": f"{day} {dice.choice(['00:00:00', '11:30:00', '23:59:59'])}"}
            if day
            else {}
        )

    def _now(self) -> datetime:
        [(moment,)] = self._query("SELECT magnetis_ops.now()")
        assert isinstance(moment, datetime)
        return moment


class Waiting:
    """Replaces the guard's `asyncio`: sleeping moves the database's clock."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.to_thread(self.wait, timedelta(seconds=seconds))

    def wait(self, duration: timedelta) -> None:
        with (
            self._lock,
            suppress(OperationalError),
        ):  # the database is shutting down: the waiting task retries
            self._clock.advance(duration)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_final_tables_equal_the_truth(
    seed: int,
    server: Server,
    database_url: str,
    catalogue: Catalogue,
    open_ingestion: Open,
    query: Query,
    clock: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = Waiting(clock)
    monkeypatch.setattr(guard, "asyncio", waiting)
    faults: dict[str, float] = {}
    options = SandboxOptions(
        seed=seed, calls_per_day=CALLS, daily_quota=None, faults=faults, fault_seed=seed
    )
    with SandboxServer(options, catalogue) as sandbox:
        chaos = Chaos(seed, sandbox, faults, server, query)
        sandbox.intercept(chaos)

        def until_done(read: Callable[[Ingestion], object], run: str) -> None:
            for number in count():
                assert number < MOST_RUNS
                over = chaos.over
                limits = PATIENT if over else IMPATIENT
                engine = connect(database_url)  # each process has its own in production
                try:
                    with open_ingestion(
                        run=run,
                        resumes=number > 0,
                        quota=chaos.quota,
                        engine=engine,
                        origin=sandbox.url,
                        key=sandbox.key,
                        limits=limits,
                        concurrency=chaos.concurrency,
                        chunk_rows=chaos.chunk_rows,
                    ) as ingestion:
                        read(ingestion)
                except QuotaExhausted as exhausted:
                    waiting.wait(exhausted.available_at - exhausted.at)
                except TransientError:
                    if over:
                        raise
                else:
                    return
                finally:
                    engine.dispose()

        def backfill(ingestion: Ingestion, days: list[date] = chaos.days) -> None:
            list(ingestion.read_days(catalogue["calls"], days))

        def snapshot(ingestion: Ingestion) -> None:
            ingestion.read_snapshot(catalogue["numbers"], ingestion._parts.today())

        works = [(backfill, "backfill"), (snapshot, "snapshot")]
        for work, run in reversed(works) if chaos.snapshot_first else works:
            until_done(work, run)
        chaos.end()
        stale = stale_days(query, chaos)
        if fresh := [day for day in chaos.days if day not in stale]:
            check_rows(query, sandbox, open_ingestion, "calls", fresh)
        if stale:
            until_done(lambda ingestion: backfill(ingestion, sorted(stale)), "look-back")
        if any(collection == "numbers" for _, collection, _ in chaos.edits):
            until_done(snapshot, "look-back")

        assert not chaos.failures
        check_rows(query, sandbox, open_ingestion, "calls", chaos.days)
        check_rows(query, sandbox, open_ingestion, "numbers", [])
        check_counts(query, chaos)
        check_history(query)
        check_ledger(query, chaos, sandbox.received)


def stale_days(query: Query, chaos: Chaos) -> set[date]:
    """Return the days that were edited after the start of their read."""
    read_at = dict(query("SELECT day, read_at FROM magnetis_ops.days WHERE collection = 'calls'"))
    assert sorted(read_at) == chaos.days
    return {
        day
        for moment, collection, day in chaos.edits
        if collection == "calls" and day and moment >= read_at[day]
    }


def check_rows(
    query: Query, sandbox: SandboxServer, open_ingestion: Open, collection: str, days: list[date]
) -> None:
    """Assert that ids, payloads and columns are the API's, and only missing rows are deleted."""
    warehouse = open_ingestion()._parts.warehouse
    declared = warehouse.catalogue[collection]
    reader = warehouse.reader(declared)
    moments = ["occurred_at", "day"] if declared.is_events else []
    names = ["id", "payload", "account_id", *moments, *declared.columns]
    on = "day = ANY(:days)" if declared.is_events else "true"
    columns = ", ".join(f'"{name}"' for name in names)
    held = query(
        f"SELECT {columns} FROM magnetis.{collection} WHERE deleted_at IS NULL AND {on}", days=days
    )
    world, truth = sandbox.world, {}
    is_json = [column.type is ColumnType.JSON for column in declared.columns.values()]
    for row in (
        [row for day in days for row in world.truth(collection, day, day)]
        if days
        else world.truth(collection)
    ):
        parsed = read_row(reader, row)
        placed = [parsed.occurred_at, parsed.day] if declared.is_events else []
        values = [
            json.loads(value) if value and json_ else value
            for value, json_ in zip(parsed.values, is_json, strict=True)
        ]
        truth[row["id"]] = (row["id"], row, parsed.account_id, *placed, *values)
    assert len(held) == len(truth)
    assert {row[0]: row for row in held} == truth


def check_counts(query: Query, chaos: Chaos) -> None:
    """Assert that each day is complete once, by its newest window, with the rows of the table."""
    days = query(
        "SELECT day, announced, held FROM magnetis_ops.days WHERE collection = 'calls' ORDER BY day"
    )
    held = (
        "SELECT day, count(*), count(*) FROM magnetis.calls WHERE deleted_at IS NULL "
        "GROUP BY day ORDER BY day"
    )
    assert days == query(held)
    assert [day for day, *_ in days] == chaos.days
    assert query(
        "SELECT count(*) FROM magnetis_ops.windows WHERE announced <> received OR quarantined > 0"
    ) == [(0,)]
    unread = (
        "SELECT count(*) FROM magnetis_ops.days AS d "
        "LEFT JOIN magnetis_ops.day_reads AS r USING (window_id, day) "
        "LEFT JOIN magnetis_ops.windows AS w "
        "ON w.id = d.window_id AND d.day BETWEEN w.first_day AND w.last_day "
        "WHERE r.held IS DISTINCT FROM d.held OR w.read_at IS DISTINCT FROM d.read_at"
    )
    assert query(unread) == [(0,)]
    assert query("SELECT count(*) FROM magnetis_ops.pages WHERE collection = 'calls'") == [(0,)]
    assert query("SELECT count(*) FROM magnetis_ops.quarantine") == [(0,)]


def check_history(query: Query) -> None:
    present = "SELECT id, payload FROM magnetis.numbers WHERE deleted_at IS NULL ORDER BY id"
    assert query(
        "SELECT id, payload FROM magnetis.numbers_history WHERE valid_to IS NULL ORDER BY id"
    ) == query(present)
    overlapping = (
        "SELECT count(*) FROM magnetis.numbers_history AS a "
        "JOIN magnetis.numbers_history AS b ON a.id = b.id "
        "AND a.valid_from < b.valid_from AND (a.valid_to IS NULL OR a.valid_to > b.valid_from)"
    )
    assert query(overlapping) == [(0,)]
    assert query("SELECT count(*) FROM magnetis.numbers_history WHERE valid_to <= valid_from") == [
        (0,)
    ]


def check_ledger(query: Query, chaos: Chaos, received: int) -> None:
    [(charged, unsettled, last)] = query(
        "SELECT count(*), count(*) FILTER (WHERE settled_at IS NULL), "
        "max(charged_at) FILTER (WHERE settled_at IS NULL) FROM magnetis_ops.api_calls"
    )
    assert charged >= received
    if unsettled:
        assert chaos.disturbed_at is not None
        assert last <= chaos.disturbed_at, "an outcome is lost only with the database"
    by_day = "SELECT day, count(*) FROM magnetis_ops.api_calls GROUP BY day ORDER BY day"
    counted = (
        "SELECT day, schedule + settings + manual + backfill FROM magnetis_ops.quota_days "
        "ORDER BY day"
    )
    assert query(by_day) == query(counted)
    assert all(number <= chaos.quota for _, number in query(by_day))
