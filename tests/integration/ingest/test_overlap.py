"""Two concurrent loads of the same days, while rows change: no row is lost or duplicated."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from small_api import Open

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import connect
from magnetis_dagster.sandbox import Request, SandboxOptions, SandboxServer

FIRST, LAST = date(2025, 3, 20), date(2025, 4, 12)
DAYS = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
BACKFILL = DAYS[:18]
PATIENCE = 60.0
"""Seconds for two loads; they take about 1 s."""

# fails if a row returns to an older version: every edit of the API increments the version
GUARD = """
    CREATE FUNCTION public.no_way_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF coalesce((new.payload ->> 'version')::int, 0)
                < coalesce((old.payload ->> 'version')::int, 0)
            AND new.last_seen_at < old.last_seen_at
        THEN RAISE EXCEPTION 'a row went back to an older reading'; END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER no_way_back BEFORE UPDATE ON magnetis.calls
        FOR EACH ROW EXECUTE FUNCTION public.no_way_back();
"""


class Editor:
    """Edits a row before some of the responses, and records the time of each edit."""

    def __init__(self, seed: int, sandbox: SandboxServer) -> None:
        self._dice = random.Random(seed)
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self.edits: list[tuple[datetime, str, int]] = []
        """Time, row and new version of each edit."""
        self.deleted: list[tuple[datetime, str]] = []

    def __call__(self, _request: Request) -> None:
        for _ in range(2):
            self.edit()

    def edit(self) -> None:
        world = self._sandbox.world
        with self._lock:
            row = self._dice.choice(list(world.truth("calls", *[self._dice.choice(DAYS)] * 2)))
            version = len(self.edits) + 1
            # a window whose count changes in three successive attempts fails
            if len(self.deleted) < 2 and self._dice.random() < 0.1:
                world.delete("calls", row["id"])
                self.deleted.append((datetime.now(UTC), row["id"]))
            else:
                world.edit("calls", row["id"], version=version)
                self.edits.append((datetime.now(UTC), row["id"], version))


@pytest.fixture
def sandbox(catalogue: Catalogue) -> Iterator[SandboxServer]:
    with SandboxServer(
        SandboxOptions(calls_per_day=120, daily_quota=None, latency=0.05), catalogue
    ) as server:
        yield server


def at_once(readings: list[Callable[[], Any]]) -> None:
    with ThreadPoolExecutor(len(readings)) as threads:
        for reading in [threads.submit(reading) for reading in readings]:
            reading.result(PATIENCE)


def nothing_is_lost(query: Callable[..., list[Any]], editor: Editor) -> None:
    """Assert that the table contains every change made before the newest read of its day."""
    reads = (
        "SELECT r.day, max(read_at) FROM magnetis_ops.windows "
        "JOIN magnetis_ops.day_reads AS r ON id = window_id GROUP BY 1"
    )
    read_at = dict(query(reads))
    rows = {
        identifier: (day, version, deleted)
        for identifier, day, version, deleted in query(
            "SELECT id, day, coalesce((payload ->> 'version')::int, 0), deleted_at IS NOT NULL "
            "FROM magnetis.calls"
        )
    }
    for moment, identifier, version in editor.edits:
        day, held, deleted = rows.get(identifier, (DAYS[0], 0, True))
        if not deleted and moment < read_at[day]:
            assert held >= version, f"the edit {version} is lost"
    assert {identifier for identifier, (*_, deleted) in rows.items() if deleted} <= {
        identifier for _, identifier in editor.deleted
    }
    for moment, identifier in editor.deleted:
        if identifier in rows and moment < read_at[rows[identifier][0]]:
            assert rows[identifier][2], "a deleted row is back"
    held = (
        "SELECT day, count(*) FROM magnetis.calls WHERE deleted_at IS NULL "
        "GROUP BY day ORDER BY day"
    )
    assert query(
        "SELECT day, held FROM magnetis_ops.days WHERE collection = 'calls' ORDER BY day"
    ) == query(held)


def the_table_is_the_truth(query: Callable[..., list[Any]], sandbox: SandboxServer) -> None:
    held = query("SELECT id, payload FROM magnetis.calls WHERE deleted_at IS NULL")
    truth = {row["id"]: row for row in sandbox.world.truth("calls", FIRST, LAST)}
    assert len(held) == len(truth)
    assert dict(held) == truth
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("other", ["backfill", "schedule"])
def test_two_concurrent_loads_of_the_same_days(
    seed: int,
    other: str,
    sandbox: SandboxServer,
    database_url: str,
    catalogue: Catalogue,
    open_ingestion: Open,
    query: Callable[..., list[Any]],
) -> None:
    dice = random.Random(seed)
    editor = Editor(seed, sandbox)
    guard = connect(database_url)
    with guard.begin() as connection:
        connection.exec_driver_sql(GUARD)
    guard.dispose()

    def read(
        run: str, days: list[date], wait: float = 0.0, concurrency: int = 8, chunk_rows: int = 400
    ) -> None:
        threading.Event().wait(wait)
        engine = connect(database_url)  # another process has its own in production
        with open_ingestion(
            run=run,
            engine=engine,
            origin=sandbox.url,
            key=sandbox.key,
            chunk_rows=chunk_rows,
            concurrency=concurrency,
        ) as ingestion:
            list(ingestion.read_days(catalogue["calls"], days))
        engine.dispose()

    # the schedule re-reads the last complete days while the backfill runs
    others = [DAYS[6:]] if other == "backfill" else [DAYS[-8:], DAYS[-9:-1], DAYS[-8:]]
    beginnings = [dice.uniform(0.1, 0.2) for _ in others]

    def read_others() -> None:
        for number, (days, wait) in enumerate(zip(others, beginnings, strict=True)):
            read(f"other-{number}", days, wait)

    sandbox.intercept(editor)
    # one window, page by page: it starts first and commits last, and must not overwrite newer days
    at_once([lambda: read("backfill", BACKFILL, concurrency=1, chunk_rows=5000), read_others])
    sandbox.intercept(lambda _request: None)
    assert editor.edits
    nothing_is_lost(query, editor)
    # and both again, without edits
    at_once([lambda: read("again", BACKFILL), lambda: read("other-again", DAYS[6:])])
    the_table_is_the_truth(query, sandbox)
