"""Interrupted reads: received pages are cached, and the retry resumes with them."""

from datetime import date, timedelta
from typing import Any

import pytest
from small_api import Open, Request, SmallApi, call
from sqlalchemy import Engine, text

from magnetis_dagster.api import ServerUnavailable
from magnetis_dagster.quota.ledger import QuotaExhausted

DAY = date(2025, 3, 3)
DAYS = [DAY + timedelta(days=n) for n in range(4)]
ROWS = 4 * 490
PAGES = 8
VERIFIED = 1
"""Page 1 is requested again at the end of a window of four pages or more."""


@pytest.fixture(autouse=True)
def _rows(api: SmallApi) -> None:
    api.rows["/calls"] = [
        call(f"{day:%d}{n:03d}", f"{day} 12:00:00") for day in DAYS for n in range(490)
    ]


def read(open_ingestion: Open, days: list[date] = DAYS, **options: Any) -> list[Any]:
    with open_ingestion(**options) as ingestion:
        return list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], days))


def broken_off(api: SmallApi, open_ingestion: Open, at: int, **options: Any) -> None:
    api.respond = lambda request: (500, {}, b"{}") if request.number >= at else None
    with pytest.raises(ServerUnavailable):
        read(open_ingestion, concurrency=1, **options)
    api.respond = lambda _request: None


def requested(api: SmallApi) -> list[tuple[str, int]]:
    return [(request.query["from"][6:8], request.page) for request in api.requests]


@pytest.mark.parametrize("at", range(2, 9))
def test_a_retry_requests_only_the_missing_pages(
    api: SmallApi, open_ingestion: Open, query: Any, at: int
) -> None:
    broken_off(api, open_ingestion, at, run="first")
    assert query("SELECT count(*) FROM magnetis.calls") == [(0,)]
    # after a long window fails, its first day is tried alone, and its cached pages are dropped
    kept = {page for (page,) in query("SELECT page FROM magnetis_ops.pages")}
    api.requests.clear()
    [result] = read(open_ingestion, run="first", resumes=True)
    # page 1, requested again at the end, is compared with the cached one
    assert (result.received, result.api_calls) == (ROWS, PAGES + VERIFIED)
    assert sorted(page for _, page in requested(api)) == sorted(
        [*set(range(1, 9)) - kept, *[1] * VERIFIED]
    )
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]


@pytest.mark.parametrize("left", range(1, 9))
def test_an_exhausted_quota_charges_no_page_twice(
    api: SmallApi, open_ingestion: Open, query: Any, left: int
) -> None:
    with pytest.raises(QuotaExhausted):
        read(open_ingestion, run="first", quota=left - 1 or 1)
    read(open_ingestion, run="first", resumes=True)
    assert len(api.requests) <= PAGES + VERIFIED
    assert len(set(requested(api))) == PAGES


def test_another_run_does_not_use_cached_pages(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    with pytest.raises(QuotaExhausted):
        read(open_ingestion, run="first", quota=4)
    read(open_ingestion, run="second", resumes=True)
    assert len(api.requests) == 4 + PAGES + VERIFIED


def test_rows_that_moved_since_the_cached_pages_are_read_again(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    with pytest.raises(QuotaExhausted):
        read(open_ingestion, run="first", quota=4)
    api.rows["/calls"].insert(0, call("late", f"{DAY} 00:00:01"))
    [result] = read(open_ingestion, run="first", resumes=True)
    assert result.received == ROWS + 1
    assert query("SELECT count(*), count(DISTINCT id) FROM magnetis.calls") == [
        (ROWS + 1, ROWS + 1)
    ]


def test_lost_cached_pages_are_requested_again(
    api: SmallApi, open_ingestion: Open, engine: Engine
) -> None:
    with pytest.raises(QuotaExhausted):
        read(open_ingestion, run="first", quota=4, concurrency=1)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM magnetis_ops.pages WHERE page IN (1, 3)"))
    [result] = read(open_ingestion, run="first", resumes=True)
    assert result.received == ROWS
    # without page 1, the others cannot be compared: all pages are requested again
    assert sorted(page for _, page in requested(api)[4:]) == [1, *range(1, 9)]


def test_cached_pages_that_no_run_resumes_are_dropped(
    api: SmallApi, open_ingestion: Open, query: Any, engine: Engine
) -> None:
    with pytest.raises(QuotaExhausted):
        read(open_ingestion, run="first", quota=4)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE magnetis_ops.pages SET fetched_at = fetched_at - interval '8 days'")
        )
    read(open_ingestion, DAYS[:1], run="second")
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]


def test_a_committed_window_stays_if_the_next_one_fails(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    def respond(request: Request) -> Any:
        return (500, {}, b"{}") if request.query["from"] > "20250304" else None

    api.respond = respond
    done: list[date] = []
    with open_ingestion(chunk_rows=600) as ingestion, pytest.raises(ServerUnavailable):
        done.extend(
            day.day
            for result in ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], DAYS)
            for day in result.days
        )
    assert done == DAYS[:2] == [day for (day,) in query("SELECT day FROM magnetis_ops.days")]


def test_cached_pages_of_a_longer_window_are_not_used_for_a_shorter_one(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    with pytest.raises(QuotaExhausted):
        read(open_ingestion, run="first", quota=4)
    kept_since = query("SELECT min(fetched_at) FROM magnetis_ops.pages")
    [result] = read(open_ingestion, DAYS[:2], run="first", resumes=True)
    assert (result.received, result.api_calls) == (980, 4 + VERIFIED)
    assert query("SELECT min(read_at) FROM magnetis_ops.days") > kept_since
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)], (
        "pages of days that are complete now"
    )
