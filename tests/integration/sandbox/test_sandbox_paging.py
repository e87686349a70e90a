"""Any split into windows and pages contains every row once."""

import tracemalloc
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetis_dagster.sandbox import SandboxOptions, World

EVENTS = ("calls", "visits", "conversions", "emails", "leads")
START, END = datetime(2025, 10, 24, 22, tzinfo=UTC), datetime(2025, 10, 27, 23, tzinfo=UTC)
"""Three local days; the middle one is the last Sunday of October."""
seconds = st.integers(0, int((END - START).total_seconds())).map(
    lambda value: START + timedelta(seconds=value)
)


@settings(max_examples=25, deadline=None)
@given(
    collection=st.sampled_from(EVENTS),
    bounds=st.tuples(seconds, seconds),
    limit=st.integers(5, 250),
)
def test_pages_of_any_size_contain_every_row_once(
    sandbox: Any, collection: str, bounds: tuple[datetime, datetime], limit: int
) -> None:
    start, end = sorted(bounds)
    whole = sandbox.world.events(collection, int(start.timestamp()), int(end.timestamp()))[1]
    pages = sandbox.pages(
        collection, from_=f"{start:%Y%m%d%H%M%S}", to=f"{end:%Y%m%d%H%M%S}", limit=limit, analysis=1
    )
    ids = [row["id"] for page in pages for row in page["data"]]
    assert ids == [row[7 : row.index(b'"', 7)].decode() for row in whole]
    assert len(set(ids)) == len(ids)
    assert all(len(page["data"]) == limit for page in pages[:-1])
    assert {page["meta"]["total"] for page in pages} == {len(ids)}
    assert [page["meta"]["current_page"] for page in pages] == list(range(1, len(pages) + 1))
    assert {page["meta"]["last_page"] for page in pages} == {len(pages)}
    assert [page["meta"]["to"] for page in pages][-1] == (len(ids) or None)


@settings(max_examples=40, deadline=None)
@given(collection=st.sampled_from(EVENTS), cuts=st.lists(seconds, min_size=1, max_size=6))
def test_any_split_of_a_window_contains_all_its_rows(
    sandbox: Any, collection: str, cuts: list[datetime]
) -> None:
    second = timedelta(seconds=1)
    starts = [START, *sorted(set(cuts))]
    ends = [*(start - second for start in starts[1:]), END]
    parts = [
        sandbox.rows(collection, start, end)
        for start, end in zip(starts, ends, strict=True)
        if start <= end
    ]
    # newest first: concatenate the parts from the last to the first
    assert [row["id"] for part in reversed(parts) for row in part] == [
        row["id"] for row in sandbox.rows(collection, START, END)
    ]


@settings(max_examples=25, deadline=None)
@given(days=st.tuples(st.integers(0, 40), st.integers(0, 40)), collection=st.sampled_from(EVENTS))
def test_count_is_the_number_of_rows(sandbox: Any, days: tuple[int, int], collection: str) -> None:
    first, last = (date(2025, 10, 1) + timedelta(days=day) for day in sorted(days))
    assert sandbox.world.count(collection, first, last) == sum(
        1 for _ in sandbox.world.truth(collection, first, last)
    )


def test_rows_are_newest_first(sandbox: Any) -> None:
    for collection, member in (
        ("calls", "start_at"),
        ("visits", "created_at"),
        ("leads", "created_at"),
        ("numbers", "created_at"),
    ):
        times = [
            row[member]
            for row in sandbox.rows(
                collection, *(() if collection == "numbers" else (END, END + timedelta(days=9)))
            )
        ]
        assert times == sorted(times, reverse=True) != []


def test_both_ends_of_a_window_are_inclusive(open_sandbox: Any) -> None:
    sandbox = open_sandbox()
    sandbox.world.insert("calls", {"id": "call-last", "start_at": "2025-06-03 23:59:59"})
    last = datetime(2025, 6, 3, 21, 59, 59, tzinfo=UTC)
    second = timedelta(seconds=1)
    assert [row["id"] for row in sandbox.rows("calls", last, last)][:1] == ["call-last"]
    for outside in (
        (last - 86_399 * second, last - second),
        (last + second, last + 86_400 * second),
    ):
        assert "call-last" not in {row["id"] for row in sandbox.rows("calls", *outside)}


def test_a_window_without_rows_has_one_empty_page(sandbox: Any) -> None:
    for start, end in (
        (END, START),
        (datetime(1970, 1, 1, tzinfo=UTC), datetime(1990, 1, 1, tzinfo=UTC)),
    ):
        page = sandbox.page("calls", from_=f"{start:%Y%m%d%H%M%S}", to=f"{end:%Y%m%d%H%M%S}")
        assert page["data"] == []
        assert [page["meta"][name] for name in ("from", "to", "total", "last_page")] == [
            None,
            None,
            0,
            1,
        ]


def test_a_page_after_the_last_is_empty(sandbox: Any) -> None:
    page = sandbox.page("accounts", page=9)
    assert page["data"] == []
    assert page["links"]["next"] is None


