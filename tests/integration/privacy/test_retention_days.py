"""Retention masks each value once it is old enough, whenever it was loaded."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, PersonalData
from magnetis_dagster.warehouse import Warehouse
from magnetis_dagster.warehouse.reparse import reparse
from magnetis_dagster.warehouse.retention import overdue, retain, retain_collection

Load = Callable[..., Any]
WarehouseOf = Callable[..., Warehouse]
START = date(2025, 1, 10)
PLAN = {
    "payload": {"mask_after": "20 days"},
    "classes": {
        "caller_number": {"mask_after": "60 days since last contact", "mask_to": "hash"},
        "contact": {"mask_after": "60 days since last contact"},
        "visitor": {"mask_after": "10 days"},
        "recording_link": {"mask_after": "5 days"},
    },
}


def call(id_: str, day: date, number: str = "+33612345678", **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "start_at": f"{day} 10:00:00",
        "caller": {"number": number, "name": "Zoé"},
        "gclid": "click",
        "recording_url": "https://example.com/1",
        **more,
    }


def set_to(clock: Any, day: date) -> None:
    clock.set(datetime.combine(day, time(12), UTC))


@pytest.fixture
def rows(engine: Engine) -> Callable[[], dict[str, tuple[Any, ...]]]:
    def rows() -> dict[str, tuple[Any, ...]]:
        statement = (
            "SELECT id, caller_number, caller_name, gclid, payload ->> 'recording_url', "
            "payload ->> 'gclid', caller_key IS NOT NULL FROM magnetis.calls"
        )
        with engine.connect() as connection:
            return {row[0]: tuple(row)[1:] for row in connection.execute(text(statement))}

    return rows


CLEAR = ("+33612345678", "Zoé", "click", "https://example.com/1", "click", True)


def test_each_class_is_masked_at_its_own_age(
    warehouse_of: WarehouseOf, load: Load, clock: Any, rows: Callable[[], Any]
) -> None:
    warehouse = warehouse_of(PLAN)
    set_to(clock, START)
    load(warehouse, "calls", [START], [call("c", START)])
    expected = {
        0: CLEAR,
        4: CLEAR,
        5: ("+33612345678", "Zoé", "click", None, "click", True),
        10: ("+33612345678", "Zoé", None, None, None, True),
        20: ("+33612345678", "Zoé", None, None, None, True),
        59: ("+33612345678", "Zoé", None, None, None, True),
        60: (None, None, None, None, None, True),
    }
    calls = warehouse.catalogue["calls"]
    for age, row in expected.items():
        set_to(clock, START + timedelta(days=age))
        retain(warehouse)
        assert rows()["c"] == row, age
        assert overdue(warehouse, calls) == {}
        # what the API still returns is masked in the same way, and did not change
        [day] = load(warehouse_of(PLAN), "calls", [START], [call("c", START)]).days
        assert (day.inserted, day.changed) == (0, 0), age
        assert rows()["c"] == row, age


def test_a_later_call_keeps_the_person(
    warehouse_of: WarehouseOf, load: Load, clock: Any, rows: Callable[[], Any]
) -> None:
    warehouse, later = warehouse_of(PLAN), START + timedelta(days=50)
    set_to(clock, later)
    load(warehouse, "calls", [later], [call("new", later, "06 12 34 56 78")])
    load(warehouse, "calls", [START], [call("old", START), call("else", START, "+33698765432")])
    set_to(clock, START + timedelta(days=70))
    retain(warehouse)
    assert rows()["old"][:2] == ("+33612345678", "Zoé")
    assert rows()["else"][:2] == (None, None)
    # on arrival, too
    load(warehouse, "calls", [START + timedelta(days=1)], [call("old2", START + timedelta(days=1))])
    assert rows()["old2"][:2] == ("+33612345678", "Zoé")
    set_to(clock, later + timedelta(days=60))
    retain(warehouse)
    assert {row[:2] for row in rows().values()} == {(None, None)}


def test_overdue_values_are_counted_by_class(
    warehouse_of: WarehouseOf, load: Load, clock: Any, engine: Engine
) -> None:
    warehouse = warehouse_of(PLAN)
    set_to(clock, START)
    load(warehouse, "calls", [START], [call("c", START), call("d", START)])
    set_to(clock, START + timedelta(days=11))
    calls = warehouse.catalogue["calls"]
    assert overdue(warehouse, calls) == {PersonalData.VISITOR: 2}
    retain(warehouse)
    assert overdue(warehouse, calls) == {}
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE magnetis.calls SET gclid = 'x', masked = NULL WHERE id = 'c'")
        )
    assert overdue(warehouse, calls) == {PersonalData.VISITOR: 1}


def test_a_stricter_plan_masks_stored_rows(
    warehouse_of: WarehouseOf, load: Load, rows: Callable[[], Any], catalogue: Catalogue
) -> None:
    day = date.today() - timedelta(days=1)  # noqa: DTZ011 - a recent day
    load(warehouse_of(), "calls", [day], [call("c", day)])
    retain(warehouse_of())
    stricter = warehouse_of({"classes": {"caller_number": {"on_arrival": "hash"}}})
    result = retain_collection(stricter, catalogue["calls"])
    assert (result.is_complete_pass, result.masked.changed) == (True, 1)
    assert rows()["c"][0] is None
    assert rows()["c"][-1] is True
    again = retain_collection(stricter, catalogue["calls"])
    assert (again.is_complete_pass, again.masked.read) == (False, 0)


def test_rows_of_an_earlier_version_get_caller_keys(
    warehouse_of: WarehouseOf, load: Load, rows: Callable[[], Any], engine: Engine
) -> None:
    day = date.today() - timedelta(days=1)  # noqa: DTZ011 - a recent day
    warehouse = warehouse_of()
    load(warehouse, "calls", [day], [call(f"c{number}", day) for number in range(5)])
    with engine.begin() as connection:
        connection.execute(text("UPDATE magnetis.calls SET caller_key = NULL"))
    retain(warehouse)
    assert all(row[-1] for row in rows().values())


def test_versions_of_settings_are_masked_by_their_end(
    warehouse_of: WarehouseOf, load: Load, clock: Any, engine: Engine
) -> None:
    plan = {"classes": {"staff_recipient": {"mask_after": "30 days"}}}
    warehouse = warehouse_of(plan)
    set_to(clock, START)
    for title in ("a", "b"):
        load(
            warehouse,
            "email_alerts",
            [START],
            [{"id": "1", "title": title, "recipients": ["x@exemple.fr"]}],
        )
    # the fixture `load` reads in 2024, so the first version ended more than 30 days ago
    retain(warehouse)
    with engine.connect() as connection:
        versions = connection.execute(
            text(
                "SELECT payload ->> 'title', payload -> 'recipients' = 'null' "
                "FROM magnetis.email_alerts_history ORDER BY valid_from"
            )
        )
        assert [tuple(row) for row in versions] == [("a", True), ("b", False)]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    runs=st.lists(st.integers(0, 90), max_size=5), loads=st.lists(st.integers(0, 90), max_size=3)
)
def test_skipped_and_repeated_runs_mask_the_same(
    warehouse_of: WarehouseOf,
    load: Load,
    clock: Any,
    rows: Callable[[], Any],
    engine: Engine,
    runs: list[int],
    loads: list[int],
) -> None:
    days = [START + timedelta(days=number) for number in (0, 7, 33)]
    received = {day: [call(f"c{day}", day), call(f"d{day}", day, "anonymous")] for day in days}

    def finish(moments: list[tuple[int, str]]) -> Any:
        with engine.begin() as connection:
            for table in ("magnetis.calls", "magnetis_ops.days", "magnetis_ops.day_reads"):
                connection.execute(text(f"DELETE FROM {table}"))
            connection.execute(text("DELETE FROM magnetis_ops.retention"))
        warehouse = warehouse_of(PLAN)
        set_to(clock, days[-1])
        for day in days:
            load(warehouse, "calls", [day], received[day])
        for age, what in sorted(moments):
            set_to(clock, days[-1] + timedelta(days=age))
            if what == "retain":
                retain(warehouse)
            else:
                for day in days:
                    [merged] = load(warehouse, "calls", [day], received[day]).days
                    assert merged.changed == merged.inserted == 0
        set_to(clock, days[-1] + timedelta(days=95))
        retain(warehouse)
        return rows()

    moments = [(age, "retain") for age in runs] + [(age, "load") for age in loads]
    assert finish(moments) == finish([])


def test_ages_that_coincide_on_some_days(
    warehouse_of: WarehouseOf, load: Load, clock: Any, rows: Callable[[], Any]
) -> None:
    plan = {
        "classes": {"visitor": {"mask_after": "30 days"}, "free_text": {"mask_after": "1 month"}}
    }
    warehouse = warehouse_of(plan)
    set_to(clock, START)
    load(warehouse, "calls", [START], [call("c", START)])
    for age in (5, 28, 29, 30, 31, 32, 59, 60, 61):
        set_to(clock, START + timedelta(days=age))
        retain(warehouse)
        assert (rows()["c"][2] is None) is (age >= 30)


def test_a_later_call_of_the_same_window_counts_as_contact(
    warehouse_of: WarehouseOf, load: Load, clock: Any, rows: Callable[[], Any]
) -> None:
    warehouse, later = warehouse_of(PLAN), START + timedelta(days=20)
    set_to(clock, START + timedelta(days=70))
    days = [START + timedelta(days=number) for number in range(21)]
    window = [call("old", START), call("new", later)]
    for _ in range(2):
        merged = load(warehouse, "calls", days, window)
        assert rows()["old"][:2] == ("+33612345678", "Zoé")
    assert sum(day.changed + day.inserted for day in merged.days) == 0


def test_reparse_keeps_columns_whose_text_is_masked_in_the_payload_only(
    warehouse_of: WarehouseOf, load: Load, clock: Any, engine: Engine
) -> None:
    warehouse = warehouse_of({"payload": {"mask_after": "20 days"}})
    set_to(clock, START + timedelta(days=30))
    row = call("c", START) | {
        "caller": {"number": "+33612345678", "name": "Nantes"},
        "channel": {"name": "Nantes"},
        "account": {"id": "a", "name": "Agence Nantes"},
    }
    load(warehouse, "calls", [START], [row])
    statement = text(
        "SELECT caller_name, caller_number, account_name, channel, gclid FROM magnetis.calls"
    )
    with engine.connect() as connection:
        before = tuple(connection.execute(statement).one())
    assert before[:2] == ("Nantes", "+33612345678")
    reparse(warehouse, warehouse.catalogue["calls"])
    with engine.connect() as connection:
        assert tuple(connection.execute(statement).one()) == before
