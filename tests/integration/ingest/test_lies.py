"""No complete day differs from the truth under any combination of server lies.

docs/delivery-guarantees.md names the exceptions.
"""

import os
from collections import Counter
from datetime import date, timedelta
from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lying_api import LIES, LyingApi
from small_api import Open, SmallApi, call
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.ingest import window_pages, window_verifier, witnesses

DAY = date(2025, 3, 3)
SWAPS = "swaps rows during a read"

rows_by_day = st.lists(st.sampled_from([0, 1, 4, 15, 40]), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def _small_scale(api: SmallApi, monkeypatch: pytest.MonkeyPatch) -> None:
    # pages of ten rows and caps of tens stand for pages of 250 and caps of thousands
    api.limit = 10
    monkeypatch.setattr(witnesses, "SUSPICIOUS_ROWS", 30)
    monkeypatch.setattr(witnesses, "EDGE_DAYS", 2)


def truth_of(counts: list[int]) -> list[dict[str, Any]]:
    return [
        call(
            f"{number:02d}{n:03d}",
            f"{DAY + timedelta(days=number)} {(3 + n * 7) % 24:02d}:{n % 60:02d}:00",
        )
        for number, count in enumerate(counts)
        for n in range(count)
    ]


def load(
    open_ingestion: Open, catalogue: Catalogue, days: list[date], run: str, **options: Any
) -> None:
    try:
        with open_ingestion(run=run, chunk_rows=200, quota=100_000, **options) as ingestion:
            list(ingestion.read_days(catalogue["calls"], days))
    except MagnetisError:
        pass  # a failed load is allowed


def wrong_days(engine: Engine, truth: list[dict[str, Any]]) -> dict[date, tuple[int, int]]:
    """Return the complete days that differ from the truth, with stored and expected rows."""
    with engine.connect() as connection:
        done = list(
            connection.execute(
                text("SELECT day, held FROM magnetis_ops.days WHERE collection = 'calls'")
            )
        )
        rows = list(
            connection.execute(text("SELECT day, id FROM magnetis.calls WHERE deleted_at IS NULL"))
        )
    held: dict[date, set[str]] = {day: set() for day, _ in done}
    for day, identifier in rows:
        held.setdefault(day, set()).add(identifier)
    right: dict[date, set[str]] = {day: set() for day, _ in done}
    for row in truth:
        right.setdefault(date.fromisoformat(row["start_at"][:10]), set()).add(row["id"])
    assert all(len(held[day]) == number for day, number in done), (
        "magnetis_ops.days.held differs from the table"
    )
    return {
        day: (len(held[day]), len(held[day] & right[day]))
        for day, _ in done
        if held[day] != right[day]
    }


def longest_gap(counts: list[int]) -> int:
    return max(len(list(days)) if empty else 0 for empty, days in groupby(counts, lambda n: n == 0))


def reset(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "TRUNCATE magnetis.calls, magnetis_ops.windows, magnetis_ops.days, "
                "magnetis_ops.day_reads, magnetis_ops.quarantine, magnetis_ops.pages, "
                "magnetis_ops.strays, magnetis_ops.window_limits, "
                "magnetis_ops.sources CASCADE"
            )
        )


