"""A plan over real HTTP and the real ledger: its requests, price, output and errors."""

import io
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from protected import PROTECTION
from rich.console import Console
from small_api import KEY, PARIS, Open, Request, SmallApi, call
from sqlalchemy import Engine

from magnetis_dagster.api import ClientLimits, KeyRefused
from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.cli.plan_report import format_backfill, format_plan, total_of
from magnetis_dagster.ingest import Zones
from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.planning.plan import (
    BadPlan,
    Plan,
    choose_collections,
    completion,
    format_moment,
    make_plan,
    parse_day,
    requested_window,
)
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Charge, Ledger, QuotaExhausted
from magnetis_dagster.warehouse import Warehouse
from magnetis_dagster.warehouse.forecasts import ForecastLine

FINGERPRINT = "0123456789ab"
NOON = datetime(2025, 6, 12, 10, tzinfo=UTC)
JUNE = Window(date(2025, 6, 1), date(2025, 6, 10))
Make = Callable[..., Plan]


def june(day: int) -> date:
    return date(2025, 6, day)


@pytest.fixture
def make(engine: Engine, clock: Any, api: SmallApi, catalogue: Catalogue) -> Make:
    clock.set(NOON)

    def make(
        *names: str,
        window: Window = JUNE,
        quota: int = 5000,
        catalogue: Catalogue = catalogue,
        **changes: Any,
    ) -> Plan:
        return make_plan(
            choose_collections(catalogue, names, every=not names),
            window,
            Warehouse(
                engine, catalogue, response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
            ),
            Ledger(
                engine, key_fingerprint=FINGERPRINT, policy=QuotaPolicy(limit=quota, zone=PARIS)
            ),
            zones=Zones(partition=PARIS, query=PARIS, response=PARIS),
            **{
                "origin": api.url,
                "key": KEY,
                "limits": ClientLimits(attempts=2, read=2.0, wait_initial=0.01, wait_max=0.05),
            }
            | changes,
        )

    return make


def announcing(api: SmallApi, totals: dict[str, int | None]) -> None:
    """Make each route announce a total, with one row."""

    def respond(request: Request) -> Any:
        total = totals[request.path]
        meta = {"total": total} if total is not None else {}
        content = {"data": [call(1, "2025-06-05 10:00:00")], "links": {"next": None}, "meta": meta}
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()

    api.respond = respond


def shown(plan: Plan, *, ascii_only: bool = False) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(format_plan(plan, ascii_only=ascii_only))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_costs_one_call_per_collection_in_lane_manual(
    make: Make, api: SmallApi, query: Any
) -> None:
    announcing(api, {"/calls": 12_345, "/visits": 100_000})
    plan = make("calls", "visits", "calls")
    assert [(line.collection, line.days, line.rows, line.calls) for line in plan.lines] == [
        ("calls", 10, 12_345, 50 + 2),
        ("visits", 10, 100_000, plan.lines[1].calls),
    ]
    assert 405 <= plan.lines[1].calls <= 412, (
        "more than a chunk and a half is split: announcement, padding, part pages, witnesses"
    )
    assert [request.query["limit"] for request in api.requests] == ["1", "1"]
    assert {(request.query["from"], request.query["to"]) for request in api.requests} == {
        ("20250531220000", "20250611020000")
    }
    assert plan.spent == 2
    assert (
        query("SELECT lane, run_id, page, first_day, last_day, status FROM magnetis_ops.api_calls")
        == [("manual", "magnetis plan", 1, JUNE.first, JUNE.last, 200)] * 2
    )
    assert plan.forecast.done_at is not None
    assert plan.forecast.days == ((june(12), plan.calls),)


