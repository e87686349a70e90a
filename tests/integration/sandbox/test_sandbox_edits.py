"""Edits of rows are visible immediately and can be reversed."""

import sys
import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetis_dagster.sandbox import SandboxOptions, World

PARIS = ZoneInfo("Europe/Paris")
FIRST, SECOND, THIRD = (datetime(2025, 6, day, tzinfo=PARIS) for day in (3, 4, 5))


def ids(rows: list[Any]) -> list[str]:
    return [row["id"] for row in rows]


def test_an_edit_is_visible_immediately_and_keeps_the_order(fresh: Any) -> None:
    before = fresh.day("calls", FIRST, analysis=1)
    row = before[7]
    returned = fresh.world.edit("calls", row["id"], status="spam", added={"by": "a test"})
    after = fresh.day("calls", FIRST, analysis=1)
    assert after[7] == returned == row | {"status": "spam", "added": {"by": "a test"}}
    assert ids(after) == ids(before)
    assert "analysis" not in fresh.day("calls", FIRST)[7]
    fresh.world.edit("calls", row["id"], status="completed")
    assert fresh.day("calls", FIRST)[7]["added"] == {"by": "a test"}, (
        "a second edit keeps the first"
    )


@pytest.mark.parametrize("collection", ["calls", "leads"])
def test_an_event_moves_to_other_days_and_back(fresh: Any, collection: str) -> None:
    first, second, third = (fresh.day(collection, day) for day in (FIRST, SECOND, THIRD))
    row = first[3]
    moment = "start_at" if collection == "calls" else "created_at"
    for day in (SECOND, THIRD):
        fresh.world.edit(collection, row["id"], **{moment: f"{day:%Y-%m-%d} 12:00:00"})
        moved = fresh.day(collection, day)
        assert row | {moment: f"{day:%Y-%m-%d} 12:00:00"} in moved
        assert [each[moment] for each in moved] == sorted(
            (each[moment] for each in moved), reverse=True
        )
        counts = [len(fresh.day(collection, each)) for each in (FIRST, SECOND, THIRD)]
        assert counts == [
            len(first) - 1,
            len(second) + (day is SECOND),
            len(third) + (day is THIRD),
        ]
        assert counts == [
            fresh.world.count(collection, each.date(), each.date())
            for each in (FIRST, SECOND, THIRD)
        ]
    fresh.world.edit(collection, row["id"], **{moment: row[moment]})
    assert [fresh.day(collection, each) for each in (SECOND, THIRD)] == [second, third]
    assert sorted(fresh.day(collection, FIRST), key=str) == sorted(first, key=str)


@pytest.mark.parametrize("collection", ["calls", "emails", "numbers"])
def test_a_deleted_row_can_be_inserted_again(fresh: Any, collection: str) -> None:
    window = () if collection == "numbers" else (FIRST, SECOND - timedelta(seconds=1))
    more = fresh.catalogue[collection].parameters
    before = fresh.rows(collection, *window, **more)
    for _ in range(2):
        row = fresh.world.delete(collection, before[2]["id"])
        assert row == before[2]
        assert ids(fresh.rows(collection, *window)) == [
            each for each in ids(before) if each != row["id"]
        ]
        with pytest.raises(KeyError, match=row["id"]):
            fresh.world.delete(collection, row["id"])
        with pytest.raises(KeyError, match=row["id"]):
            fresh.world.edit(collection, row["id"], status="?")
        fresh.world.insert(collection, row)
        assert sorted(fresh.rows(collection, *window, **more), key=str) == sorted(before, key=str)


def test_snapshots_are_edited(fresh: Any) -> None:
    before = fresh.rows("numbers")
    fresh.world.edit("numbers", before[1]["id"], enabled=0)
    fresh.world.edit("numbers", before[1]["id"], name="Renamed")
    fresh.world.insert("numbers", {"id": "num-new"})
    expected = [
        {"id": "num-new"},
        before[0],
        before[1] | {"enabled": 0, "name": "Renamed"},
        *before[2:],
    ]
    assert fresh.rows("numbers") == expected == list(fresh.world.truth("numbers"))
    assert fresh.world.count("numbers") == len(before) + 1


def test_rows_in_any_form_can_be_inserted(fresh: Any) -> None:
    before = fresh.rows("calls", FIRST, SECOND)
    unusual = [
        {"created_at": "2025-06-03 10:00:00"},
        {"created_at": "2025-06-03 10:00:00", "id": None},
        {"id": 12, "start_at": "2025-06-03 10:00:00", "big": 2**70, "text": "\ud800\x00é"},
        {"id": before[0]["id"], "start_at": "2025-06-03T10:00:00Z"},
        {"id": before[0]["id"], "start_at": "2025-06-03T10:00:00Z"},
    ]
    for row in unusual:
        fresh.world.insert("calls", row)
    after = list(fresh.world.truth("calls", FIRST.date(), FIRST.date()))
    assert all(after.count(row) == unusual.count(row) for row in unusual)
    assert len(after) == len(fresh.world._days.make("calls", FIRST.date()).rows) + len(unusual)
    assert fresh.world.count("calls", FIRST.date(), FIRST.date()) == len(after)


