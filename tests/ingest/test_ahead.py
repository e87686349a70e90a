"""The window behind the present one is begun while the last pages of the present one are asked: what becomes of it in each case."""

import asyncio
import threading
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from small_api import Open, Request, SmallApi, call

from magnetis_dagster.api import AccessForbidden, RouteUnavailable
from magnetis_dagster.catalog import Collection
from magnetis_dagster.ingest import Ingestion, Window
from magnetis_dagster.ingest.pipeline import _Underway
from magnetis_dagster.ingest.window_reader import WindowReader
from magnetis_dagster.quota.ledger import QuotaExhausted

DAY = date(2025, 3, 3)
DAYS = [DAY + timedelta(days=n) for n in range(6)]
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def _rows(api: SmallApi) -> None:
    # nearly a page a day; with 500 rows a chunk the range is announced, then read by two days
    api.rows["/calls"] = [
        call(f"{day:%d}{n:03d}", f"{day} 12:00:00") for day in DAYS for n in range(245)
    ]


def read(opened: Open, **options: Any) -> list[Any]:
    with opened(chunk_rows=500, **options) as ingestion:
        return list(ingestion.read_days(ingestion._warehouse.catalogue["calls"], DAYS))


def of(request: Request) -> tuple[str, int]:
    """The first day that is asked, without its padding, and the page."""
    return f"{int(request.query['from'][6:8]) + 1:02d}", request.page


def test_the_next_window_is_asked_before_the_last_page_of_the_present_one_is_answered(
    api: SmallApi, opened: Open
) -> None:
    next_one = threading.Event()

    def respond(request: Request) -> None:
        if of(request) == ("05", 1):
            next_one.set()
        if of(request) == ("03", 2) and len(api.requests) > 2:
            assert next_one.wait(PATIENCE), (
                "nothing was asked behind the last page of the first window"
            )

    api.respond = respond
    results = read(opened)
    assert next_one.is_set()
    assert [(str(result.window), result.received, result.api_calls) for result in results] == [
        ("2025-03-03...2025-03-04", 490, 2),
        ("2025-03-05...2025-03-06", 490, 2),
        ("2025-03-07...2025-03-08", 490, 2),
    ]
    assert len(api.requests) == 1 + 6


def test_the_next_window_is_begun_before_all_pages_of_the_present_one_are_asked(
    api: SmallApi, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [DAY + timedelta(days=n) for n in range(14)]
    api.rows["/calls"] = [
        call(f"{day:%d}{n:03d}", f"{day} 12:00:00") for day in days for n in range(250)
    ]
    next_one = threading.Event()
    waited: list[bool] = []
    begin = Ingestion._begin

    def noted(
        ingestion: Ingestion,
        collection: Collection,
        window: Window,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        if window.first == DAY + timedelta(days=6):
            next_one.set()
        return begin(ingestion, collection, window, *arguments, **options)

    def respond(request: Request) -> None:
        # both places: pages 4 and 5 are charged and wait, page 6 is nobody's yet
        if of(request) in {("03", 2), ("03", 3)}:
            waited.append(
                next_one.wait(2.0)
            )  # an assertion here would be a 500, which is tried again

    monkeypatch.setattr(Ingestion, "_begin", noted)
    api.respond = respond
    with opened(chunk_rows=1800, concurrency=2) as ingestion:
        results = list(ingestion.read_days(ingestion._warehouse.catalogue["calls"], days))
    assert sum(result.received for result in results) == 3500
    assert waited == [True, True], "the next window waits until the last page is asked"


def test_calls_are_noted_under_the_days_that_they_read(
    api: SmallApi, opened: Open, query: Any
) -> None:
    read(opened)
    noted = query(
        "SELECT first_day, last_day, count(*) FROM magnetis_ops.api_calls GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert noted == [
        (DAYS[0], DAYS[1], 2),
        (DAYS[0], DAYS[5], 1),
        (DAYS[2], DAYS[3], 2),
        (DAYS[4], DAYS[5], 2),
    ]


def test_a_window_ahead_that_fails_lets_the_present_one_through(
    api: SmallApi, opened: Open
) -> None:
    api.respond = lambda request: (404, {}, b"{}") if of(request)[0] == "05" else None
    done = []
    with opened(chunk_rows=500) as ingestion, pytest.raises(RouteUnavailable):
        done.extend(
            str(result.window)
            for result in ingestion.read_days(ingestion._warehouse.catalogue["calls"], DAYS)
        )
    assert done == ["2025-03-03...2025-03-04"]


@pytest.mark.parametrize(("failed", "announced"), [(False, 500), (True, None)])
def test_nothing_is_begun_behind_a_window_that_has_failed(
    failed: bool, announced: int | None
) -> None:
    async def reading() -> int:
        if failed:
            raise RouteUnavailable("It is gone.")
        return 500

    async def told() -> int | None:
        # all its pages were asked, and one was refused before anybody looked
        reader = SimpleNamespace(nearly_asked=asyncio.Event(), announced=500)
        reader.nearly_asked.set()
        task = asyncio.create_task(reading())
        await asyncio.wait([task])
        return await _Underway(
            Window(DAYS[0], DAYS[1]), cast("WindowReader", reader), task
        ).announced()

    assert asyncio.run(told()) == announced


def test_where_the_present_window_fails_the_one_ahead_asks_nothing_more(
    api: SmallApi, opened: Open, query: Any
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
        read(opened, run="first", concurrency=2)
    api.respond = lambda _request: None
    asked = {of(request) for request in api.requests}
    assert ("07", 1) not in asked
    # what was received of both windows is kept: the retry pays for the rest alone
    kept = query("SELECT count(*) FROM magnetis_ops.pages")[0][0]
    before = len(api.requests)
    read(opened, run="first", resumes=True)
    # page 1 of a window of which one page is missing is compared with the kept one
    incomplete = 4 - kept
    assert len(api.requests) - before == 6 - kept + incomplete
    assert query("SELECT count(*), count(DISTINCT id) FROM magnetis.calls") == [(1470, 1470)]
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]


@pytest.mark.parametrize("quota", range(1, 8))
def test_out_of_calls_no_page_is_paid_twice(
    api: SmallApi, opened: Open, query: Any, quota: int
) -> None:
    if quota < 7:
        with pytest.raises(QuotaExhausted):
            read(opened, run="first", quota=quota)
    read(opened, run="first", resumes=quota < 7)
    # the announcement of the whole range is no page: who is out of calls right behind it asks it again
    assert len(api.requests) <= 7 + 1
    assert query("SELECT count(*) FROM magnetis.calls") == [(1470,)]


def test_a_refused_window_takes_the_one_ahead_with_it(
    api: SmallApi, opened: Open, query: Any
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
    results = read(opened)
    assert [day.day for result in results for day in result.days] == DAYS
    assert str(results[0].window) == "2025-03-03", "the refused window is halved"
    assert query("SELECT count(*), count(DISTINCT id) FROM magnetis.calls") == [(1470, 1470)]
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]


def test_who_leaves_in_the_middle_leaves_no_session_behind(
    api: SmallApi, opened: Open, query: Any
) -> None:
    held = threading.Event()
    api.respond = lambda request: held.wait(1) and None if of(request)[0] == "07" else None
    with opened(chunk_rows=500) as ingestion:
        results = ingestion.read_days(ingestion._warehouse.catalogue["calls"], DAYS)
        assert next(results).received == 490
        results.close()  # type: ignore[attr-defined]
        held.set()
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    assert query(sessions) == [(0,)]