def test_only_missing_days_are_priced_for_one_call(
    make: Make, api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    api.rows["/calls"] = [
        call(f"{day}{n}", f"2025-06-{day:02} 12:00:00") for day in range(1, 11) for n in range(30)
    ]
    calls = catalogue["calls"]
    with open_ingestion() as ingestion:
        list(ingestion.read_days(calls, [june(1), june(2), june(5), june(6)]))
    api.requests.clear()
    plan = make("calls", missing=True)
    [line] = plan.lines
    assert [(each.first, each.last, each.rows, each.calls) for each in line.ranges] == [
        (june(3), june(4), 60, 1),
        (june(7), june(10), 120, 1),
    ]
    assert (line.days, line.rows, line.calls, plan.spent) == (6, 180, 2, 1)
    assert api.requests[0].query["from"] == "20250602220000", (
        "only the range of the missing days is announced"
    )
    with open_ingestion() as ingestion:
        results = list(
            ingestion.read_days(
                calls, [day for each in line.ranges for day in Window(each.first, each.last).days]
            )
        )
    assert sum(result.api_calls for result in results) == line.calls
    done = make("calls", missing=True)
    assert (done.lines[0].days, done.calls, done.spent, done.problems) == (0, 0, 0, [])
    assert "nothing is missing" in shown(done)
    assert make("calls").lines[0].days == 10


def test_a_collection_without_a_price_does_not_stop_the_others(make: Make, api: SmallApi) -> None:
    announcing(api, {"/calls": 500, "/visits": None})
    respond = api.respond
    api.respond = lambda request: (404, {}, b"{}") if request.path == "/leads" else respond(request)
    plan = make("visits", "leads", "calls")
    assert [(line.collection, line.calls, bool(line.problem)) for line in plan.lines] == [
        ("visits", 0, True),
        ("leads", 0, True),
        ("calls", 2, False),
    ]
    assert plan.spent == 3
    assert "visits: the answer has no meta.total" in plan.problems[0]
    assert "leads" in plan.problems[1]
    words = " ".join(shown(plan).split())
    for problem in plan.problems:
        assert problem in words
    lines = {line["name"]: line for line in plan.as_dict()["collections"]}
    assert (lines["visits"]["calls"], lines["calls"]["calls"]) == (None, 2)


def test_an_error_that_affects_every_request_ends_the_plan(make: Make, api: SmallApi) -> None:
    with pytest.raises(KeyRefused):
        make("calls", "visits", key="another")
    assert len(api.requests) == 1
    with pytest.raises(QuotaExhausted, match="lane manual"):
        make("calls", "visits", quota=1)
    assert len(api.requests) == 1, "the one call of the day was spent before"


def test_a_retried_announcement_counts_as_spent(make: Make, api: SmallApi) -> None:
    announcing(api, {"/calls": 500})
    respond = api.respond
    api.respond = lambda request: (500, {}, b"") if request.number == 1 else respond(request)
    plan = make("calls")
    assert (plan.spent, plan.calls) == (2, 2)


def test_a_route_without_a_window_is_read_whole_for_each_range(
    make: Make, api: SmallApi, catalogue: Catalogue, open_ingestion: Open
) -> None:
    whole = catalogue.model_copy(
        update={
            "collections": {
                **catalogue.collections,
                "calls": catalogue["calls"].model_copy(update={"window": None}),
            }
        }
    )
    announcing(api, {"/calls": 1_000_000})
    plan = make("calls", catalogue=whole)
    assert plan.calls == 4000
    assert "from" not in api.requests[0].query


def test_the_plan_shows_its_quota_days(make: Make, api: SmallApi, engine: Engine) -> None:
    ledger = Ledger(engine, key_fingerprint=FINGERPRINT, policy=QuotaPolicy(limit=100, zone=PARIS))
    for lane, number in (("schedule", 5), ("backfill", 10)):
        for _ in range(number):
            ledger.charge(Charge(collection="calls", route="/calls", page=1, lane=lane))
    announcing(api, {"/calls": 50_000})
    plan = make("calls", quota=100)
    assert plan.calls == 200 + 2, "two pages are verified"
    assert {lane.lane: (lane.floor, lane.used) for lane in plan.lanes} == {
        "schedule": (20, 5),
        "settings": (5, 0),
        "manual": (5, 1),
        "backfill": (0, 10),
    }
    assert (plan.backfill_today, plan.backfill_whole_day) == (84, 100)
    assert plan.forecast.days == ((june(12), 84), (june(13), 100), (june(14), 18))
    words = shown(plan)
    assert "202 calls over 3 quota days, done about 2025-06-14 00:01" in words
    assert "2025-06-13      100 ████████████████████████████████████████\n" in words
    assert "This plan spent 1 API call, in lane manual." in words
    assert "2025-06-13      100 ########################################\n" in shown(
        plan, ascii_only=True
    )
    assert json.loads(json.dumps(plan.as_dict()))["quota"]["done_at"].startswith(
        "2025-06-14T00:00:"
    )
    long = shown(make("calls", quota=17))
    assert "on 2 more days" in long


def test_moments_in_words() -> None:
    now = datetime(2025, 6, 12, 12, tzinfo=PARIS)
    assert format_moment(now + timedelta(hours=3, minutes=39, seconds=1), now) == "today 15:40"
    assert format_moment(now + timedelta(hours=13), now) == "2025-06-13 01:00"
    assert format_moment(now.replace(hour=23, minute=59, second=30), now) == "2025-06-13 00:00"


def test_a_completion_beyond_the_forecast_is_not_dated(make: Make, api: SmallApi) -> None:
    announcing(api, {"/calls": 10**10})
    plan = make("calls")
    assert completion(plan) == "not within 3,660 days"
    assert plan.as_dict()["quota"]["done_at"] is None


@pytest.mark.parametrize(
    ("names", "every", "words"),
    [
        ((), False, "Name the collections"),
        (("calls",), True, "--all"),
        (("faxes",), False, "No collection faxes. There are: entities"),
        (("numbers",), False, "snapshot collection: the API shows only its present"),
    ],
)
def test_collections_that_cannot_be_planned(
    catalogue: Catalogue, names: tuple[str, ...], every: bool, words: str
) -> None:
    with pytest.raises(BadPlan, match=words):
        choose_collections(catalogue, names, every=every)


def test_all_means_every_enabled_events_collection(catalogue: Catalogue) -> None:
    assert [each.name for each in choose_collections(catalogue, (), every=True)] == [
        "calls",
        "visits",
        "conversions",
        "emails",
        "leads",
    ]
    off = catalogue.model_copy(
        update={
            "collections": {
                **catalogue.collections,
                "calls": catalogue["calls"].model_copy(update={"enabled": False}),
            }
        }
    )
    assert "calls" not in [each.name for each in choose_collections(off, (), every=True)]
    with pytest.raises(BadPlan, match="switched off"):
        choose_collections(off, ["calls"], every=False)


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (june(3), june(2), "--from 2025-06-03 is after --to 2025-06-02"),
        (date(2023, 12, 31), june(2), r"before 2024-01-01.*MAGNETIS_START_DATE"),
        (june(3), june(12), r"--to 2025-06-12 has not ended.*up to 2025-06-11"),
    ],
)
def test_days_outside_the_partitions_are_rejected(first: date, last: date, words: str) -> None:
    with pytest.raises(BadPlan, match=words):
        requested_window(first, last, start=date(2024, 1, 1), today=june(12))


def test_days_are_parsed_as_iso_dates() -> None:
    assert requested_window(june(3), june(3), start=june(3), today=june(4)) == Window(
        june(3), june(3)
    )
    assert parse_day(" 2025-06-03", "--from") == june(3)
    with pytest.raises(BadPlan, match="--to: expected a day such as 2024-01-31, got '03/06/2025'"):
        parse_day("03/06/2025", "--to")


def test_the_report_shows_an_error_only_when_every_day_is_complete() -> None:
    def line(name: str, days_done: int, spent: int) -> ForecastLine:
        return ForecastLine(name, june(1), june(10), 10, 1000, 105, spent, days_done, 900)

    console = Console(file=io.StringIO(), width=100)
    console.print(format_backfill("abcdefgh", [line("calls", 10, 100), line("visits", 4, 40)]))
    assert isinstance(console.file, io.StringIO)
    words = console.file.getvalue()
    assert "Backfill abcdefgh" in words
    assert words.count("+5.0 %") == 1
    assert total_of([line("calls", 10, 100), line("visits", 4, 40)])["error_percent"] is None
    assert total_of([line("calls", 10, 100), line("visits", 10, 110)])["error_percent"] == 0.0
