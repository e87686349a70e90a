"""The report agrees with the ledger by lane, day and route.

It names when calls return, and shows only the number of other keys.
"""

import io
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from closed_key import close_key
from rich.console import Console
from sqlalchemy import Engine

from magnetis_dagster.api_calls import LONGEST_CALL
from magnetis_dagster.cli.quota_report import format_quota
from magnetis_dagster.database import DatabaseUnavailable, connect
from magnetis_dagster.quota import QuotaPolicy, QuotaWindow
from magnetis_dagster.quota.ledger import Charge, Ledger, Settlement
from magnetis_dagster.quota.report import LaneToday, QuotaReport, read_report, read_today

PARIS = ZoneInfo("Europe/Paris")
KEY = "aaaaaaaaaaaa"
MORNING = datetime(2025, 6, 15, 8, tzinfo=UTC)  # 10:00 in Paris


def policy(limit: int = 100, **changes: Any) -> QuotaPolicy:
    return QuotaPolicy(limit=limit, zone=PARIS, **changes)


def spend(
    engine: Engine,
    lane: str,
    number: int = 1,
    *,
    status: int | None = 200,
    key: str = KEY,
    **charge: Any,
) -> None:
    """Send `calls` calls past every floor: the test sets the usage."""
    book = Ledger(engine, key_fingerprint=key, policy=policy(10_000, floors={}))
    asked = Charge(
        **{"collection": "calls", "route": "/calls", "page": 1, "lane": lane, "run_id": "run-1"}
        | charge
    )
    for _ in range(number):
        charged = book.charge(asked)
        if status is not None:
            book.settle(
                charged.number, Settlement(status=status, rows=250 if status == 200 else None)
            )


def report(engine: Engine, **changes: Any) -> QuotaReport:
    return read_report(engine, key_fingerprint=KEY, policy=policy(**changes))


def lanes(engine: Engine, **changes: Any) -> dict[str, LaneToday]:
    return {
        lane.lane: lane
        for lane in read_today(engine, key_fingerprint=KEY, policy=policy(**changes)).lanes
    }


