"""Prefetch: the next window starts while the last pages of the current one are requested."""

import asyncio
import threading
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from small_api import Open, Request, SmallApi, call

from magnetis_dagster.api import AccessForbidden, RouteUnavailable
from magnetis_dagster.ingest import Window
from magnetis_dagster.ingest.range_reader import RangeReader, WindowTask
from magnetis_dagster.ingest.window_reader import WindowReader
from magnetis_dagster.quota.ledger import QuotaExhausted

DAY = date(2025, 3, 3)
DAYS = [DAY + timedelta(days=n) for n in range(6)]
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def _rows(api: SmallApi) -> None:
    # nearly one page per day; with chunks of 500 rows, the range is split into windows of two days
    api.rows["/calls"] = [
        call(f"{day:%d}{n:03d}", f"{day} 12:00:00") for day in DAYS for n in range(245)
    ]


def read(open_ingestion: Open, **options: Any) -> list[Any]:
    with open_ingestion(chunk_rows=500, **options) as ingestion:
        return list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], DAYS))


def of(request: Request) -> tuple[str, int]:
    """Return the first requested day, without its padding, and the page."""
    return f"{int(request.query['from'][6:8]) + 1:02d}", request.page


def test_the_next_window_is_requested_before_the_last_page_of_the_current_one_arrives(
    api: SmallApi, open_ingestion: Open
) -> None:
    next_one = threading.Event()

    def respond(request: Request) -> None:
        if of(request) == ("05", 1):
            next_one.set()
        if of(request) == ("03", 2) and len(api.requests) > 2:
            assert next_one.wait(PATIENCE), "the next window was not requested meanwhile"

    api.respond = respond
    results = read(open_ingestion)
    assert next_one.is_set()
    assert [(str(result.window), result.received, result.api_calls) for result in results] == [
        ("2025-03-03...2025-03-04", 490, 2),
        ("2025-03-05...2025-03-06", 490, 2),
        ("2025-03-07...2025-03-08", 490, 2),
    ]
    assert len(api.requests) == 1 + 6


def test_the_next_window_starts_before_all_pages_of_the_current_one_are_requested(
    api: SmallApi, open_ingestion: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [DAY + timedelta(days=n) for n in range(14)]
    api.rows["/calls"] = [
        call(f"{day:%d}{n:03d}", f"{day} 12:00:00") for day in days for n in range(250)
    ]
    next_one = threading.Event()
    waited: list[bool] = []
    start = RangeReader._start

    def observed_start(reader: RangeReader, window: Window) -> Any:
        if window.first == DAY + timedelta(days=6):
            next_one.set()
        return start(reader, window)

    def respond(request: Request) -> None:
        # both requests in flight: pages 4 and 5 are charged and wait, page 6 is not claimed yet
        if of(request) in {("03", 2), ("03", 3)}:
            # an assertion here would be answered as a 500, which is retried
            waited.append(next_one.wait(20))

    monkeypatch.setattr(RangeReader, "_start", observed_start)
    api.respond = respond
    with open_ingestion(chunk_rows=1800, concurrency=2) as ingestion:
        results = list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], days))
    assert sum(result.received for result in results) == 3500
    assert waited == [True, True], "the next window waited for the last page"


def test_requests_are_recorded_with_the_days_of_their_window(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    read(open_ingestion)
    recorded = query(
        "SELECT first_day, last_day, count(*) FROM magnetis_ops.api_calls "
        "GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert recorded == [
        (DAYS[0], DAYS[1], 2),
        (DAYS[0], DAYS[5], 1),
        (DAYS[2], DAYS[3], 2),
        (DAYS[4], DAYS[5], 2),
    ]


def test_a_failed_prefetch_does_not_stop_the_commit_of_the_current_window(
    api: SmallApi, open_ingestion: Open
) -> None:
    api.respond = lambda request: (404, {}, b"{}") if of(request)[0] == "05" else None
    committed = []
    with open_ingestion(chunk_rows=500) as ingestion, pytest.raises(RouteUnavailable):
        committed.extend(
            str(result.window)
            for result in ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], DAYS)
        )
    assert committed == ["2025-03-03...2025-03-04"]


