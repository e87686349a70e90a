"""`expected_calls` compared with the API calls of real loads from the sandbox."""

from datetime import date, timedelta
from math import ceil
from typing import Any

import pytest
from small_api import Open

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.ingest.window_splitter import (
    CHUNK_ROWS,
    PAGE_ROWS,
    SLACK,
    WindowSplitter,
    expected_calls,
)
from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.ingest.witnesses import rechecked_pages
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer, World
from magnetis_dagster.sandbox.day_plans import HOUR_WEIGHTS

FIRST = date(2024, 1, 1)


def test_one_window_costs_one_call_per_page() -> None:
    assert expected_calls(0, days=1095) == 1 + 1, "an empty edge is verified"
    assert expected_calls(0, days=1) == 1
    assert expected_calls(1, days=1) == 1
    assert expected_calls(65_700, days=1095) == 263 + 2, "two pages are verified"
    assert expected_calls(int(1.5 * CHUNK_ROWS), days=10) == 375 + 2
    assert expected_calls(10 * CHUNK_ROWS, days=1) == 2500 + 2, "a day is not split"
    assert expected_calls(100, days=0) == 0


@pytest.mark.parametrize(
    ("a_day", "days"), [(600, 1095), (6_000, 365), (6_000, 1095), (10_000, 365), (10_000, 1095)]
)
def test_a_split_range_costs_little_more_than_its_pages(a_day: int, days: int) -> None:
    least = ceil(a_day * days / PAGE_ROWS)
    assert least < expected_calls(a_day * days, days=days) <= 1.05 * least + 2


@pytest.mark.parametrize("days", [365, 1095])
@pytest.mark.parametrize("calls_per_day", [60, 600, 6_000, 10_000])
def test_the_price_is_right_for_large_ranges(calls_per_day: int, days: int) -> None:
    """Splits as the ingestion does, by the totals of the sandbox; fetches nothing."""
    world = World(SandboxOptions(calls_per_day=calls_per_day))
    range_ = Window(FIRST - timedelta(days=180), FIRST + timedelta(days=days - 181))

    def announced(window: Window) -> int:
        before, after = window.first - timedelta(days=1), window.last + timedelta(days=1)
        padding = sum(HOUR_WEIGHTS[22:]) * count(before) + sum(HOUR_WEIGHTS[:2]) * count(after)
        return sum(map(count, window.days)) + round(padding / sum(HOUR_WEIGHTS))

    def count(day: date) -> int:
        return world._days.count("calls", day)

    splitter, spent = WindowSplitter(range_, CHUNK_ROWS), 0
    while window := splitter.next_window():
        rows = announced(window)
        if rows > int(CHUNK_ROWS * SLACK):
            spent += 1
            splitter.resize(window, rows)
        else:
            pages = max(1, ceil(rows / PAGE_ROWS))
            spent += pages + len(rechecked_pages(pages))
            splitter.advance(window, rows)
    price = expected_calls(announced(range_), days=days)
    assert abs(price - spent) <= max(2, 0.01 * spent), f"priced {price}, spent {spent}"


def test_days_larger_than_a_chunk_are_single_windows() -> None:
    # an announcement, then ten days of 400 pages; each costs half a page more, and four hours of
    # padding at a quarter of the mean rate
    assert expected_calls(1_000_000, days=10) == pytest.approx(
        1 + 4000 + 10 * (0.5 + 400 / 24), abs=20
    )


@pytest.mark.parametrize(
    ("calls_per_day", "days", "chunk_rows"),
    [
        (60, 365, CHUNK_ROWS),  # one window
        (150, 120, 5_000),  # windows of weeks
        (600, 60, 5_000),  # a chunk of eight days
        (2_000, 21, 3_000),  # a chunk of one day
        (3_000, 7, 1_000),  # days larger than a chunk
        (0, 90, 1_000),  # no rows
    ],
)
def test_the_price_equals_the_calls_of_a_load(
    open_ingestion: Open,
    catalogue: Catalogue,
    query: Any,
    calls_per_day: int,
    days: int,
    chunk_rows: int,
) -> None:
    calls, requested = (
        catalogue["calls"],
        [FIRST + timedelta(days=number) for number in range(days)],
    )
    with SandboxServer(SandboxOptions(calls_per_day=calls_per_day, accounts=2)) as sandbox:
        with open_ingestion(
            origin=sandbox.url, key=sandbox.key, chunk_rows=chunk_rows
        ) as ingestion:
            results = list(ingestion.read_days(calls, requested))
        announced = len(list(sandbox.world.truth("calls", requested[0], requested[-1])))
        spent = sandbox.received
    assert sum(day.rows for result in results for day in result.days) == announced
    # a connection that breaks on a loaded machine is charged, and perhaps never received
    [(charged, broken)] = query(
        "SELECT count(*), count(*) FILTER (WHERE status IS NULL) FROM magnetis_ops.api_calls"
    )
    assert charged - broken <= spent <= charged
    price = expected_calls(announced, chunk_rows=chunk_rows, days=days)
    assert abs(price - spent) <= max(2, 0.05 * spent), f"priced {price}, spent {spent}"
