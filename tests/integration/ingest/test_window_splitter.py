"""Splitting ranges by announcements and refusals: every day once, in order."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_api import Open, Request, SmallApi, call

from magnetis_dagster.api import RequestRejected, ServerUnavailable
from magnetis_dagster.ingest import Window
from magnetis_dagster.ingest.window_splitter import WindowSplitter

DAY = date(2025, 3, 3)


def range_of(days: int) -> Window:
    return Window(DAY, DAY + timedelta(days=days - 1))


@given(
    rows=st.lists(st.sampled_from([0, 0, 1, 30, 400]), min_size=1, max_size=120),
    chunk=st.integers(1, 500),
    most=st.integers(1, 130),
)
def test_every_day_is_read_once_in_order(rows: list[int], chunk: int, most: int) -> None:
    range_ = range_of(len(rows))
    splitter, read, steps = WindowSplitter(range_, chunk), [], 0
    while window := splitter.next_window():
        steps += 1
        assert steps <= 4 * len(rows) + 20
        announced = sum(rows[(day - DAY).days] for day in window.days)
        if len(window.days) > most:
            assert splitter.halve(window, "too long", at_fault=most % 2 == 0)
        elif announced > chunk * 1.5 and len(window.days) > 1:
            splitter.resize(window, announced)
        else:
            read += window.days
            splitter.advance(window, announced)
    assert read == range_.days


def test_an_empty_stretch_is_not_read_in_small_windows() -> None:
    announcements, splitter = 0, WindowSplitter(range_of(1095), 62_500)
    while window := splitter.next_window():
        announcements += 1
        rows = sum(6000 for day in window.days if (day - DAY).days >= 730)
        if rows > 93_750:
            splitter.resize(window, rows)
        else:
            splitter.advance(window, rows)
    assert announcements <= 37 + 25, "two empty years, then 37 windows of ten days"


@pytest.mark.parametrize(
    ("days", "a_day", "spans"),
    [
        (26, 10_000, [6, 6, 6, 5, 3]),
        (1095, 600, [95] * 7 + [96, 95, 96, 95, 48]),
        (15, 10_000, [6, 6, 3]),
        (10, 10_000, [4, 6]),
        (5, 100_000, [1] * 5),
    ],
)
def test_windows_have_one_size_and_the_last_is_small(
    days: int, a_day: int, spans: list[int]
) -> None:
    range_ = range_of(days)
    splitter, found = WindowSplitter(range_, 62_500), []
    splitter.resize(range_, days * a_day)
    while window := splitter.next_window():
        found.append(len(window.days))
        splitter.advance(window, len(window.days) * a_day)
    assert found == spans


@pytest.mark.parametrize(("status", "least"), [(422, 1), (500, 2), (504, 2)])
def test_a_refused_window_is_halved_and_the_limit_is_remembered(
    api: SmallApi, open_ingestion: Open, query, status: int, least: int
) -> None:
    days = [DAY + timedelta(days=n) for n in range(20)]
    api.rows["/calls"] = [call(f"{day:%d}", f"{day} 12:00:00") for day in days]

    def respond(request: Request):
        length = int(request.query["to"][6:8]) - int(request.query["from"][6:8])
        return (status, {}, b'{"message": "too long"}') if length > 6 else None

    api.respond = respond
    with open_ingestion() as ingestion:
        results = list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], days))
    assert [day.day for result in results for day in result.days] == days
    [(most, reason)] = query(
        "SELECT most_days, reason FROM magnetis_ops.window_limits WHERE collection = 'calls'"
    )
    assert most == 5
    assert f"HTTP {status}" in reason
    before = len(api.requests)
    with open_ingestion(run="another") as ingestion:
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], days))
    assert len(api.requests) - before == 4, "four windows of five days, none of them refused"


@pytest.mark.parametrize(
    ("status", "error", "most_requests"), [(422, RequestRejected, 5), (500, ServerUnavailable, 6)]
)
def test_an_api_that_refuses_every_window_receives_few_requests(
    api: SmallApi, open_ingestion: Open, status: int, error: type[Exception], most_requests: int
) -> None:
    api.respond = lambda _request: (status, {}, b"{}")
    with open_ingestion() as ingestion, pytest.raises(error):
        list(ingestion.read_days(ingestion._parts.warehouse.catalogue["calls"], range_of(16).days))
    assert len(api.requests) == most_requests
