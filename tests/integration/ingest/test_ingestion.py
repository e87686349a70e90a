"""Windows from the API to the tables.

Every row is on its day, counts are equal, committed windows stay, no window is partial.
"""

import threading
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_api import PARIS, Open, Request, SmallApi, call, ok
from sqlalchemy import Engine, text

from magnetis_dagster.api import KeyRefused, RouteUnavailable
from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import DatabaseUnavailable
from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.ingest import (
    FilterIgnored,
    IncompleteWindow,
    OpenDay,
    PastSnapshot,
    UnplaceableRows,
)
from magnetis_dagster.quota.ledger import QuotaExhausted

DAY = date(2025, 3, 28)


def days(first: date, number: int) -> list[date]:
    return [first + timedelta(days=index) for index in range(number)]


def hourly(first: date, number: int) -> list[dict[str, Any]]:
    """Return a call at each local half hour of `number` days; repeated hours occur twice."""
    start = datetime.combine(first, datetime.min.time(), PARIS).astimezone(UTC) + timedelta(
        minutes=30
    )
    end = datetime.combine(first + timedelta(days=number), datetime.min.time(), PARIS).astimezone(
        UTC
    )
    rows = []
    while start < end:
        local = start.astimezone(PARIS)
        rows.append(call(f"{start:%m%d%H}", f"{local:%Y-%m-%d %H:%M:%S}", fold=local.fold))
        start += timedelta(hours=1)
    return rows


@pytest.mark.parametrize(
    ("first", "odd_day", "hours"),
    [(date(2025, 3, 28), date(2025, 3, 30), 23), (date(2025, 10, 24), date(2025, 10, 26), 25)],
    ids=["clocks go forward", "clocks go back"],
)
@pytest.mark.parametrize("chunk_rows", [10**6, 30], ids=["one window", "a window a day"])
def test_every_row_is_assigned_to_its_local_day(
    api: SmallApi,
    open_ingestion: Open,
    query: Any,
    first: date,
    odd_day: date,
    hours: int,
    chunk_rows: int,
) -> None:
    requested = days(first, 6)
    api.rows["/calls"] = hourly(first - timedelta(days=2), 10)
    with open_ingestion(chunk_rows=chunk_rows) as ingestion:
        results = list(
            ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], requested)
        )
    by_day = dict(query("SELECT day, count(*) FROM magnetis.calls GROUP BY day"))
    assert by_day == {day: hours if day == odd_day else 24 for day in requested}
    assert [day.day for result in results for day in result.days] == requested
    assert all(
        day.announced == day.rows == by_day[day.day] for result in results for day in result.days
    )
    assert sum(result.padding for result in results) == 4 * len(results)
    assert (
        sum(result.api_calls for result in results)
        <= len(api.requests)
        == query("SELECT count(*) FROM magnetis_ops.api_calls")[0][0]
    )


def test_pages_are_fetched_concurrently_and_each_is_charged(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    api.rows["/calls"] = [call(n, f"2025-03-28 {n % 24:02d}:00:00") for n in range(1001)]
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY])
    assert (
        result.announced,
        result.received,
        result.api_calls,
        result.quota_left,
        result.rows_held,
    ) == (1001, 1001, 6, 4994, 1001)
    assert sorted(request.page for request in api.requests) == [1, 1, 2, 3, 4, 5], (
        "page 1 is verified at the end"
    )
    assert {key for request in api.requests for key in request.query} == {
        "from",
        "to",
        "limit",
        "page",
        "analysis",
    }
    assert api.requests[0].query | {"page": "1"} == {
        "from": "20250327210000",
        "to": "20250329010000",
        "limit": "250",
        "page": "1",
        "analysis": "1",
    }
    calls = query(
        "SELECT page, rows, status, lane, run_id, collection, first_day::text, error "
        "FROM magnetis_ops.api_calls "
        "WHERE settled_at IS NOT NULL AND bytes > 0 ORDER BY page"
    )
    assert calls == [
        (page, 250 if page < 5 else 1, 200, "manual", "run-1", "calls", "2025-03-28", None)
        for page in [1, *range(1, 6)]
    ]
    assert query("SELECT api_calls, witness_calls FROM magnetis_ops.windows") == [(6, 1)]