def render_text(of: QuotaReport, width: int = 80, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(format_quota(of, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("url", ["database_url", "empty_database_url"])
def test_a_quota_without_calls(request: pytest.FixtureRequest, url: str) -> None:
    engine = connect(request.getfixturevalue(url))
    found = report(engine, release_hours=0)
    engine.dispose()
    assert (found.today.used, found.today.remaining, found.today.closed_until) == (0, 100, None)
    assert [
        (lane.lane, lane.floor, lane.remaining, lane.calls_again_at) for lane in found.today.lanes
    ] == [
        ("schedule", 20, 100, None),
        ("settings", 5, 100, None),
        ("manual", 5, 100, None),
        ("backfill", 0, 70, None),
    ]
    assert (len(found.days), found.routes, found.collections, found.runs, found.other_keys) == (
        30,
        (),
        (),
        (),
        0,
    )
    assert "No call yet." in render_text(found)


def test_today_by_lane(engine: Engine, clock: Any) -> None:
    clock.set(MORNING)
    spend(engine, "schedule", 8)
    spend(engine, "manual", 9)
    spend(engine, "backfill", 3)
    today = report(engine).today
    assert (today.used, today.remaining, today.limit, today.day) == (20, 80, 100, date(2025, 6, 15))
    assert (today.at.tzinfo, today.at.hour, str(today.ends_at)) == (
        PARIS,
        10,
        "2025-06-16 00:00:00+02:00",
    )
    found = {lane.lane: (lane.used, lane.floor, lane.kept, lane.remaining) for lane in today.lanes}
    # 12 calls of schedule's floor and 5 of settings' are unused; manual used more than its own
    assert found == {
        "schedule": (8, 20, 12, 80),
        "settings": (0, 5, 5, 80),
        "manual": (9, 5, 0, 80),
        "backfill": (3, 0, 0, 63),
    }


def test_backfill_waits_for_the_floors_to_shrink_and_other_lanes_do_not(
    engine: Engine, clock: Any
) -> None:
    clock.set(MORNING)
    spend(engine, "backfill", 70)
    found = lanes(engine)
    assert (
        found["backfill"].remaining,
        found["schedule"].remaining,
        found["schedule"].calls_again_at,
    ) == (0, 30, None)
    assert "are reserved for the schedule, settings and manual lanes" in str(
        found["backfill"].reason
    )
    again = found["backfill"].calls_again_at
    assert again is not None
    assert 18 <= again.hour <= 19, "the floors begin to shrink six hours before midnight"
    clock.set(again.astimezone(UTC) + timedelta(seconds=1))
    assert lanes(engine)["backfill"].calls_again_at is None
    assert lanes(engine)["backfill"].remaining >= 1


def test_a_429_closes_the_key_and_calls_used_elsewhere_are_shown(
    engine: Engine, clock: Any
) -> None:
    clock.set(MORNING)
    spend(engine, "manual", 10)
    close_key(Ledger(engine, key_fingerprint=KEY, policy=policy()), 7200)
    found = report(engine)
    assert (found.today.used, found.today.used_elsewhere, found.today.remaining) == (100, 90, 0)
    assert (found.today.closed_until or found.today.at).hour == 12
    assert {lane.remaining for lane in found.today.lanes} == {0}
    assert {(lane.calls_again_at or found.today.at).hour for lane in found.today.lanes} == {12}
    assert (found.days[-1].calls, found.days[-1].used_elsewhere) == (10, 90)
    text = render_text(found)
    assert "90 of them elsewhere" in text
    assert "Closed until 12:00 CEST: the API answered 429" in text
    clock.set(MORNING + timedelta(hours=3))
    assert report(engine).today.trial
    assert "the next call is a trial" in render_text(report(engine))
    spend(engine, "manual")
    assert not report(engine).today.trial


def test_results_by_day_route_collection_and_run(engine: Engine, clock: Any) -> None:
    clock.set(MORNING - timedelta(days=30))
    spend(engine, "backfill", 5)  # 31 days ago counting today: not on the screen
    clock.set(MORNING - timedelta(days=29))
    spend(engine, "backfill", 2)
    clock.set(MORNING)
    spend(engine, "schedule", 3, run_id="run-2")
    spend(engine, "manual", 1, status=429, collection="leads", route="/leads")
    spend(engine, "manual", 1, status=503, collection="leads", route="/leads")
    spend(engine, "manual", 1, status=None, run_id=None)  # its process dies
    clock.advance(LONGEST_CALL + timedelta(seconds=1))
    spend(engine, "manual", 1, status=None, collection="visits", route="/visits")  # in flight
    found = report(engine)
    days = {
        day.name: (day.calls, day.ok, day.over_quota, day.failed, day.rows) for day in found.days
    }
    assert next(iter(days)) == "2025-05-17"
    assert list(days)[-1] == "2025-06-15"
    assert {name: counts for name, counts in days.items() if any(counts)} == {
        "2025-05-17": (2, 2, 0, 0, 500),
        "2025-06-15": (7, 3, 1, 2, 750),
    }
    routes = {
        route.name: (route.calls, route.ok, route.over_quota, route.failed)
        for route in found.routes
    }
    assert routes == {"/calls": (6, 5, 0, 1), "/leads": (2, 0, 1, 1), "/visits": (1, 0, 0, 0)}
    assert [(each.name, each.calls) for each in found.collections] == [
        ("calls", 4),
        ("leads", 2),
        ("visits", 1),
    ]
    assert [(run.name, run.lane, run.calls) for run in found.runs] == [
        ("run-1", "manual", 3),
        ("run-2", "schedule", 3),
        ("unknown", "manual", 1),
    ]


def test_a_day_keeps_the_limit_it_had(engine: Engine, clock: Any) -> None:
    clock.set(MORNING - timedelta(days=1))
    Ledger(engine, key_fingerprint=KEY, policy=policy(50)).charge(
        Charge(collection="c", route="/c", page=1, lane="manual")
    )
    clock.set(MORNING)
    assert [day.limit for day in report(engine).days[-2:]] == [50, 100]


def test_the_limit_may_be_lowered_below_the_used_calls(engine: Engine, clock: Any) -> None:
    clock.set(MORNING)
    spend(engine, "manual", 20)
    found = report(engine, limit=10)
    assert (found.today.used, found.today.remaining) == (20, 0)
    assert "20 of 10 calls used (200%), 0 left" in render_text(found)


def test_a_rolling_quota_has_no_end_and_its_calls_return_one_by_one(
    engine: Engine, clock: Any
) -> None:
    clock.set(MORNING)
    spend(engine, "manual", 3)
    clock.set(MORNING + timedelta(hours=20))  # the next calendar day
    found = report(engine, limit=3, window=QuotaWindow.ROLLING, floors={})
    assert (found.today.used, found.today.ends_at, found.today.window) == (3, None, "rolling")
    again = found.today.lanes[0].calls_again_at
    assert again is not None
    assert abs(again - (MORNING + timedelta(hours=24))) < timedelta(seconds=10)
    assert "any 24 hours" in render_text(found)


def test_only_the_number_of_other_keys_is_shown(engine: Engine, clock: Any) -> None:
    clock.set(MORNING)
    spend(engine, "manual", 4, key="bbbbbbbbbbbb", route="/secret-route", run_id="another")
    spend(engine, "manual", 1)
    found = report(engine)
    assert (found.other_keys, found.today.used, found.days[-1].calls) == (1, 1, 1)
    for text in (found.as_json(), render_text(found)):
        assert "bbbbbbbbbbbb" not in text
        assert "/secret-route" not in text
    assert "1 other key has called into this database." in render_text(found)


def test_json_contains_the_numbers_and_times_with_offset(engine: Engine, clock: Any) -> None:
    clock.set(MORNING)
    spend(engine, "backfill", 70)
    plain = json.loads(report(engine).as_json())
    assert set(plain) == {"today", "days", "routes", "collections", "runs", "other_keys"}
    assert (plain["today"]["used"], plain["today"]["day"], plain["days"][-1]["calls"]) == (
        70,
        "2025-06-15",
        70,
    )
    backfill = plain["today"]["lanes"][-1]
    assert datetime.fromisoformat(backfill["calls_again_at"]).utcoffset() == timedelta(hours=2)


def test_the_screen_fits_80_columns_and_ascii(engine: Engine, clock: Any) -> None:
    clock.set(MORNING - timedelta(days=3))
    spend(engine, "backfill", 40, run_id="0f7f8a3e-5a39-4b53-9a34-7f5ad9f5a6a1")
    clock.set(MORNING)
    spend(engine, "backfill", 70, run_id="0f7f8a3e-5a39-4b53-9a34-7f5ad9f5a6a1")
    spend(engine, "schedule", 1, status=429)
    found = report(engine)
    text = render_text(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "█" in text
    assert "0f7f8a3e " in text
    assert "0f7f8a3e-5a39" not in text
    assert "! a 429 on that day" in text
    bar = next(line for line in text.splitlines() if line.lstrip().startswith("backfill"))
    assert bar.count("█") == 21, "70 of 100 calls are 21 of 30 columns"
    plain = render_text(found, ascii_only=True)
    assert "#" in plain
    assert not set("█░▁▂▃▄▅▆▇") & set(plain)


def test_an_unreachable_database_is_reported_without_its_password() -> None:
    engine = connect("postgresql://me:hush@127.0.0.1:9/none")
    with pytest.raises(DatabaseUnavailable, match="cannot be reached") as raised:
        report(engine)
    assert "hush" not in str(raised.value)
