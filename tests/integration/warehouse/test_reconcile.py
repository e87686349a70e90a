"""Recorded counts compared with rows: equal after every load, and reported by day if not."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from protected import PROTECTION
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.warehouse import DayDifference, Warehouse
from magnetis_dagster.warehouse.reparse import reparse

PARIS = ZoneInfo("Europe/Paris")
DAY = date(2025, 3, 28)
NEXT = DAY + timedelta(days=1)
Load = Callable[..., Any]


def call(number: int, day: date = DAY, **members: Any) -> dict[str, Any]:
    return {"id": f"c{number}", "start_at": f"{day} 10:00:00", **members}


@pytest.fixture
def execute(engine: Engine) -> Callable[[str], None]:
    def execute(statement: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(statement))

    return execute


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 1", []),
        ("DELETE FROM magnetis.calls WHERE id = 'c1'", [DayDifference(DAY, 2, 1)]),
        (
            "UPDATE magnetis.calls SET deleted_at = now() WHERE day = '2025-03-29'",
            [DayDifference(NEXT, 1, 0)],
        ),
        (
            "UPDATE magnetis.calls SET day = '2025-03-01' WHERE id = 'c1'",
            [DayDifference(date(2025, 3, 1), 0, 1), DayDifference(DAY, 2, 1)],
        ),
        (
            "INSERT INTO magnetis_ops.strays VALUES ('calls', '2025-03-02', 3)",
            [DayDifference(date(2025, 3, 2), 3, 0)],
        ),
        (
            "INSERT INTO magnetis_ops.strays VALUES ('calls', '2025-03-29', 1)",
            [DayDifference(NEXT, 2, 1)],
        ),
        (
            (
                "UPDATE magnetis_ops.days SET held = 7 "
                "WHERE day = '2025-03-28' AND collection = 'calls'"
            ),
            [DayDifference(DAY, 7, 2)],
        ),
        (
            "DELETE FROM magnetis_ops.days WHERE day = '2025-03-28' AND collection = 'calls'",
            [DayDifference(DAY, 0, 2)],
        ),
    ],
)
def test_events_are_compared_by_day(
    warehouse: Warehouse,
    load: Load,
    execute: Callable[[str], None],
    statement: str,
    expected: list[DayDifference],
) -> None:
    load("calls", [DAY, NEXT], [call(1), call(2), call(3, NEXT)])
    load("visits", [DAY], [call(1)])
    execute(statement)
    calls = warehouse.catalogue["calls"]
    assert warehouse.reconcile(calls) == expected
    for day in (DAY, NEXT):
        assert warehouse.reconcile(calls, [day]) == [each for each in expected if each.day == day]
    assert warehouse.reconcile(warehouse.catalogue["visits"]) == []


def test_the_newest_snapshot_is_compared(
    warehouse: Warehouse, load: Load, execute: Callable[[str], None]
) -> None:
    pools = warehouse.catalogue["pools"]
    assert warehouse.reconcile(pools) == []
    load("pools", [DAY], [{"id": "a"}, {"id": "b"}])
    load("pools", [NEXT], [{"id": "a"}])
    assert warehouse.reconcile(pools) == []
    execute("UPDATE magnetis.pools SET deleted_at = NULL")
    assert warehouse.reconcile(pools) == [DayDifference(NEXT, 1, 2)]


def test_rows_on_days_without_a_complete_read_are_counted(
    warehouse: Warehouse, load: Load, execute: Callable[[str], None]
) -> None:
    load("calls", [DAY], [call(1), call(2)])
    execute("UPDATE magnetis.calls SET day = '2025-03-01' WHERE id = 'c1'")
    execute(
        "UPDATE magnetis_ops.days SET held = 1; "
        "INSERT INTO magnetis_ops.strays VALUES ('calls', '2025-03-01', 1)"
    )
    assert warehouse.reconcile(warehouse.catalogue["calls"]) == []
    assert warehouse.count_rows(warehouse.catalogue["calls"]) == 2


def test_a_reparse_moves_counts_with_the_rows_and_corrects_wrong_counts(
    engine: Engine, load: Load, query: Any, execute: Callable[[str], None], tmp_path: Path
) -> None:
    load(
        "calls",
        [DAY, NEXT],
        [
            call(1, rang_at="2025-03-29 09:00:00"),
            call(2, rang_at="2025-03-01 09:00:00"),
            call(3, NEXT),
        ],
    )
    load("visits", [DAY], [call(1)])
    path = tmp_path / "overlay.yaml"
    path.write_text("collections: {calls: {time_fields: [rang_at, start_at]}}")
    moved = Warehouse(
        engine,
        load_catalogue(path),
        response_zone=PARIS,
        partition_zone=PARIS,
        protection=PROTECTION,
    )
    calls = moved.catalogue["calls"]
    counts = (
        "SELECT day::text, held, false FROM magnetis_ops.days WHERE collection = 'calls' "
        "UNION SELECT day::text, held, true FROM magnetis_ops.strays ORDER BY 1"
    )
    expected = [("2025-03-01", 1, True), ("2025-03-28", 0, False), ("2025-03-29", 2, False)]
    for spoilt in (
        "SELECT 1",
        "UPDATE magnetis_ops.days SET held = 9 WHERE collection = 'calls'",
        (
            "UPDATE magnetis_ops.strays SET held = 9; "
            "INSERT INTO magnetis_ops.strays VALUES ('calls', '2024-01-01', 4)"
        ),
        "TRUNCATE magnetis_ops.strays",
    ):
        execute(spoilt)
        reparse(moved, calls)
        assert query(counts) == expected
        assert moved.reconcile(calls) == []
    back = Warehouse(
        engine, load_catalogue(), response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
    )
    reparse(back, back.catalogue["calls"])
    assert query(counts) == [("2025-03-28", 2, False), ("2025-03-29", 1, False)]
    assert back.reconcile(back.catalogue["visits"]) == []
