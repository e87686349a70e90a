"""Rows match the catalogue, are consistent, and are reproducible."""

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from parsed_rows import known_members, read_row
from sandbox_rows import expected_rows

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.catalog.model import PersonalData
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.sandbox import PERSONAL_MARKERS, SandboxOptions, World

PARIS = ZoneInfo("Europe/Paris")
COLLECTIONS = list(load_catalogue().collections)
EVENTS = ("calls", "visits", "conversions", "emails", "leads")


def midnight(*day: int) -> datetime:
    return datetime(*day, tzinfo=PARIS)


def some_rows(sandbox: Any, collection: str) -> list[Any]:
    more = sandbox.catalogue[collection].parameters
    if collection in EVENTS:
        return sandbox.rows(collection, midnight(2025, 11, 10), midnight(2025, 11, 15), **more)
    return sandbox.rows(collection, **more)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_declared_column_has_values_and_no_other_member_exists(
    sandbox: Any, catalogue: Catalogue, name: str
) -> None:
    parser = RowParser(catalogue[name], response_zone=PARIS, partition_zone=PARIS)
    rows = some_rows(sandbox, name)
    parsed = [read_row(parser, row) for row in rows]
    filled = {
        column
        for row in parsed
        for column, value in zip(catalogue[name].columns, row.values, strict=True)
        if value is not None
    }
    assert filled == set(catalogue[name].columns)
    assert {member for row in rows for member in row} <= known_members(parser)
    assert not [row.misfits for row in parsed if row.misfits]
    assert len({row.id for row in parsed}) == len(rows) > 0
    assert all(row.occurred_at for row in parsed) is (name in EVENTS)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_personal_value_contains_a_marker(
    sandbox: Any, catalogue: Catalogue, name: str
) -> None:
    parser = RowParser(catalogue[name], response_zone=PARIS, partition_zone=PARIS)
    for row in some_rows(sandbox, name):
        for (column, declared), value in zip(
            catalogue[name].columns.items(), read_row(parser, row).values, strict=True
        ):
            if declared.personal_data.degree is PersonalData.PERSONAL and value is not None:
                values = json.loads(value) if declared.type == "json" else [value]
                for each in values:
                    assert any(marker in each for marker in PERSONAL_MARKERS), column


@pytest.mark.parametrize("name", COLLECTIONS)
def test_pages_contain_the_expected_rows(sandbox: Any, name: str) -> None:
    first, last = date(2025, 11, 10), date(2025, 11, 12)
    expected = list(expected_rows(sandbox.world, name, first, last))
    window = (
        (midnight(2025, 11, 10), midnight(2025, 11, 13) - timedelta(seconds=1))
        if name in EVENTS
        else ()
    )
    rows = sandbox.rows(name, *window, limit=40, **sandbox.catalogue[name].parameters)
    assert sorted(rows, key=str) == sorted(expected, key=str)
    assert len(rows) == sandbox.world.count(name, first, last)


def test_referenced_rows_exist(sandbox: Any) -> None:
    snapshots = {
        name: {row["id"]: row for row in sandbox.rows(name)}
        for name in COLLECTIONS
        if name not in EVENTS
    }
    for row in snapshots["numbers"].values():
        assert (
            snapshots["recipients"][row["recipient"]["id"]]["number"] == row["recipient"]["number"]
        )
        assert row["number"] in snapshots["pools"][row["pool"]["id"]]["numbers"]
    for name in EVENTS:
        assert {row["account"]["id"] for row in some_rows(sandbox, name)} <= snapshots[
            "accounts"
        ].keys()
    assert {row["number"]["id"] for row in some_rows(sandbox, "calls")} <= snapshots[
        "numbers"
    ].keys()
    assert {row["email_tracker"]["id"] for row in some_rows(sandbox, "emails")} <= snapshots[
        "email_trackers"
    ].keys()


def test_calls_visits_conversions_and_leads_are_consistent(sandbox: Any) -> None:
    # five days without a clock change, so that local times can be compared as text
    window = midnight(2025, 11, 10), midnight(2025, 11, 15) - timedelta(seconds=1)
    calls, visits, conversions, emails, leads = (
        {
            row["id"]: row
            for row in sandbox.rows(name, *window, **sandbox.catalogue[name].parameters)
        }
        for name in EVENTS
    )
    from_visits = [call for call in calls.values() if call["visit"]]
    assert len(from_visits) > 100
    for call in from_visits:
        visit = visits[call["visit"]["id"]]
        assert visit["call"] == {"id": call["id"]}
        assert visit["account"] == call["account"]
        assert visit["created_at"] <= call["start_at"]
    assert sum(1 for visit in visits.values() if visit["call"]) == len(from_visits)
    for call in calls.values():
        length = datetime.fromisoformat(call["end_at"]) - datetime.fromisoformat(call["start_at"])
        assert length.total_seconds() == call["duration"]
        assert (call["status"] in {"missed", "busy"}) is (call["duration"] == 0)
    for conversion in conversions.values():
        call = calls[conversion["call"]["id"]]
        assert conversion["visit"] == call["visit"]
        assert conversion["created_at"] >= call["start_at"]
    for lead in leads.values():
        if lead["type"] == "call":
            source = calls[lead["call"]["id"]]
            assert lead["email"] is None
            assert lead["contact"]["phone"] == source["caller_number"]
            assert lead["created_at"] >= min(
                source["end_at"], f"{source['start_at'][:10]} 23:59:59"
            )
        else:
            source = emails[lead["email"]["id"]]
            assert lead["call"] is None
            assert lead["contact"]["email"] == source["from"]
            assert lead["created_at"] >= source["created_at"]
        assert lead["account"] == source["account"]
    assert {lead["type"] for lead in leads.values()} == {"call", "email"}