def test_an_inserted_row_is_a_copy(fresh: Any) -> None:
    row = {"id": "call-mine", "start_at": "2025-06-03 10:00:00"}
    fresh.world.insert("calls", row)
    row["start_at"] = "2025-06-04 10:00:00"
    fresh.world.edit("calls", "call-mine", seen=1)
    assert fresh.world.delete("calls", "call-mine") == {
        "id": "call-mine",
        "start_at": "2025-06-03 10:00:00",
        "seen": 1,
    }


def test_a_time_with_a_zone_belongs_to_its_local_day(fresh: Any) -> None:
    fresh.world.insert("calls", {"id": "call-late", "start_at": "2025-06-03T22:30:00Z"})
    assert "call-late" in ids(fresh.day("calls", SECOND))
    assert "call-late" not in ids(fresh.day("calls", FIRST))


def test_an_edit_in_the_repeated_hour_stays_in_its_hour(fresh: Any) -> None:
    second_hour = (
        datetime(2025, 10, 26, 1, tzinfo=UTC),
        datetime(2025, 10, 26, 1, 59, 59, tzinfo=UTC),
    )
    row = fresh.rows("calls", *second_hour)[0]
    fresh.world.edit("calls", row["id"], status="seen")
    assert fresh.rows("calls", *second_hour)[0]["status"] == "seen"


@pytest.mark.parametrize(
    "change",
    [
        {"start_at": "no time"},
        {"start_at": "2001-01-01 10:00:00"},
        {"start_at": None},
        {"start_at": 5},
    ],
)
def test_an_invalid_edit_changes_nothing(fresh: Any, change: dict[str, Any]) -> None:
    before = fresh.day("calls", FIRST)
    with pytest.raises((ValueError, KeyError, TypeError)):
        fresh.world.edit("calls", before[0]["id"], **change)
    assert fresh.day("calls", FIRST) == before


@pytest.mark.parametrize("identifier", ["call-unknown", "", "call-zzzzzz", "call-ffffff", "é"])
def test_editing_a_row_that_does_not_exist_fails(fresh: Any, identifier: str) -> None:
    for collection in ("calls", "accounts"):
        with pytest.raises(KeyError):
            fresh.world.edit(collection, identifier, a=1)


def test_an_inserted_row_appears_at_its_time(open_sandbox: Any) -> None:
    now = [datetime(2025, 6, 3, 8, tzinfo=UTC)]
    sandbox = open_sandbox(clock=lambda: now[0])
    sandbox.world.insert("calls", {"id": "call-soon", "start_at": "2025-06-03 10:00:01"})
    assert "call-soon" not in ids(sandbox.rows("calls", FIRST, SECOND))
    now[0] += timedelta(seconds=1)
    assert ids(sandbox.rows("calls", FIRST, SECOND))[0] == "call-soon"


Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["edit", "move", "delete", "insert"]),
        st.integers(0, 200),
        st.integers(0, 86_399),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(sequence=steps)
def test_any_sequence_of_edits_matches_a_simple_model(sequence: list[Step]) -> None:
    world = World(
        SandboxOptions(accounts=2, calls_per_day=12, clock=lambda: datetime(2025, 6, 8, tzinfo=UTC))
    )
    days = date(2025, 6, 3), date(2025, 6, 5)
    model = {row["id"]: row for row in world.truth("calls", *days)}
    deleted: list[dict[str, Any]] = []
    for step, pick, second in sequence:
        moment = f"{datetime(2025, 6, 3 + pick % 3) + timedelta(seconds=second):%Y-%m-%d %H:%M:%S}"  # noqa: DTZ001
        if step == "insert" and deleted:
            row = deleted.pop()
            world.insert("calls", row)
            model[row["id"]] = row
        elif step != "insert" and model:
            identifier = sorted(model)[pick % len(model)]
            if step == "delete":
                deleted.append(world.delete("calls", identifier))
                assert deleted[-1] == model.pop(identifier)
            else:
                changes = {"start_at": moment} if step == "move" else {"status": moment}
                model[identifier] = world.edit("calls", identifier, **changes)
    rows = list(world.truth("calls", *days))
    assert sorted(rows, key=str) == sorted(model.values(), key=str)
    assert world.count("calls", *days) == len(model)
    for day in (3, 4, 5):
        times = [
            row["start_at"] for row in world.truth("calls", date(2025, 6, day), date(2025, 6, day))
        ]
        assert times == sorted(times, reverse=True)
        assert all(time.startswith(f"2025-06-0{day}") for time in times)


def test_a_page_is_consistent_during_concurrent_edits(fresh: Any) -> None:
    row, total = fresh.day("emails", FIRST)[0], len(fresh.day("emails", FIRST))
    stop = threading.Event()

    def edit_repeatedly() -> None:
        while not stop.is_set():
            fresh.world.insert("emails", fresh.world.delete("emails", row["id"]))

    writer = threading.Thread(target=edit_repeatedly)
    interval = sys.getswitchinterval()
    # switch threads within a page, which takes less than the default of 5 ms
    sys.setswitchinterval(1e-6)
    writer.start()
    try:
        seen = set()
        for _ in range(300):
            page = fresh.page("emails", from_="20250602220000", to="20250603215959")
            assert len(page["data"]) == page["meta"]["total"]
            seen.add(page["meta"]["total"])
    finally:
        stop.set()
        writer.join()
        sys.setswitchinterval(interval)
    assert seen == {total, total - 1}