def test_a_long_range_is_split_with_few_extra_calls(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    requested = days(DAY, 60)
    api.rows["/calls"] = [
        call(f"{index}{n:03d}", f"{day} 12:00:{n % 60:02d}")
        for index, day in enumerate(requested)
        for n in range(100)
    ]
    with open_ingestion(chunk_rows=2000) as ingestion:
        results = list(
            ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], requested)
        )
    assert query(
        "SELECT count(*), min(c), max(c) "
        "FROM (SELECT count(*) AS c FROM magnetis.calls GROUP BY day) AS d"
    ) == [(60, 100, 100)]
    assert [len(result.days) for result in results] == [17, 17, 17, 9]
    pages, witnesses = 6000 // 250 + 1, 4 + 2
    assert len(api.requests) == 1 + pages + witnesses, (
        "announcement, pages (one is not full), page 1 of 4 windows, 2 halves"
    )
    assert sum(day.api_calls for result in results for day in result.days) == pytest.approx(
        pages + witnesses
    )
    assert query("SELECT sum(witness_calls) FROM magnetis_ops.windows") == [(witnesses,)]


def test_committed_windows_stay_and_a_retry_resumes(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    requested = days(DAY, 6)
    api.rows["/calls"] = [
        call(f"{index}{n:03d}", f"{day} 12:00:00")
        for index, day in enumerate(requested)
        for n in range(100)
    ]
    api.respond = lambda request: (404, {}, b"{}") if request.query["from"] > "20250329" else None
    with open_ingestion(chunk_rows=200) as ingestion, pytest.raises(RouteUnavailable):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], requested))
    done = query("SELECT day::text FROM magnetis_ops.days ORDER BY day")
    assert done == [("2025-03-28",), ("2025-03-29",)]
    api.respond = lambda _request: None
    before = len(api.requests)
    with open_ingestion(chunk_rows=200, resumes=True) as ingestion:
        results = list(
            ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], requested)
        )
    assert [result.skipped for result in results] == [True, False, False]
    assert all(request.query["from"] > "20250329" for request in api.requests[before:])
    assert query("SELECT count(*) FROM magnetis.calls") == [(600,)]


def test_a_window_whose_rows_move_during_the_read_is_read_again(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    rows = [call(n, "2025-03-28 10:00:00") for n in range(600)]
    api.rows["/calls"] = rows[:500]

    def insert_before_page_2(request: Request) -> None:
        if request.number == 2:
            api.rows["/calls"] = rows

    api.respond = insert_before_page_2
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY])
    assert (result.announced, result.received, result.api_calls) == (600, 600, 3 + 3), (
        "two pages, one more after a full one"
    )
    assert query("SELECT count(*) FROM magnetis.calls") == [(600,)]


def test_a_window_that_stays_inconsistent_writes_nothing(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    api.rows["/calls"] = [call(n, "2025-03-28 10:00:00") for n in range(3)]
    api.respond = lambda request: api.envelope(api.window(request), request, total=4)
    with (
        open_ingestion() as ingestion,
        pytest.raises(
            IncompleteWindow,
            match="announced 4 rows and returned 3 distinct ones; page 2 of 2 was empty",
        ) as raised,
    ):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY]))
    assert isinstance(raised.value, TransientError)
    assert len(api.requests) == 6, (
        "each attempt requests page 2, which would contain the fourth row"
    )
    for table in ("magnetis.calls", "magnetis_ops.windows", "magnetis_ops.days"):
        assert query(f"SELECT count(*) FROM {table}") == [(0,)]


def test_duplicate_ids_across_pages_are_detected(api: SmallApi, open_ingestion: Open) -> None:
    rows = [call(n, "2025-03-28 10:00:00") for n in range(499)]
    api.rows["/calls"] = [*rows[:250], rows[249], *rows[250:]]
    with (
        open_ingestion() as ingestion,
        pytest.raises(IncompleteWindow, match="announced 500 rows and returned 499"),
    ):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY]))


