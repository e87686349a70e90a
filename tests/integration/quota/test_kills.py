"""Sixteen real processes spend 500 calls at a real HTTP server while SIGKILL ends some of them.

Ten seeds, or KILL_SEEDS of them:
`KILL_SEEDS=100 make test ARGS=tests/integration/quota/test_kills.py`.
"""

import asyncio
import os
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from multiprocessing.process import BaseProcess
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, text
from warm import FORKSERVER

from magnetis_dagster.api import ApiCall, MagnetisClient
from magnetis_dagster.database import DatabaseUnavailable, connect
from magnetis_dagster.quota import LANES, QuotaPolicy, ledger_sql
from magnetis_dagster.quota.guard import LedgerGuard, RunIdentity
from magnetis_dagster.quota.ledger import Charge, Ledger, QuotaExhausted
from magnetis_dagster.sandbox import SANDBOX_KEY, Answer, SandboxOptions, SandboxServer

SEEDS = int(os.environ.get("KILL_SEEDS", "10"))
WORKERS = 16
LIMIT = 500
PATIENCE = 60.0
"""Seconds for one seed, which takes 2 to 4."""
REFUSED_RIGHTLY, REFUSED_WRONGLY = 40, 41
"""Exit codes of a worker. A process that is killed while it writes to a queue would block the queue
for the others."""
CHARGE = Charge(collection="calls", route="/calls", page=1, lane="manual")
POLICY = QuotaPolicy(
    limit=LIMIT, zone=ZoneInfo("Europe/Paris"), floors={"schedule": 0.2, "manual": 0.1}
)


def work(database_url: str, api_url: str, lane: str, first_page: int) -> None:
    """Request pages until the ledger refuses."""
    # plain HTTP needs no certificates, and reading them takes 80 ms of CPU in each of 500 processes
    ssl.SSLContext.load_verify_locations = lambda *_, **__: None  # type: ignore[method-assign]
    engine = connect(database_url)
    ledger = Ledger(engine, key_fingerprint="aaaaaaaaaaaa", policy=POLICY)

    async def ask() -> None:
        guard = LedgerGuard(ledger, RunIdentity(f"worker-{first_page}", lane))
        async with (
            MagnetisClient(api_url, SANDBOX_KEY, guard, concurrency=2) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for place in range(2):
                tasks.create_task(pages(client, first_page + 5_000 * place))

    async def pages(client: MagnetisClient, first: int) -> None:
        for page in count(first):
            try:
                await client.page(ApiCall("calls", "/calls", {}, page=page))
            except QuotaExhausted:
                return

    asyncio.run(ask())
    sys.exit(REFUSED_WRONGLY if left(engine, lane) else REFUSED_RIGHTLY)


def left(engine: Engine, lane: str) -> int:
    """Return the remaining calls of a lane.

    At noon the number never grows, so a wrong refusal can still be detected.
    """
    with engine.connect() as connection:
        used = connection.execute(
            text("SELECT schedule, settings, manual, backfill FROM magnetis_ops.quota_days")
        ).one()
    kept = max(0, 100 - used.schedule) + max(0, 50 - used.manual)
    # negative if a lane without a floor used calls that backfill had left for the others
    return max(0, LIMIT - sum(used) - (kept if lane == "backfill" else 0))


class Workers:
    """Sixteen workers, four per lane; a killed one is replaced."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self._first_pages = count(10_000, 10_000)
        self.running: list[tuple[BaseProcess, str]] = []
        for number in range(WORKERS):
            self.start(LANES[number % len(LANES)])

    def start(self, lane: str) -> None:
        process = FORKSERVER.Process(
            target=work, args=(*self._addresses, lane, next(self._first_pages))
        )
        process.start()
        self.running.append((process, lane))

    def kill_one(self, dice: random.Random) -> bool:
        """Kill a worker and start another for its lane; return False if none runs."""
        alive = [(process, lane) for process, lane in self.running if process.is_alive()]
        if not alive:
            return False
        process, lane = dice.choice(alive)
        process.kill()
        process.join()
        self.running.remove((process, lane))
        self.start(lane)
        return True

    def exit_codes(self, deadline: float) -> Counter[int | None]:
        for process, _ in self.running:
            process.join(max(0.0, deadline - time.monotonic()))
        return Counter(process.exitcode for process, _ in self.running)

    def close(self) -> None:
        for process, _ in self.running:
            process.kill()
            process.join()
            process.close()


@pytest.fixture(scope="module")
def api() -> Iterator[SandboxServer]:
    page = (
        b'{"data":[],"meta":{"current_page":1,"last_page":1,"per_page":250,"total":0},'
        b'"links":{"next":null}}'
    )
    with SandboxServer(SandboxOptions(daily_quota=None)) as server:
        server.intercept(lambda _request: Answer(200, page))
        yield server


@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_processes_never_exceed_the_limit_and_lose_no_call(
    seed: int, database_url: str, engine: Engine, clock: Any, api: SandboxServer
) -> None:
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    api.requests.clear()
    dice = random.Random(seed)
    deadline = time.monotonic() + PATIENCE
    workers = Workers(database_url, api.url)
    try:
        kills = 0
        for _ in range(dice.randint(4, 24)):
            time.sleep(dice.uniform(0, 0.12))
            kills += workers.kill_one(dice)
        assert kills
        assert workers.exit_codes(deadline) == {REFUSED_RIGHTLY: WORKERS}
    finally:
        workers.close()
    received = Counter(int(request.query["page"]) for request, _ in api.requests)
    with engine.connect() as connection:
        calls = connection.execute(
            text("SELECT page, lane, status FROM magnetis_ops.api_calls")
        ).all()
        days = connection.execute(
            text("SELECT schedule, settings, manual, backfill FROM magnetis_ops.quota_days")
        ).all()
    charged = Counter(call.page for call in calls)
    assert received.total() <= LIMIT
    assert received <= charged, "received and not charged"
    assert Counter(call.page for call in calls if call.status == 200) <= received
    assert charged.total() == LIMIT
    lanes = Counter(call.lane for call in calls)
    assert [tuple(day) for day in days] == [tuple(lanes[lane] for lane in LANES)]
    # 350 if no other lane had used its floor when backfill took its last call, otherwise more
    assert (
        lanes["backfill"]
        + max(100, lanes["schedule"])
        + max(50, lanes["manual"])
        + lanes["settings"]
        <= LIMIT
    )


def test_a_stopped_process_does_not_block_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_sql, "LOCK_KEY", ledger_sql.LOCK_KEY.replace("'10s'", "'300ms'"))
    stopped, other = (
        Ledger(engine, key_fingerprint="aaaaaaaaaaaa", policy=POLICY) for _ in range(2)
    )
    other.charge(CHARGE)
    started = time.monotonic()
    stopped_transaction = stopped._transaction("charge a call")
    stopped._locked_usage(stopped_transaction.__enter__(), "manual")
    other.charge(CHARGE)
    assert time.monotonic() - started > 0.2
    with pytest.raises(DatabaseUnavailable, match="charge a call"):
        stopped_transaction.__exit__(None, None, None)
    assert other.usage().used == 2