def test_offices_are_busy_on_weekdays_and_closed_at_night(sandbox: Any) -> None:
    calls = list(expected_rows(sandbox.world, "calls", date(2025, 9, 1), date(2025, 9, 28)))
    hours = Counter(row["start_at"][11:13] for row in calls)
    days = Counter(datetime.fromisoformat(row["start_at"]).weekday() for row in calls)
    assert hours["10"] > 20 * hours["03"]
    assert days[0] > 2 * days[6] > 0
    assert 0.1 < sum(row["status"] == "missed" for row in calls) / len(calls) < 0.35


@pytest.mark.parametrize("name", ["calls", "visits"])
def test_the_autumn_day_has_25_hours_and_two_oclock_twice(sandbox: Any, name: str) -> None:
    rows = sandbox.rows(name, midnight(2025, 10, 26), midnight(2025, 10, 27) - timedelta(seconds=1))
    moment = "start_at" if name == "calls" else "created_at"
    assert {row[moment][:10] for row in rows} == {"2025-10-26"}
    first, second = (
        sandbox.rows(
            name,
            datetime(2025, 10, 26, hour, tzinfo=UTC),
            datetime(2025, 10, 26, hour, 59, 59, tzinfo=UTC),
        )
        for hour in (0, 1)
    )
    assert (
        {row[moment][:13] for row in first}
        == {row[moment][:13] for row in second}
        == {"2025-10-26 02"}
    )
    assert not {row["id"] for row in first} & {row["id"] for row in second}
    if name == "calls":
        assert {int(row[moment][11:13]) for row in rows} == set(range(24))
        assert (
            sandbox.server.world._days._plans.hours(date(2025, 10, 26))[2:4]
            == [("2025-10-26 02:", 2)] * 2
        )


@pytest.mark.parametrize("name", ["calls", "visits"])
def test_the_spring_day_has_23_hours_and_no_two_oclock(sandbox: Any, name: str) -> None:
    rows = sandbox.rows(name, midnight(2025, 3, 30), midnight(2025, 3, 31) - timedelta(seconds=1))
    moment = "start_at" if name == "calls" else "created_at"
    assert {row[moment][:10] for row in rows} == {"2025-03-30"}
    assert "02" not in {row[moment][11:13] for row in rows}
    at_one = sandbox.rows(
        name, datetime(2025, 3, 30, 1, tzinfo=UTC), datetime(2025, 3, 30, 1, 59, 59, tzinfo=UTC)
    )
    assert {row[moment][:13] for row in at_one} == {"2025-03-30 03"}
    if name == "calls":
        assert {int(row[moment][11:13]) for row in rows} == set(range(24)) - {2}


DIGESTS = """
import hashlib, json
from datetime import date
from magnetis_dagster.sandbox import SandboxOptions, World
from sandbox_rows import expected_rows
world = World(SandboxOptions(seed=5))
for name in ("numbers", "sms_alerts", "calls", "visits", "conversions", "emails", "leads"):
    rows = list(expected_rows(world, name, date(2025, 3, 29), date(2025, 3, 31)))
    print(name, len(rows), hashlib.sha256(json.dumps(rows).encode()).hexdigest())
"""


def digests(hash_seed: int) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        env=os.environ
        | {
            "PYTHONHASHSEED": str(hash_seed),
            "TZ": "Asia/Tokyo",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def test_equal_seeds_give_equal_rows_in_any_process() -> None:
    assert digests(1) == digests(2) != ""


def test_other_seeds_give_other_rows() -> None:
    first, second = (
        list(
            expected_rows(
                World(SandboxOptions(seed=seed)), "calls", date(2025, 3, 3), date(2025, 3, 3)
            )
        )
        for seed in (1, 2)
    )
    assert not {row["id"] for row in first} & {row["id"] for row in second}


def test_no_event_before_the_first_day() -> None:
    world = World(
        SandboxOptions(
            first_day=date(2025, 5, 2), clock=lambda: datetime(2025, 5, 3, 20, tzinfo=UTC)
        )
    )
    assert (
        world.count("calls")
        == world.count("calls", date(2020, 1, 1))
        == len(list(expected_rows(world, "calls")))
        > 0
    )
    assert world.count("visits", date(2025, 5, 1), date(2025, 5, 1)) == 0