def test_windows_may_span_years_1_to_9999(sandbox: Any) -> None:
    widest = sandbox.page("emails", from_="00010101000000", to="99991231235959", limit=1)["meta"][
        "total"
    ]
    assert (
        widest
        == sandbox.page("emails", limit=1)["meta"]["total"]
        == sandbox.world.count("emails")
        > 10_000
    )


def test_without_limit_a_page_has_250_rows(sandbox: Any) -> None:
    assert len(sandbox.page("calls")["data"]) == 250


@settings(max_examples=20, deadline=None)
@given(now=seconds, collection=st.sampled_from(EVENTS))
def test_no_row_is_later_than_the_clock(now: datetime, collection: str, sandbox: Any) -> None:
    early = World(SandboxOptions(accounts=4, clock=lambda: now))
    bounds = int(START.timestamp()), int(END.timestamp())
    assert early.events(collection, *bounds) == sandbox.world.events(
        collection, bounds[0], int(now.timestamp())
    )
    assert early.events(collection, int(now.timestamp()) + 1)[0] == 0


def test_new_rows_appear_in_a_window_without_an_end(open_sandbox: Any) -> None:
    now = [datetime(2025, 6, 3, 8, tzinfo=UTC)]
    sandbox = open_sandbox(clock=lambda: now[0])
    before = sandbox.rows("calls", datetime(2025, 6, 3, tzinfo=UTC))
    now[0] += timedelta(hours=4)
    after = sandbox.rows("calls", datetime(2025, 6, 3, tzinfo=UTC))
    assert after[-len(before) :] == before
    assert len(after) > len(before)


@pytest.mark.parametrize(
    "cut",
    ["20251026020000", "20251026023000", "20251026030000", "20250330020000", "20250330023000"],
)
def test_local_windows_miss_no_row_at_a_clock_change(open_sandbox: Any, cut: str) -> None:
    sandbox = open_sandbox(query_zone=ZoneInfo("Europe/Paris"))
    day = cut[:8]
    before = f"{datetime.strptime(cut, '%Y%m%d%H%M%S') - timedelta(seconds=1):%Y%m%d%H%M%S}"  # noqa: DTZ007
    whole = {
        row["id"]
        for page in sandbox.pages("calls", from_=f"{day}000000", to=f"{day}235959")
        for row in page["data"]
    }
    parts = [
        sandbox.pages("calls", from_=start, to=end)
        for start, end in ((f"{day}000000", before), (cut, f"{day}235959"))
    ]
    assert {row["id"] for pages in parts for page in pages for row in page["data"]} == whole
    assert len(whole) == sandbox.world.count(
        "calls",
        *[datetime.strptime(day, "%Y%m%d").date()] * 2,  # noqa: DTZ007
    )


def test_account_filter(sandbox: Any) -> None:
    accounts = [row["id"] for row in sandbox.rows("accounts")]
    for collection in ("calls", "numbers"):
        window = (START, END) if collection == "calls" else ()
        whole = sandbox.rows(collection, *window)
        by_account = [
            sandbox.rows(collection, *window, account_id=account, limit=25) for account in accounts
        ]
        assert all(
            {row["account"]["id"] for row in rows} == {account}
            for rows, account in zip(by_account, accounts, strict=True)
        )
        assert sorted(row["id"] for rows in by_account for row in rows) == sorted(
            row["id"] for row in whole
        )
    page = sandbox.page("calls", account_id="acc-nobody")
    assert (page["data"], page["meta"]["total"]) == ([], 0)


def test_links_contain_the_page_but_no_filter(sandbox: Any) -> None:
    links = sandbox.page("calls", from_="20251101000000", limit=50, page=2)["links"]
    assert links["next"].endswith("/calls?page=3")
    assert links["prev"].endswith("/calls?page=1")
    assert links["first"].endswith("/calls?page=1")


def test_calls_contain_analysis_only_on_request(sandbox: Any) -> None:
    with_analysis, plain = (
        sandbox.page("calls", to="20251101000000", limit=5, analysis=analysis)["data"]
        for analysis in (1, 0)
    )
    assert all(set(row["analysis"]) == {"channel", "duration"} for row in with_analysis)
    assert plain == [
        {name: value for name, value in row.items() if name != "analysis"} for row in with_analysis
    ]


def test_memory_is_bounded_over_a_long_range() -> None:
    world = World(SandboxOptions(calls_per_day=500, cache_bytes=2**19, clock=lambda: END))
    world.count("calls", date(2025, 10, 1), date(2025, 10, 1))
    tracemalloc.start()
    try:
        rows = sum(1 for _ in world.truth("calls", date(2025, 7, 1), date(2025, 7, 31)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 14,000 rows take about 12 MB; the largest day takes about 0.6 MB, twice while it is generated
    assert rows > 14_000
    assert peak < 4 * 2**20


def test_counting_a_long_range_caches_no_day() -> None:
    world = World(SandboxOptions(calls_per_day=1000, clock=lambda: END))
    tracemalloc.start()
    try:
        assert world.count("conversions", date(2025, 5, 1), date(2025, 8, 31)) > 30_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # the plans of the 123 days take 8 MB
    assert peak < 4 * 2**20
