"""Suspicious responses, their verification, and the limits that a load remembers."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lying_api import LyingApi
from small_api import Open, Request, SmallApi, call, ok
from sqlalchemy import Engine, text

from magnetis_dagster.api import Page
from magnetis_dagster.api.pagination import Pagination
from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.ingest import (
    FilterIgnored,
    IncompleteResponse,
    IncompleteWindow,
    RepeatedIds,
    Window,
)
from magnetis_dagster.ingest.windows import middle_of
from magnetis_dagster.ingest.witnesses import FilterWatch, Suspicions, empty_edges, rechecked_pages
from magnetis_dagster.quota.ledger import QuotaExhausted
from magnetis_dagster.warehouse import DoubtReason

DAY = date(2025, 3, 3)
PARIS = ZoneInfo("Europe/Paris")


def days(number: int) -> list[date]:
    return [DAY + timedelta(days=n) for n in range(number)]


def edges(counts: list[int]) -> list[tuple[int, int]]:
    requested = days(len(counts))
    by_day = Counter[date | None](dict(zip(requested, counts, strict=True)))
    return [
        ((edge.first - DAY).days, (edge.last - DAY).days) for edge in empty_edges(requested, by_day)
    ]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5], []),
        ([0], []),
        ([5, 5], []),
        ([5, 0, 5], []),
        ([5, 0], [(1, 1)]),
        ([0, 0, 5, 0], [(0, 1), (3, 3)]),
        ([5] + [0] * 30, [(1, 30), (1, 7)]),
        ([0] * 30 + [5], [(0, 29), (23, 29)]),
        ([0] * 3, [(1, 2)]),
        ([0] * 8, [(1, 7)]),
        ([0] * 31, [(0, 6), (12, 18), (24, 30)]),
    ],
    ids=str,
)
def test_empty_edges(counts: list[int], expected: list[tuple[int, int]]) -> None:
    assert edges(counts) == expected


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_an_edge_has_only_empty_days_of_the_window(counts: list[int]) -> None:
    for first, last in edges(counts):
        assert 0 <= first <= last < len(counts)
        assert sum(counts[first : last + 1]) == 0


def test_which_totals_look_like_caps() -> None:
    suspicions = Suspicions(totals={2_345: None})
    window, other = Window(DAY, DAY), Window(DAY, days(2)[1])
    assert [suspicions.doubts(window, total) for total in (10_000, 2_345, 3_333, 999, 500)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert suspicions.doubts(other, 3_333), "another window had this total"
    assert not suspicions.doubts(window, 3_333), (
        "the same window has the same total when it is read again"
    )
    suspicions.trusted.add(10_000)
    assert not suspicions.doubts(other, 10_000)


def test_pages_that_are_requested_again() -> None:
    assert [rechecked_pages(pages) for pages in (1, 3, 4, 9, 10, 250)] == [
        [],
        [],
        [1],
        [1],
        [1, 5],
        [1, 125],
    ]


@pytest.mark.parametrize(
    ("shifts", "noticed", "ignored"),
    [
        ([0] * 250, False, None),
        ([-2, 2] * 125, False, None),
        ([-3] * 130 + [0] * 120, True, (True, False)),
        ([9] * 130 + [0] * 120, True, (False, True)),
        ([-9] * 100 + [9] * 100 + [0] * 50, True, (True, True)),
        ([-9] * 90 + [0] * 160, False, None),
    ],
)
def test_rows_far_outside_the_window_are_detected(
    shifts: list[int], noticed: bool, ignored: Any
) -> None:
    watch = FilterWatch(Window(DAY, DAY))
    found = watch.add([DAY + timedelta(days=shift) for shift in shifts])
    assert bool(found) == noticed
    if noticed:
        assert watch.ignored == ignored


def test_rows_far_outside_are_detected_on_a_later_page() -> None:
    watch = FilterWatch(Window(DAY, DAY))
    assert watch.add([DAY] * 250) is None
    assert watch.add([DAY] * 151 + [DAY + timedelta(days=9)] * 99) is None, (
        "fewer than a hundred rows are no proof"
    )
    assert watch.add([DAY + timedelta(days=9)] * 250) is not None


@given(st.integers(1, 40 * 86_400), st.integers(0, 700 * 86_400))
def test_the_middle_of_an_interval_lies_in_it(seconds: int, shift: int) -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=shift)
    end = start + timedelta(seconds=seconds + 60)
    middle = middle_of(start, end, PARIS)
    assert start < middle < end
    assert end - start <= timedelta(days=2) or middle.astimezone(PARIS).hour == 0


def page(rows: int, **said: Any) -> Page:
    usual = {
        "total": None,
        "last_page": None,
        "has_next": None,
        "bytes": 0,
        "remaining": None,
        "replaced_characters": 0,
    }
    return Page(rows=[object() for _ in range(rows)], **(usual | said))


@pytest.mark.parametrize(
    ("said", "rows", "following"),
    [
        ({"total": 3, "last_page": 1, "has_next": False}, 3, None),
        ({"total": 250, "last_page": 1, "has_next": False, "per_page": 250}, 250, 2),
        ({"total": 3}, 3, None),
        ({"has_next": False}, 100, None),
        ({"has_next": False}, 250, 2),
        ({"has_next": True, "total": 3, "last_page": 1}, 3, 2),
        ({"per_page": 100}, 100, 2),
        ({"per_page": 100}, 99, None),
        ({"per_page": 1000, "total": 250}, 250, 2),
        ({}, 100, 2),
        ({}, 0, None),
    ],
    ids=str,
)
def test_the_page_after_the_first(said: dict[str, Any], rows: int, following: int | None) -> None:
    pagination = Pagination(250)
    pagination.add(1, page(rows, **said))
    assert (pagination.announced_pages, pagination.next_page()) == (1, following)


@pytest.mark.parametrize(
    ("said", "rows", "pages"),
    [({"total": 600}, 250, 3), ({"total": 600}, 100, 6), ({"total": 600, "last_page": 3}, 100, 6)],
)
def test_pages_are_counted_by_their_rows(said: dict[str, Any], rows: int, pages: int) -> None:
    pagination = Pagination(250)
    pagination.add(1, page(rows, **said))
    assert pagination.announced_pages == pages


# --- loads


def read(
    open_ingestion: Open, catalogue: Catalogue, requested: list[date], **options: Any
) -> list[Any]:
    with open_ingestion(**options) as ingestion:
        return list(ingestion.read_days(catalogue["calls"], requested))


def rows_of(counts: dict[date, int]) -> list[dict[str, Any]]:
    return [
        call(f"{day:%m%d}{n:05d}", f"{day} {8 + n % 12:02d}:{n % 60:02d}:00")
        for day, count in counts.items()
        for n in range(count)
    ]


def test_a_cap_is_remembered_and_windows_stay_below_it(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    requested = days(6)
    LyingApi(
        api, rows_of(dict.fromkeys(requested, 400)), ("caps a search, oldest first",), cap=2_000
    )
    assert (
        sum(result.received for result in read(open_ingestion, catalogue, requested, run="1"))
        >= 2_400
    )
    assert query("SELECT most_days, most_rows FROM magnetis_ops.window_limits") == [(None, 2_000)]
    assert query("SELECT count(*), count(DISTINCT day) FROM magnetis.calls") == [(2_400, 6)]
    before = len(api.requests)
    results = read(open_ingestion, catalogue, requested, run="2")
    assert max(result.announced for result in results) < 2_000
    assert len(api.requests) - before <= 1 + 11 + 3, (
        "one window at the cap is announced, none is read"
    )


def test_days_that_an_earlier_load_read_at_the_cap_lose_their_record(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    first, second = days(8)[:4], days(8)[4:]
    truth = rows_of(dict.fromkeys(first, 290)) + rows_of(dict.fromkeys(second, 400))
    # 1,160 rows capped at 1,111, within the last day: no edge is empty, and the total is not round
    LyingApi(api, truth, ("caps a search, oldest first",), cap=1_111)
    read(open_ingestion, catalogue, first, run="1")
    assert query("SELECT count(*) FROM magnetis.calls") == [(1_111,)]
    lines: list[str] = []
    read(open_ingestion, catalogue, second, run="2", progress=lines.append)
    assert query("SELECT count(*) FROM magnetis.calls WHERE day >= :day", day=second[0]) == [
        (1_600,)
    ]
    assert query("SELECT day FROM magnetis_ops.days ORDER BY day") == [(day,) for day in second]
    assert query("SELECT sum(held) FROM magnetis_ops.strays") == [(1_111,)]
    assert any(
        "4 days between 2025-03-03 and 2025-03-06 were read under the cap of 1111 rows" in line
        for line in lines
    )
    read(open_ingestion, catalogue, first, run="3")
    assert query("SELECT count(*) FROM magnetis.calls") == [(len(truth),)]
    assert query("SELECT count(*) FROM magnetis_ops.strays") == [(0,)]


def test_a_single_day_at_the_cap_fails(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    LyingApi(api, rows_of({DAY: 1_500}), ("caps a search, oldest first",), cap=1_000)
    with pytest.raises(IncompleteResponse, match="caps a search at 1000 rows"):
        read(open_ingestion, catalogue, [DAY])
    assert query("SELECT count(*) FROM magnetis_ops.days") == [(0,)]


@pytest.mark.parametrize("counts", [[0, 1_500], [1_500, 0, 0], [0, 0, 0, 0, 0, 1_500, 0]], ids=str)
def test_a_cap_is_found_if_all_rows_lie_in_one_half(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any, counts: Any
) -> None:
    requested = days(len(counts))
    LyingApi(
        api,
        rows_of(dict(zip(requested, counts, strict=True))),
        ("caps a search, oldest first",),
        cap=1_000,
    )
    with pytest.raises(IncompleteResponse):
        read(open_ingestion, catalogue, requested)
    assert query("SELECT coalesce(sum(held), 0) FROM magnetis_ops.days") == [(0,)]


def test_a_round_total_that_is_not_a_cap_costs_two_requests_once(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    requested = days(4)
    api.rows["/calls"] = rows_of(dict.fromkeys(requested, 500))
    [result] = read(open_ingestion, catalogue, requested)
    assert (result.received, len(api.requests)) == (2_000, 8 + 1 + 1 + 2), (
        "pages, one after a full one, page 1 again, two halves"
    )
    assert query("SELECT witness_calls FROM magnetis_ops.windows") == [(1 + 2,)]


def test_a_long_window_never_empties_days(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    requested = days(5)
    api.rows["/calls"] = rows_of(dict.fromkeys(requested, 20))
    read(open_ingestion, catalogue, requested, run="1")

    def forgetful(request: Request) -> Any:
        """Two days in the middle of a window have no rows."""
        found = api.window(request)
        days_asked = int(request.query["to"][6:8]) - int(request.query["from"][6:8])
        if days_asked > 2:
            found = [
                row
                for row in found
                if row["start_at"][:10] not in {str(requested[1]), str(requested[2])}
            ]
        return api.envelope(found, request)

    api.respond = forgetful
    results = read(open_ingestion, catalogue, requested, run="2")
    assert [str(result.window) for result in results if result.days] == [
        "2025-03-03...2025-03-07",
        "2025-03-04",
        "2025-03-05",
    ]
    assert not any(result.doubted for result in results)
    assert query("SELECT count(*), count(deleted_at) FROM magnetis.calls") == [(100, 0)]


def test_after_a_shrunken_scope_each_day_is_read_alone(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    requested = days(3)
    api.rows["/calls"] = rows_of(dict.fromkeys(requested, 50))
    read(open_ingestion, catalogue, requested, run="1")
    api.rows["/calls"] = [row for row in api.rows["/calls"] if row["id"].endswith("0")]
    results = read(open_ingestion, catalogue, requested, run="2")
    doubted = {day: doubt for result in results for day, doubt in result.doubted.items()}
    assert list(doubted) == requested
    assert {(doubt.reason, doubt.held, doubt.rows) for doubt in doubted.values()} == {
        (DoubtReason.DELETIONS, 50, 45)
    }
    assert query("SELECT count(deleted_at) FROM magnetis.calls") == [(0,)]


@pytest.mark.parametrize("lie", ["ignores to", "ignores from", "ignores from and to"])
def test_an_ignored_bound_is_named_within_few_requests(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any, lie: str
) -> None:
    history = [DAY + timedelta(days=n) for n in range(-200, 200)]
    LyingApi(api, rows_of(dict.fromkeys(history, 100)), (lie,))
    with pytest.raises(FilterIgnored, match=r"seems to ignore (from|to|from and to)\."):
        # with more pages in flight, a fast server answers more before the first is checked
        read(open_ingestion, catalogue, days(8), concurrency=2)
    assert len(api.requests) <= 25
    assert query("SELECT count(*) FROM magnetis_ops.days") == [(0,)]


def test_an_id_twice_on_one_page_is_an_error(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    api.rows["/calls"] = [
        call(1, f"{DAY} 10:00:00", duration=5),
        call(1, f"{DAY} 10:00:00", duration=9),
        call(2, f"{DAY} 11:00:00"),
    ]
    with (
        open_ingestion() as ingestion,
        pytest.raises(RepeatedIds, match=r"1 rows? ha\w+ the id of another row .*calls\.id_paths"),
    ):
        list(ingestion.read_days(catalogue["calls"], [DAY]))
    assert len(api.requests) == 1
    api.rows["/calls"] = [
        call(1, f"{DAY} 10:00:00"),
        call(1, f"{DAY} 10:00:00"),
        call(2, f"{DAY} 11:00:00"),
    ]
    with (
        open_ingestion(run="2") as ingestion,
        pytest.raises(IncompleteWindow, match="occur twice on one page"),
    ):
        list(ingestion.read_days(catalogue["calls"], [DAY]))


def between(api: SmallApi, request: Request) -> tuple[datetime, datetime]:
    start, end = (
        datetime.strptime(request.query[name], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        for name in ("from", "to")
    )
    return start, end


def test_a_shortened_window_is_found_over_a_gap(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    """One call in ten days; the API answers windows of at most 31 days."""
    requested = days(120)
    api.rows["/calls"] = rows_of(dict.fromkeys(requested[::10], 1))

    def respond(request: Request) -> Any:
        start, _ = between(api, request)
        return api.envelope(
            [row for row in api.window(request) if api.moment(row) <= start + timedelta(days=31)],
            request,
        )

    api.respond = respond
    read(open_ingestion, catalogue, requested)
    assert query("SELECT count(*) FROM magnetis.calls") == [(12,)]


def test_a_cap_without_totals_splits_the_window(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    truth = rows_of(dict.fromkeys(days(3), 400))

    def respond(request: Request) -> Any:
        start, end = between(api, request)
        found = [row for row in truth if start <= api.moment(row) <= end][:1_000]
        return ok(found[(request.page - 1) * 250 : request.page * 250])

    api.respond = respond
    read(open_ingestion, catalogue, days(3))
    assert query("SELECT count(*) FROM magnetis.calls") == [(1_200,)]


def test_deep_pages_that_are_never_served_halve_the_window(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    truth = rows_of(dict.fromkeys(days(4), 90))
    api.rows["/calls"], api.limit = truth, 10
    api.respond = lambda request: (
        ok({"data": [], "meta": {"total": len(api.window(request)), "last_page": 36}})
        if request.page > 20
        else None
    )
    read(open_ingestion, catalogue, days(4))
    assert query("SELECT count(*), count(DISTINCT day) FROM magnetis.calls") == [(360, 4)]


@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_unannounced_page_may_be_refused(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any, status: int
) -> None:
    api.rows["/calls"] = rows_of({DAY: 250})
    api.respond = lambda request: (status, {}, b"{}") if request.page > 1 else None
    [result] = read(open_ingestion, catalogue, [DAY])
    assert (result.received, len(api.requests)) == (250, 2)


def test_a_route_that_ignores_the_page_ends_with_the_first_page_without_a_new_id(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    api.respond = lambda request: ok(
        [row | {"number": request.number} for row in rows_of({DAY: 5})]
    )
    [result] = read(open_ingestion, catalogue, [DAY])
    assert (result.received, len(api.requests)) == (5, 2)


@pytest.mark.parametrize("order", [1, -1], ids=["oldest first", "newest first"])
@pytest.mark.parametrize("after", ["refused", "empty", "page 1 again"])
@pytest.mark.parametrize("rows", [300, 5_000])
def test_a_full_page_does_not_prove_the_end(
    api: SmallApi,
    open_ingestion: Open,
    catalogue: Catalogue,
    query: Any,
    order: int,
    after: str,
    rows: int,
) -> None:
    """The API returns only page 1 of a search and announces no others.

    A day without more rows costs two requests.
    """
    spread = [
        f"{DAY} {n * 86_000 // rows // 3600:02d}:{n * 86_000 // rows // 60 % 60:02d}:00"
        for n in range(rows)
    ]
    truth = [call(f"{n:05d}", moment) for n, moment in enumerate(spread)]

    def respond(request: Request) -> Any:
        start, end = between(api, request)
        found = [row for row in truth[::order] if start <= api.moment(row) <= end]
        if request.page > 1 and after == "refused":
            return 404, {}, b"{}"
        return ok([] if request.page > 1 and after == "empty" else found[:250])

    api.respond = respond
    with pytest.raises(
        IncompleteWindow, match="a search within the window has rows that its pages lack"
    ):
        read(open_ingestion, catalogue, [DAY], run="cut")
    assert query("SELECT count(*) FROM magnetis_ops.days") == [(0,)]
    del truth[250:]
    before = len(api.requests)
    [result] = read(open_ingestion, catalogue, [DAY], run="whole")
    assert (result.received, len(api.requests) - before) == (250, 4)


def test_a_cut_list_is_read_in_shorter_windows(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    truth = rows_of(dict.fromkeys(days(4), 130))

    def respond(request: Request) -> Any:
        start, end = between(api, request)
        return ok(
            [row for row in truth if start <= api.moment(row) <= end][:250]
            if request.page == 1
            else []
        )

    api.respond = respond
    read(open_ingestion, catalogue, days(4))
    assert query("SELECT count(*), count(DISTINCT day) FROM magnetis.calls") == [(520, 4)]


def test_a_route_that_ignores_the_page_and_announces_many_costs_few_requests(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    rows = rows_of({DAY: 3})
    api.respond = lambda _request: ok({"data": rows, "meta": {"last_page": 400}})
    with pytest.raises(
        IncompleteWindow, match="repeats page 1, so the route seems to ignore `page`"
    ):
        read(open_ingestion, catalogue, [DAY])
    assert len(api.requests) <= 3 * (1 + 8 + 2)


def test_a_filter_by_whole_days_is_not_taken_for_a_cap(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    truth = rows_of(dict.fromkeys(days(3), 1_000))

    def respond(request: Request) -> Any:
        start, end = (moment.astimezone(PARIS).date() for moment in between(api, request))
        return api.envelope(
            [row for row in truth if start <= date.fromisoformat(row["start_at"][:10]) <= end],
            request,
        )

    api.respond = respond
    assert [
        day.rows for result in read(open_ingestion, catalogue, [days(3)[1]]) for day in result.days
    ] == [1_000]
    assert query("SELECT count(*) FROM magnetis_ops.window_limits") == [(0,)]


def test_a_small_limit_that_is_refused_costs_one_request_more(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    """The halves of a window are announced by one row each, if the API accepts such a limit."""
    api.rows["/calls"] = rows_of({DAY: 1_000})
    requests = []
    for status in (200, 422):
        before = len(api.requests)
        api.respond = lambda request, status=status: (
            (422, {}, b"{}") if (status, request.query["limit"]) == (422, "1") else None
        )
        [result] = read(open_ingestion, catalogue, [DAY], run=str(status))
        assert result.received == 1_000
        ones = [r for r in api.requests[before:] if r.query["limit"] == "1"]
        requests.append((len(ones), len(api.requests) - before))
    (one_rows, total), (refused, more) = requests
    assert one_rows == refused >= 2
    assert more == total + refused


# --- cached pages


def interrupted(open_ingestion: Open, catalogue: Catalogue, **options: Any) -> None:
    with pytest.raises(QuotaExhausted):
        read(open_ingestion, catalogue, [DAY], run="first", quota=4, **options)


def test_cached_pages_of_another_declaration_are_not_used(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/calls"] = rows_of({DAY: 990})
    api.limit = 100
    calls = catalogue["calls"]
    without = catalogue.model_copy(
        update={
            "collections": catalogue.collections
            | {"calls": calls.model_copy(update={"parameters": {}})}
        }
    )
    api.respond = lambda request: api.envelope(
        [
            row | {"analysis": {"x": 1}} if "analysis" in request.query else row
            for row in api.window(request)
        ],
        request,
    )
    interrupted(open_ingestion, without)
    assert query("SELECT count(*) > 0 FROM magnetis_ops.pages") == [(True,)]
    [result] = read(open_ingestion, catalogue, [DAY], run="first", resumes=True)
    assert result.received == 990
    assert query("SELECT count(*) FROM magnetis.calls WHERE payload ? 'analysis'") == [(990,)]


def test_cached_pages_are_discarded_if_page_1_has_changed(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    rows = rows_of({DAY: 990})
    api.rows["/calls"], api.limit = list(rows), 100
    interrupted(open_ingestion, catalogue)
    api.rows["/calls"] = rows[3:] + [call(f"new-{n}", f"{DAY} 12:00:00") for n in range(3)]
    [result] = read(open_ingestion, catalogue, [DAY], run="first", resumes=True)
    assert result.received == 990
    assert {identifier for (identifier,) in query("SELECT id FROM magnetis.calls")} == {
        row["id"] for row in api.rows["/calls"]
    }


def test_old_cached_pages_are_not_used(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any, engine: Engine
) -> None:
    api.rows["/calls"], api.limit = rows_of({DAY: 990}), 100
    interrupted(open_ingestion, catalogue)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE magnetis_ops.pages SET fetched_at = fetched_at - interval '8 days'")
        )
    before = len(api.requests)
    read(open_ingestion, catalogue, [DAY], run="first", resumes=True)
    assert len(api.requests) - before == 10 + 2, "every page, and two pages requested again"
    assert query(
        "SELECT read_at > magnetis_ops.now() - interval '1 hour' FROM magnetis_ops.days"
    ) == [(True,)]
