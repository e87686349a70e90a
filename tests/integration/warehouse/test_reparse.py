"""Columns refilled from the payload after the catalogue changed, without requests."""

from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from protected import PROTECTION
from sqlalchemy import Engine

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.warehouse import Warehouse, WindowFacts
from magnetis_dagster.warehouse.reparse import BATCH, reparse

PARIS = ZoneInfo("Europe/Paris")
DAY = date(2025, 3, 28)


def overlaid(engine: Engine, tmp_path: Path, text: str) -> Warehouse:
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    return Warehouse(
        engine,
        load_catalogue(path),
        response_zone=PARIS,
        partition_zone=PARIS,
        protection=PROTECTION,
    )


def test_a_new_column_is_filled_and_nothing_else_changes(
    engine: Engine, load: Any, query: Any, tmp_path: Path
) -> None:
    load(
        "calls",
        [DAY],
        [
            {"id": f"c{n}", "start_at": "2025-03-28 10:00:00", "custom": {"ref": f"R{n}"}}
            for n in range(BATCH + 3)
        ],
    )
    before = query("SELECT id, changed_at, payload FROM magnetis.calls ORDER BY id LIMIT 5")
    warehouse = overlaid(
        engine, tmp_path, "collections: {calls: {columns: {our_reference: {paths: [custom.ref]}}}}"
    )
    seen: list[int] = []
    done = reparse(warehouse, warehouse.catalogue["calls"], seen.append)
    assert (done.read, done.updated, done.misfits) == (BATCH + 3, BATCH + 3, 0)
    assert seen == [BATCH, BATCH + 3]
    assert query("SELECT our_reference FROM magnetis.calls WHERE id = 'c7'") == [("R7",)]
    assert query("SELECT id, changed_at, payload FROM magnetis.calls ORDER BY id LIMIT 5") == before
    assert reparse(warehouse, warehouse.catalogue["calls"]).updated == 0


def test_events_move_to_the_day_of_another_time_field(
    engine: Engine, load: Any, query: Any, tmp_path: Path
) -> None:
    load(
        "calls",
        [DAY],
        [{"id": "c", "start_at": "2025-03-28 10:00:00", "rang_at": "2025-03-27 23:59:00"}],
    )
    warehouse = overlaid(engine, tmp_path, "collections: {calls: {time_fields: [rang_at]}}")
    reparse(warehouse, warehouse.catalogue["calls"])
    assert query("SELECT day::text FROM magnetis.calls") == [("2025-03-27",)]
    assert query("SELECT day::text, held FROM magnetis_ops.days") == [("2025-03-28", 0)]
    assert query("SELECT day::text, held FROM magnetis_ops.strays") == [("2025-03-27", 1)]


def test_columns_may_have_names_that_are_sql_keywords(
    engine: Engine, load: Any, query: Any, tmp_path: Path
) -> None:
    load("calls", [DAY], [{"id": "c", "start_at": "2025-03-28 10:00:00", "order": "o", "at": "a"}])
    load("pools", [DAY], [{"id": "p", "group": "g"}])
    more = (
        "collections: {calls: {columns: {order: {}, at: {}}}, "
        "pools: {columns: {group: {}, user: {}}}}"
    )
    warehouse = overlaid(engine, tmp_path, more)
    assert reparse(warehouse, warehouse.catalogue["calls"]).updated == 1
    assert reparse(warehouse, warehouse.catalogue["pools"]).updated == 2
    assert query('SELECT "order", at FROM magnetis.calls') == [("o", "a")]
    with warehouse.staging(warehouse.catalogue["pools"]) as staging:
        staging.add([{"id": "p", "group": "h"}])
        staging.deduplicate()
        warehouse.commit(staging, WindowFacts([DAY], warehouse.now(), 1, 1, 1, 0, 0, "test", DAY))
    assert query('SELECT "group" FROM magnetis.pools_history ORDER BY valid_from') == [
        ("g",),
        ("h",),
    ]


def test_the_history_is_filled_too(engine: Engine, load: Any, query: Any, tmp_path: Path) -> None:
    load("pools", [DAY], [{"id": "p", "name": "a", "region": 1}])
    load("pools", [DAY], [{"id": "p", "name": "a", "region": 2}])
    warehouse = overlaid(
        engine, tmp_path, "collections: {pools: {columns: {region: {type: integer}}}}"
    )
    assert reparse(warehouse, warehouse.catalogue["pools"]).updated == 3
    assert query("SELECT region FROM magnetis.pools_history ORDER BY valid_from") == [(1,), (2,)]