@pytest.mark.parametrize(("failed", "announced"), [(False, 500), (True, None)])
def test_no_window_is_prefetched_after_a_failed_one(failed: bool, announced: int | None) -> None:
    async def read() -> None:
        if failed:
            raise RouteUnavailable("It is gone.")

    async def announcement() -> int | None:
        # all pages were requested, and one was refused before the announcement was awaited
        reader = SimpleNamespace(nearly_requested=asyncio.Event(), announced=500)
        reader.nearly_requested.set()
        task = asyncio.create_task(read())
        await asyncio.wait([task])
        window = Window(DAYS[0], DAYS[1])
        return await WindowTask(window, cast("WindowReader", reader), task).announcement()

    assert asyncio.run(announcement()) == announced


def test_if_the_current_window_fails_the_prefetch_sends_no_more_requests(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    ahead = threading.Event()

    def respond(request: Request) -> Any:
        if of(request) == ("05", 1):
            ahead.set()
        if of(request) == ("03", 2) and len(api.requests) > 2:
            assert ahead.wait(PATIENCE)
            return 403, {}, b'{"message": "This action is unauthorized."}'
        return None

    api.respond = respond
    with pytest.raises(AccessForbidden):
        read(open_ingestion, run="first", concurrency=2)
    api.respond = lambda _request: None
    requested = {of(request) for request in api.requests}
    assert ("07", 1) not in requested
    # received pages of both windows are cached: the retry requests the others only
    cached = query("SELECT count(*) FROM magnetis_ops.pages")[0][0]
    before = len(api.requests)
    read(open_ingestion, run="first", resumes=True)
    # if one page of a window is missing, page 1 is compared with the cached one
    incomplete = 4 - cached
    assert len(api.requests) - before == 6 - cached + incomplete
    assert query("SELECT count(*), count(DISTINCT id) FROM magnetis.calls") == [(1470, 1470)]
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]


@pytest.mark.parametrize("quota", range(1, 8))
def test_an_exhausted_quota_charges_no_page_twice(
    api: SmallApi, open_ingestion: Open, query: Any, quota: int
) -> None:
    if quota < 7:
        with pytest.raises(QuotaExhausted):
            read(open_ingestion, run="first", quota=quota)
    read(open_ingestion, run="first", resumes=quota < 7)
    # the announcement of the whole range is not cached: a run that ends right after it repeats it
    assert len(api.requests) <= 7 + 1
    assert query("SELECT count(*) FROM magnetis.calls") == [(1470,)]


def test_a_refused_window_discards_the_prefetched_one(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    ahead = threading.Event()

    def respond(request: Request) -> Any:
        first, page = of(request)
        if first == "05":
            ahead.set()
        if (first, page) == ("03", 2) and not refused and len(api.requests) > 2:
            assert ahead.wait(PATIENCE)
            refused.append(request)
            return 422, {}, b'{"message": "The range is too long."}'
        return None

    refused: list[Request] = []
    api.respond = respond
    results = read(open_ingestion)
    assert [day.day for result in results for day in result.days] == DAYS
    assert str(results[0].window) == "2025-03-03", "the refused window is halved"
    assert query("SELECT count(*), count(DISTINCT id) FROM magnetis.calls") == [(1470, 1470)]
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]


def test_a_caller_that_leaves_early_leaves_no_open_session(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    left = threading.Event()
    api.respond = lambda request: left.wait(20) and None if of(request)[0] == "07" else None
    with open_ingestion(chunk_rows=500) as ingestion:
        results = ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], DAYS)
        assert next(results).received == 490
        results.close()  # type: ignore[attr-defined]
        left.set()
    sessions = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND state LIKE 'idle in transaction%'"
    )
    assert query(sessions) == [(0,)]