def test_malformed_rows_are_quarantined_or_tolerated(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    api.rows["/calls"] = [
        call(1, "2025-03-28 10:00:00", id=17, duration="61", account=None),
        call(2, "2025-03-28 10:00:00", duration=12.6, enabled=1, mystery={"deep": [1]}),
        call(3, "2025-03-28 10:00:00", duration="long"),
        call(4, "2025-03-28 10:00:00", note="x" * 5_000_000),
        call(5, "2025-03-28 10:00:00", note="nul \u0000 and half a pair \ud83d"),
        call(6, "some day in March", fold=0),
    ]
    api.moment = lambda _row: datetime(2025, 3, 28, 12, tzinfo=UTC)  # type: ignore[method-assign]
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY])
    assert query(
        "SELECT id, duration_seconds, account_id FROM magnetis.calls "
        "WHERE id IN ('17', 'call-2', 'call-3') ORDER BY id"
    ) == [
        ("17", 61, None),
        ("call-2", 13, "acc-1"),
        ("call-3", None, "acc-1"),
    ]
    assert query("SELECT length(payload ->> 'note') FROM magnetis.calls WHERE id = 'call-4'") == [
        (5_000_000,)
    ]
    assert query("SELECT payload ->> 'note' FROM magnetis.calls WHERE id = 'call-5'") == [
        ("nul \ufffd and half a pair \ufffd",)
    ]
    assert query("SELECT key, reason FROM magnetis_ops.quarantine") == [
        ("call-6", "unreadable time in start_at")
    ]
    assert result.misfits == {"duration_seconds": 1, "occurred_at": 1}
    assert result.unknown == ["enabled", "fold", "mystery", "note"]
    assert (result.quarantined, result.replaced_characters, result.announced) == (1, 2, 6)


@pytest.mark.parametrize(
    "shape", ["object of objects", "bare array", "numbers as text", "no links"]
)
def test_other_response_envelopes_are_read(
    api: SmallApi, open_ingestion: Open, query: Any, shape: str
) -> None:
    rows = [call(n, "2025-03-28 10:00:00") for n in range(3)]
    content: Any = {
        "object of objects": {
            "data": {str(n): row for n, row in enumerate(rows)},
            "meta": {"total": 3, "last_page": 1},
        },
        "bare array": rows,
        "numbers as text": {"data": rows, "meta": {"total": "3", "last_page": "1"}},
        "no links": {"data": rows, "meta": {"total": 3}},
    }[shape]
    api.respond = lambda _request: ok(content)
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY])
    assert (result.received, len(api.requests)) == (3, 2 if shape == "bare array" else 1), (
        "a bare array does not announce the last page"
    )
    assert query("SELECT count(*) FROM magnetis.calls") == [(3,)]


def test_a_bare_array_is_read_to_its_last_page(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    rows = [call(n, "2025-03-28 10:00:00") for n in range(510)]
    api.respond = lambda request: ok(rows[(request.page - 1) * 250 : request.page * 250])
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY])
    assert (result.announced, result.api_calls) == (510, 4), (
        "page 3 does not announce that it is the last"
    )


def test_a_route_that_ignores_the_window_is_refused_after_one_call(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    api.rows["/visits"] = [
        call(n, "2024-01-05 10:00:00", created_at="2024-01-05 10:00:00") for n in range(900)
    ]
    api.respond = lambda request: api.envelope(api.rows["/visits"], request)
    with (
        open_ingestion() as ingestion,
        pytest.raises(FilterIgnored, match=r"seems to ignore from.*visits\.window"),
    ):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["visits"], [DAY]))
    assert len(api.requests) == 1


