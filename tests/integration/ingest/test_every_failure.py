"""A failure at any request or commit of a small backfill writes no partial window.

A rerun ends with the same tables as a run without failure.
"""

from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from small_api import Open, Request, SmallApi, call

from magnetis_dagster.errors import MagnetisError

DAY = date(2025, 3, 29)
DAYS = [DAY + timedelta(days=n) for n in range(4)]
"""Days around the clock change of 30 March."""
CALLS = 7
"""One announcement, and two windows of three pages."""
LAST_COMMIT = 80


@pytest.fixture(autouse=True)
def _rows(api: SmallApi) -> None:
    api.limit = 25
    api.rows["/calls"] = [
        call(f"{day:%m%d}{n:03d}", f"{day} 12:00:00") for day in DAYS for n in range(30)
    ]


def read(open_ingestion: Open, *, resumes: bool) -> None:
    with open_ingestion(run="backfill", resumes=resumes, chunk_rows=60) as ingestion:
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], DAYS))


def check_nothing_is_half_written(query: Any) -> None:
    done = dict(query("SELECT day, held FROM magnetis_ops.days"))
    assert (
        dict(
            query("SELECT day, count(*) FROM magnetis.calls WHERE deleted_at IS NULL GROUP BY day")
        )
        == done
    )
    assert set(done.values()) <= {30}
    windows = query(
        "SELECT first_day, last_day, received - padding, held FROM magnetis_ops.windows"
    )
    assert all(
        received == held == 30 * ((last - first).days + 1)
        for first, last, received, held in windows
    )
    covered = [
        first + timedelta(days=n)
        for first, last, *_ in windows
        for n in range((last - first).days + 1)
    ]
    assert sorted(covered) == sorted(done), "each window was written once, with its days"


def check_all_is_there(query: Any) -> None:
    check_nothing_is_half_written(query)
    assert query("SELECT count(*) FROM magnetis_ops.days") == [(len(DAYS),)]
    assert query(
        "SELECT count(*), count(*) FILTER (WHERE changed_at <> first_seen_at) FROM magnetis.calls"
    ) == [(120, 0)]
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]
    assert query(
        "SELECT count(*) FROM magnetis_ops.day_reads WHERE first_read AND inserted = 30"
    ) == [(len(DAYS),)]


@pytest.mark.parametrize("broken_at", range(1, CALLS + 1))
@pytest.mark.parametrize("fatal", [True, False], ids=["refused", "cut off"])
def test_a_failure_at_any_request_writes_no_partial_window(
    api: SmallApi, open_ingestion: Open, query: Any, broken_at: int, fatal: bool
) -> None:
    def respond(request: Request) -> Any:
        if request.number < broken_at:
            return None
        return (401, {}, b"{}") if fatal else (200, {}, b'{"data": [')

    api.respond = respond
    with pytest.raises(MagnetisError):
        read(open_ingestion, resumes=False)
    if query("SELECT to_regclass('magnetis_ops.days') IS NOT NULL") == [(True,)]:
        check_nothing_is_half_written(query)
    broken = len(api.requests)
    api.respond = lambda _request: None
    read(open_ingestion, resumes=True)
    check_all_is_there(query)
    assert query("SELECT count(*) FROM magnetis_ops.api_calls") == [(len(api.requests),)]
    if fatal:
        answered = [request.query for request in api.requests[: broken_at - 1]]
        again = [request.query for request in api.requests[broken:] if request.query in answered]
        assert {query["page"] for query in again} <= {"1"}, "a cached page was requested again"
        assert len(again) <= 3, "page 1 is compared once per window, and once for the long one"


@pytest.mark.parametrize("committed", [False, True], ids=["before the commit", "after it"])
def test_a_failure_at_any_commit_writes_no_partial_window(
    api: SmallApi,
    open_ingestion: Open,
    query: Any,
    engine: Any,
    monkeypatch: pytest.MonkeyPatch,
    committed: bool,
) -> None:
    commit = psycopg.Connection.commit
    with open_ingestion():
        pass  # creates the tables
    tables = (
        "magnetis.calls, magnetis_ops.windows, magnetis_ops.pages, magnetis_ops.api_calls, "
        "magnetis_ops.quota_days"
    )
    commits = broken_at = 0

    def breaking(connection: psycopg.Connection[Any]) -> None:
        nonlocal commits
        commits += 1
        if commits != broken_at:
            commit(connection)
            return
        if committed:
            commit(connection)
        connection.close()
        raise psycopg.OperationalError("the connection is lost")

    for broken_at in range(1, LAST_COMMIT):
        query_all(engine, f"TRUNCATE {tables} CASCADE")
        commits = 0
        monkeypatch.setattr(psycopg.Connection, "commit", breaking)
        try:
            read(open_ingestion, resumes=False)
        except MagnetisError:
            ended = False
        else:
            ended = commits < broken_at
        monkeypatch.setattr(psycopg.Connection, "commit", commit)
        check_nothing_is_half_written(query)
        read(open_ingestion, resumes=True)
        check_all_is_there(query)
        if ended:
            break
    else:
        pytest.fail("LAST_COMMIT is too low: the backfill was broken at each of them")
    assert broken_at > 25


def query_all(engine: Any, statement: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)