@pytest.mark.filterwarnings(
    "ignore:Generating overly large repr"
)  # fixtures that a failed example leaves
@settings(
    max_examples=int(os.environ.get("LIES_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    counts=rows_by_day,
    lies=st.lists(st.sampled_from([lie for lie in LIES if lie != SWAPS]), max_size=3, unique=True),
    before=st.booleans(),
    cap=st.sampled_from([30, 60, 90]),
    length=st.sampled_from([1, 2, 3, 7]),
)
def test_no_green_day_differs_from_the_truth(
    api: SmallApi,
    open_ingestion: Open,
    catalogue: Catalogue,
    engine: Engine,
    counts: list[int],
    lies: list[str],
    before: bool,
    cap: int,
    length: int,
) -> None:
    # documented exceptions: with an ignored bound, and in shortened windows without a total, no
    # request can prove a cap
    capped = any(lie.startswith("caps") for lie in lies)
    assume(not (capped and any(lie.startswith("ignores") for lie in lies)))
    assume(
        not (
            capped
            and any(lie.startswith("shortens") for lie in lies)
            and "announces nothing but next" in lies
        )
    )
    # nor within one day
    without_total = {
        "announces the page's rows as the total",
        "announces nothing but next",
        "returns bare arrays",
    }
    assume(not (capped and max(counts) > cap and without_total & set(lies)))
    # nor are both ends of a first window verified, if no API is known to have its length as a limit
    shortened = any(lie.startswith("shortens") for lie in lies)
    assume(not (shortened and length == len(counts) < 7))
    # nor is anything proven by an empty edge that the API shortens too, if its beginning is empty
    assume(not (shortened and longest_gap(counts) >= length))
    reset(engine)
    days = [DAY + timedelta(days=n) for n in range(len(counts))]
    truth = truth_of(counts)
    if before:
        # an honest load first, so that the table contains rows
        LyingApi(api, list(truth))
        load(open_ingestion, catalogue, days, "before")
    LyingApi(api, truth, tuple(lies), cap=cap, days=length)
    load(open_ingestion, catalogue, days, "lied to")
    assert wrong_days(engine, truth) == {}


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != SWAPS])
@pytest.mark.parametrize("counts", [[40] * 12, [15] * 5 + [0] * 3, [0, 4, 40, 0], [40]], ids=str)
def test_each_lie_alone(
    api: SmallApi,
    open_ingestion: Open,
    catalogue: Catalogue,
    engine: Engine,
    lie: str,
    counts: list[int],
) -> None:
    truth = truth_of(counts)
    LyingApi(api, truth, (lie,))
    days = [DAY + timedelta(days=n) for n in range(len(counts))]
    load(open_ingestion, catalogue, days, "lied to")
    assert wrong_days(engine, truth) == {}
    assert len(api.requests) <= 4 * (len(truth) // 10 + len(counts)) + 60


def test_a_total_that_later_pages_disprove_hides_no_cap(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, engine: Engine
) -> None:
    truth = truth_of([40, 40])
    lies = "caps a search, oldest first", "announces the page's rows as the total"
    LyingApi(api, truth, lies, cap=60)
    load(open_ingestion, catalogue, [DAY, DAY + timedelta(days=1)], "lied to")
    assert wrong_days(engine, truth) == {}


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie.startswith("shortens")])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_a_window_that_loses_only_hours_is_found(
    api: SmallApi,
    open_ingestion: Open,
    catalogue: Catalogue,
    engine: Engine,
    query: Any,
    lie: str,
    length: int,
) -> None:
    """The padding makes a window of the limit's length four hours too long for it."""
    truth = truth_of([24] * 9)
    LyingApi(api, truth, (lie,), days=length)
    load(open_ingestion, catalogue, [DAY + timedelta(days=n) for n in range(9)], "first")
    assert wrong_days(engine, truth) == {}
    done = query("SELECT count(*) FROM magnetis_ops.days")
    assert done == [(0 if length == 1 else 9,)]
    # another load, a window of just the limit
    load(open_ingestion, catalogue, [DAY + timedelta(days=n) for n in range(length)], "second")
    assert wrong_days(engine, truth) == {}


@pytest.mark.parametrize(("verified", "wrong"), [(False, range(15, 51)), (True, range(9))])
def test_swaps_during_a_read_leave_few_wrong_windows(
    api: SmallApi,
    open_ingestion: Open,
    catalogue: Catalogue,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    verified: bool,
    wrong: range,
) -> None:
    """One request in ten swaps a row, in windows of ten pages.

    A window is right if Magnetis had exactly its rows at one moment.
    """
    if not verified:
        for module in window_pages, window_verifier:
            monkeypatch.setattr(module, "rechecked_pages", lambda _pages: [])
    outcomes: Counter[str] = Counter()
    for seed in range(50):
        reset(engine)
        lying = LyingApi(api, truth_of([100]), (SWAPS,), seed=seed)
        load(open_ingestion, catalogue, [DAY], f"seed {seed}", concurrency=1)
        with engine.connect() as connection:
            done = connection.execute(text("SELECT count(*) FROM magnetis_ops.days")).scalar_one()
            held = frozenset(connection.execute(text("SELECT id FROM magnetis.calls")).scalars())
        outcomes["red" if not done else "right" if held in lying.memory["states"] else "wrong"] += 1
    assert outcomes["wrong"] in wrong, outcomes