def test_an_error_names_the_members_of_rows_without_a_known_time(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    api.respond = lambda request: api.envelope(
        [{"id": "call-1", "begun": "2025-03-28 10:00:00", "caller": "0033199000001"}], request
    )
    with (
        open_ingestion() as ingestion,
        pytest.raises(
            UnplaceableRows, match=r"Members of the rows: begun, caller, id\..*calls\.time_fields"
        ),
    ):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY]))
    assert query("SELECT count(*) FROM magnetis_ops.windows") == [(0,)]


def test_an_exhausted_quota_keeps_the_committed_windows(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    requested = days(DAY, 4)
    api.rows["/calls"] = [
        call(f"{index}{n:03d}", f"{day} 12:00:00")
        for index, day in enumerate(requested)
        for n in range(300)
    ]
    with (
        open_ingestion(quota=5, chunk_rows=300) as ingestion,
        pytest.raises(QuotaExhausted, match="all 5 API calls are used") as raised,
    ):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], requested))
    assert raised.value.available_at > datetime.now(UTC)
    assert len(api.requests) == 5
    assert query("SELECT day::text, held FROM magnetis_ops.days ORDER BY day") == [
        ("2025-03-28", 300),
        ("2025-03-29", 300),
    ]


def test_a_429_closes_the_key_for_the_next_run_too(api: SmallApi, open_ingestion: Open) -> None:
    api.respond = lambda _request: (
        429,
        {"Retry-After": "7200"},
        b'{"message": "Too Many Attempts."}',
    )
    for run in ("run-1", "run-2"):
        with (
            open_ingestion(run=run) as ingestion,
            pytest.raises(QuotaExhausted, match="the API reported that this key has no calls left"),
        ):
            list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY]))
    assert len(api.requests) == 1


def test_a_short_retry_after_is_waited_out(api: SmallApi, open_ingestion: Open) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00")]
    api.respond = lambda request: (
        (429, {"Retry-After": "1"}, b"{}") if request.number == 1 else None
    )
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY])
    assert (result.received, result.api_calls) == (1, 2)


def test_a_refused_key_stops_the_load(api: SmallApi, open_ingestion: Open, query: Any) -> None:
    with (
        open_ingestion(key="key-0f-the-tests-expired") as ingestion,
        pytest.raises(KeyRefused, match="unknown or expired") as raised,
    ):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY]))
    assert isinstance(raised.value, PermanentError)
    assert "key-0f-the-tests" not in str(raised.value)
    assert query("SELECT status, error FROM magnetis_ops.api_calls") == [(401, "KeyRefused")]


def test_a_past_snapshot_and_an_open_day_cost_no_call(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    today = datetime.now(PARIS).date()
    with open_ingestion() as ingestion:
        with pytest.raises(PastSnapshot, match=f"Materialize the partition {today}"):
            ingestion.read_snapshot(catalogue["accounts"], today - timedelta(days=1))
        with pytest.raises(OpenDay, match="choose days up to yesterday"):
            list(ingestion.read_days(catalogue["calls"], [today]))
    assert api.requests == []


def test_a_snapshot_reads_all_rows(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/accounts"] = [{"id": f"acc-{n}", "name": f"Agence {n}"} for n in range(251)]
    with open_ingestion() as ingestion:
        result = ingestion.read_snapshot(catalogue["accounts"], datetime.now(PARIS).date())
    assert (result.announced, result.days[0].rows, result.api_calls) == (251, 251, 2)
    assert query(
        "SELECT count(*), count(DISTINCT id) FROM magnetis.accounts_history WHERE valid_to IS NULL"
    ) == [(251, 251)]


def test_a_retry_still_reports_earlier_quarantined_rows(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00")]
    api.respond = lambda request: api.envelope(
        [*api.window(request), {"start_at": "2025-03-28 11:00:00"}], request
    )
    for resumes in (False, True):
        with open_ingestion(resumes=resumes) as ingestion:
            [result] = ingestion.read_days(catalogue["calls"], [DAY])
        assert (result.skipped, result.quarantined) == (resumes, 1)


def test_a_retried_snapshot_is_not_taken_again_even_after_midnight(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    yesterday = datetime.now(PARIS).date() - timedelta(days=1)
    api.rows["/accounts"] = [{"id": "acc-1"}]
    with open_ingestion() as ingestion:
        ingestion.read_snapshot(catalogue["accounts"], datetime.now(PARIS).date())
    with ingestion._parts.warehouse.engine.begin() as connection:
        connection.execute(text("UPDATE magnetis_ops.days SET day = day - 1"))
    with open_ingestion(resumes=True) as ingestion:
        result = ingestion.read_snapshot(catalogue["accounts"], yesterday)
    assert (result.skipped, result.days[0].rows, len(api.requests)) == (True, 1, 1)


def test_a_load_survives_a_restart_of_the_database(
    api: SmallApi, open_ingestion: Open, query: Any, engine: Engine
) -> None:
    api.rows["/calls"] = [call(n, "2025-03-28 10:00:00") for n in range(1000)]

    def kill_connections(request: Request) -> None:
        if request.number == 3:
            with engine.connect() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )

    api.respond = kill_connections
    with (
        open_ingestion() as ingestion,
        pytest.raises(DatabaseUnavailable, match="transaction was rolled back"),
    ):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY]))
    assert query("SELECT count(*) FROM magnetis.calls") == [(0,)]
    with open_ingestion() as ingestion:
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], [DAY]))
    assert query("SELECT count(*) FROM magnetis.calls") == [(1000,)]


