"""A backfill that is killed (SIGKILL) repeatedly and resumed ends complete, and loses few calls.

benchmarks/kills.py measures the same over three years. This test covers a month and does not depend
on timing: before the sandbox handles a request, it waits until each served page is cached.
"""

import os
import signal
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from protected import PROTECTION
from sandbox_rows import expected_rows
from sqlalchemy import Engine, text
from warm import FORKSERVER

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.database import connect
from magnetis_dagster.ingest import Ingestion, RunIdentity
from magnetis_dagster.ingest.windows import PADDING
from magnetis_dagster.sandbox import SANDBOX_KEY, Request, SandboxOptions, SandboxServer
from magnetis_dagster.settings import Settings
from magnetis_dagster.wiring import ledger_of, warehouse_of, zones_of

PARIS = ZoneInfo("Europe/Paris")
FIRST = date(2025, 3, 1)
DAYS = [FIRST + timedelta(days=n) for n in (*range(15), *range(20, 35))]
"""Two windows around a clock change."""
PAGE = 5
"""Rows of a page; a small page makes many requests."""
PLACES = 4
"""Requests in flight in a run that is not resumed."""
KILLED_AT = (10, 2, 4, 8, 1, 20)
"""Requests that each process may send before it is killed.

A resumed run has one request in flight for its first four, two for the next eight, then three.
"""
LOST = (PLACES, 1, 1, 2, 1, 3)
"""Most requests in flight at that moment."""
PATIENCE = 60.0
"""Seconds until a process must end or a page be cached; they take 1 s and 0.01 s."""
Query = Callable[..., list[Any]]


def load(url: str, database: str, number: int) -> None:
    # plain HTTP needs no certificates; reading them takes 20 ms per process
    ssl.SSLContext.load_verify_locations = lambda *_, **__: None  # type: ignore[method-assign]
    settings = Settings.load(api_url=url, api_key=SANDBOX_KEY, database_url=database)
    catalogue = load_catalogue()
    engine = connect(database)
    warehouse = warehouse_of(engine, settings, catalogue)
    warehouse.protection = PROTECTION
    with Ingestion(
        warehouse,
        ledger_of(engine, settings),
        RunIdentity(f"run-{number}", "manual", work="work", resumes=number > 0),
        origin=settings.api_url,
        key=settings.require_key(),
        zones=zones_of(settings),
        concurrency=PLACES,
    ) as ingestion:
        for _ in ingestion.read_days(catalogue["calls"], DAYS):
            pass


class Killer:
    """Kills the running process when the request of a given number arrives."""

    def __init__(self, sandbox: SandboxServer, engine: Engine) -> None:
        self._sandbox = sandbox
        self._engine = engine
        self._left = 0
        self._pid: int | None = None
        self._starting = threading.Lock()
        self._served = 0
        self.witnesses = 0
        """Requests for a cached page, to compare it."""
        self.failures: list[BaseException] = []

    def run(self, database: str, number: int, calls: int | None) -> tuple[int, int]:
        """Run one process, killed at its request number `calls`.

        Returns the received requests, and how many of their pages are safe.
        """
        safe, received = self.safe, self.received - self.witnesses
        self._served, self._left = safe, calls or 0
        process = FORKSERVER.Process(target=load, args=(self._sandbox.url, database, number))
        with self._starting:
            process.start()
            self._pid = process.pid
        process.join(PATIENCE)
        self._pid = None
        if process.exitcode != (-signal.SIGKILL if calls else 0):
            process.kill()
            pytest.fail(f"the process ended with {process.exitcode}")
        # after the requests that the process had sent when it died
        assert httpx.get(self._sandbox.url).is_success
        return self.received - self.witnesses - received, self.safe - safe

    @property
    def received(self) -> int:
        return sum(request.path == "/calls" for request, _ in self._sandbox.requests)

    def __call__(self, request: Request) -> None:
        with self._starting:
            if self._pid is None:
                return  # sent by a killed process
        request.query["limit"] = str(PAGE)
        try:
            end = time.monotonic() + PATIENCE
            while self.safe < self._served:
                assert time.monotonic() < end, "a served page is not cached"
                threading.Event().wait(0.001)
            if self._left == 1:
                os.kill(self._pid, signal.SIGKILL)
                self._pid = None
        except BaseException as error:
            self.failures.append(error)  # otherwise the error is lost: the server answers 500
            raise
        self._left -= 1
        if self._is_kept(request):
            self.witnesses += 1
        else:
            self._served += 1

    def _is_kept(self, request: Request) -> bool:
        first = (
            datetime.strptime(request.query["from"], "%Y%m%d%H%M%S").replace(tzinfo=UTC) + PADDING
        )
        statement = (
            "SELECT count(*) FROM magnetis_ops.pages WHERE page = :page AND first_day = :first"
        )
        names = {"page": int(request.query["page"]), "first": first.astimezone(PARIS).date()}
        with self._engine.connect() as connection:
            return bool(connection.execute(text(statement), names).scalar_one())

    @property
    def safe(self) -> int:
        """Return the number of pages that are cached or committed."""
        kept = "SELECT count(*) FROM magnetis_ops.pages"
        committed = f"SELECT coalesce(sum(ceil(received / {PAGE}.0)), 0) FROM magnetis_ops.windows"
        with self._engine.connect() as connection:
            return int(connection.execute(text(f"SELECT ({kept}) + ({committed})")).scalar_one())


def test_a_backfill_that_is_killed_repeatedly_ends_complete(
    database_url: str, engine: Engine, catalogue: Catalogue, query: Query
) -> None:
    options = SandboxOptions(calls_per_day=12, daily_quota=None)
    with SandboxServer(options, catalogue) as sandbox:
        killer = Killer(sandbox, engine)
        sandbox.intercept(killer)
        truth = {
            row["id"]: row
            for day in DAYS
            for row in expected_rows(sandbox.world, "calls", day, day)
        }
        lost = []
        for number, calls in enumerate((*KILLED_AT, None)):
            received, safe = killer.run(database_url, number, calls)
            lost.append(received - safe)
        assert not killer.failures
    assert dict(query("SELECT id, payload FROM magnetis.calls WHERE deleted_at IS NULL")) == truth
    held = "SELECT day, count(*) FROM magnetis.calls GROUP BY day ORDER BY day"
    assert query("SELECT day, held FROM magnetis_ops.days ORDER BY day") == query(held)
    assert query("SELECT first_day, last_day FROM magnetis_ops.windows ORDER BY id") == [
        (DAYS[0], DAYS[14]),
        (DAYS[15], DAYS[29]),
    ]
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]

    assert all(number <= most for number, most in zip(lost, (*LOST, 0), strict=True)), lost
    least = killer.safe
    assert (
        killer.received - killer.witnesses == least + sum(lost) <= least * 1.05 + 2 * len(KILLED_AT)
    )
    assert killer.witnesses <= len(KILLED_AT) + 2 * 2, (
        "two pages of each window, requested again after a kill"
    )
    [(charged, unsettled)] = query(
        "SELECT count(*), count(*) FILTER (WHERE settled_at IS NULL AND run_id = :last) "
        "FROM magnetis_ops.api_calls",
        last=f"run-{len(KILLED_AT)}",
    )
    assert 0 <= charged - killer.received <= sum(LOST), "charged, and killed before it was sent"
    assert unsettled == 0