def test_two_concurrent_runs_of_the_same_days(
    api: SmallApi, open_ingestion: Open, query: Any
) -> None:
    requested = days(DAY, 3)
    api.rows["/calls"] = [
        call(f"{index}{n:03d}", f"{day} 12:00:00")
        for index, day in enumerate(requested)
        for n in range(400)
    ]
    errors: list[BaseException] = []

    def run(name: str) -> None:
        try:
            with open_ingestion(run=name) as ingestion:
                list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], requested))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=run, args=(f"run-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert query("SELECT day::text, held FROM magnetis_ops.days ORDER BY day") == [
        (str(day), 400) for day in requested
    ]
    assert query(
        "SELECT count(*), count(*) FILTER (WHERE deleted_at IS NULL) FROM magnetis.calls"
    ) == [(1200, 1200)]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    counts=st.lists(st.integers(0, 40), min_size=5, max_size=5),
    chunk_rows=st.integers(1, 120),
    cuts=st.sets(st.integers(1, 4)),
    limit=st.integers(3, 50),
)
def test_any_split_into_windows_gives_the_same_table(
    api: SmallApi,
    open_ingestion: Open,
    query: Any,
    engine: Engine,
    counts: list[int],
    chunk_rows: int,
    cuts: set[int],
    limit: int,
) -> None:
    requested = days(date(2025, 3, 28), 5)
    api.limit = limit
    api.rows["/calls"] = [
        call(f"{index}{n:03d}", f"{day} {n % 24:02d}:40:00")
        for index, day in enumerate(requested)
        for n in range(counts[index])
        if not (day == date(2025, 3, 30) and n % 24 == 2)
    ]
    with engine.begin() as connection:
        connection.execute(
            text(
                "TRUNCATE magnetis.calls, magnetis_ops.windows, magnetis_ops.days, "
                "magnetis_ops.quarantine, magnetis_ops.day_reads"
            )
        )
    edges = [0, *sorted(cuts), 5]
    with open_ingestion(chunk_rows=chunk_rows) as ingestion:
        for start, end in pairwise(edges):
            list(
                ingestion.read_days(
                    ingestion._parts.warehouse.catalogue["calls"], requested[start:end]
                )
            )
    expected = sorted((row["id"], row["start_at"][:10]) for row in api.rows["/calls"])
    assert (
        query("SELECT id, day::text FROM magnetis.calls WHERE deleted_at IS NULL ORDER BY id")
        == expected
    )
    assert sum(held for (held,) in query("SELECT held FROM magnetis_ops.days")) == len(expected)
