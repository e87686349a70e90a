"""The views `magnetis.<collection>_current`, and the index that finds a caller's next call."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from parsed_rows import read_row
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.warehouse import Warehouse
from magnetis_dagster.warehouse.foreign_objects import ForeignObject
from magnetis_dagster.warehouse.migrate import drop_columns, migrate
from magnetis_dagster.warehouse.views import ViewInUse

Query = Callable[..., list[Any]]
DAY = date(2025, 3, 30)
"""At 2:00 the clocks of Paris are set forward."""
PARIS = ZoneInfo("Europe/Paris")
ACCOUNT = {"id": "a1", "name": "Agence Nord", "network": {"id": "n1"}}


def call(number: int, at: str = "10:00:00", **members: Any) -> dict[str, Any]:
    return {"id": f"c{number}", "start_at": f"{DAY} {at}", "account": {"id": "a1"}, **members}


@pytest.fixture
def hierarchy(load: Any) -> None:
    load("entities", [DAY], [{"id": "e1", "name": "Groupe"}])
    load("networks", [DAY], [{"id": "n1", "name": "Réseau", "entity": {"id": "e1"}}])
    load("accounts", [DAY], [ACCOUNT])


@pytest.mark.usefixtures("hierarchy")
def test_views_add_the_names_of_account_network_and_entity(load: Any, query: Query) -> None:
    load(
        "calls",
        [DAY],
        [
            call(1),
            call(2, account={"id": "a1", "name": "As received"}),
            call(3, account={"id": "unknown"}),
        ],
    )
    names = "account_name, network_name, entity_name"
    assert query(f"SELECT id, {names} FROM magnetis.calls_current ORDER BY id") == [
        ("c1", "Agence Nord", "Réseau", "Groupe"),
        ("c2", "As received", "Réseau", "Groupe"),
        ("c3", None, None, None),
    ]
    assert query("SELECT network_name, entity_name FROM magnetis.accounts_current") == [
        ("Réseau", "Groupe")
    ]
    assert query("SELECT name, entity_name FROM magnetis.networks_current") == [
        ("Réseau", "Groupe")
    ]
    assert query("SELECT id, account_id FROM magnetis.accounts") == [("a1", "a1")]
    assert query("SELECT DISTINCT account_id FROM magnetis.accounts_history") == [("a1",)]


def test_views_omit_deleted_rows_and_payloads_and_add_local_times(load: Any, query: Query) -> None:
    load("calls", [DAY], [call(1, "01:30:00", end_at=f"{DAY} 03:10:00"), call(2)])
    load("calls", [DAY], [call(1, "01:30:00", end_at=f"{DAY} 03:10:00")])
    shown = query(
        "SELECT id, occurred_at::text, occurred_at_local::text, ended_at_local::text "
        "FROM magnetis.calls_current"
    )
    assert shown == [("c1", "2025-03-30 00:30:00+00", "2025-03-30 01:30:00", "2025-03-30 03:10:00")]
    columns = {
        name
        for (name,) in query(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'magnetis.calls_current'::regclass"
        )
    }
    assert columns >= {"id", "account_id", "day", "caller_number", "first_seen_at", "changed_at"}
    assert not columns & {"payload", "deleted_at"}


def test_local_times_are_those_of_the_configured_zone(
    engine: Engine, catalogue: Catalogue, load: Any, query: Query
) -> None:
    load("calls", [DAY], [call(1, "10:00:00")])
    assert migrate(engine, catalogue, zone=ZoneInfo("America/Martinique")) is True
    assert migrate(engine, catalogue, zone=ZoneInfo("America/Martinique")) is False
    assert query("SELECT occurred_at_local::text FROM magnetis.calls_current") == [
        ("2025-03-30 04:00:00",)
    ]


@pytest.fixture
def overlaid(engine: Engine, tmp_path: Path) -> Callable[[str], Catalogue]:
    def overlaid(overlay: str) -> Catalogue:
        path = tmp_path / "overlay.yaml"
        path.write_text(overlay)
        catalogue = load_catalogue(path)
        migrate(engine, catalogue)
        return catalogue

    return overlaid


CRM = (
    "collections: {calls: {columns: {crm: {paths: [crm]}, seen: {type: timestamp, paths: [seen]}}}}"
)


def test_an_overlay_extends_the_view_and_preserves_grants_and_dependent_views(
    engine: Engine, query: Query, overlaid: Callable[[str], Catalogue]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("GRANT SELECT ON magnetis.calls_current TO PUBLIC"))
        connection.execute(
            text("CREATE VIEW public.mine AS SELECT id, account_name FROM magnetis.calls_current")
        )
    overlaid(CRM)
    overlaid("{}")
    overlaid("collections: {accounts: {columns: {name: null, network_name: null}}}")
    overlaid("collections: {calls: {columns: {network_name: {paths: [region]}}}}")
    assert query("SELECT crm, seen, seen_local FROM magnetis.calls_current") == []
    assert query("SELECT has_table_privilege('public', 'magnetis.calls_current', 'SELECT')") == [
        (True,)
    ]
    assert query("SELECT * FROM public.mine") == []


def test_dropping_columns_recreates_the_view_with_its_grants(
    engine: Engine, catalogue: Catalogue, query: Query, overlaid: Callable[[str], Catalogue]
) -> None:
    overlaid(CRM)
    migrate(engine, catalogue)
    with engine.begin() as connection:
        connection.execute(text("GRANT SELECT ON magnetis.calls_current TO PUBLIC"))
        connection.execute(text("CREATE VIEW public.mine AS SELECT id FROM magnetis.calls_current"))
    with pytest.raises(
        ViewInUse,
        match=r"magnetis\.calls_current must be recreated, but it is used by the view public\.mine",
    ):
        drop_columns(engine, catalogue)
    assert query("SELECT crm FROM magnetis.calls_current") == []
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW public.mine"))
    assert [str(column) for column in drop_columns(engine, catalogue)] == [
        "magnetis.calls.crm",
        "magnetis.calls.seen",
    ]
    assert query("SELECT has_table_privilege('public', 'magnetis.calls_current', 'SELECT')") == [
        (True,)
    ]
    with pytest.raises(Exception, match="crm"):
        query("SELECT crm FROM magnetis.calls_current")


def test_a_view_of_somebody_else_is_not_replaced(
    engine: Engine, catalogue: Catalogue, query: Query, overlaid: Callable[[str], Catalogue]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW magnetis.pools_current"))
        connection.execute(text("CREATE VIEW magnetis.pools_current AS SELECT 1 AS mine"))
    with pytest.raises(ForeignObject, match=r"did not create view magnetis\.pools_current"):
        overlaid(CRM)
    assert query("SELECT mine FROM magnetis.pools_current") == [(1,)]


NEXT_CALLS = """
    SELECT count(next_call), count(*) FROM (
        SELECT (SELECT min(later.occurred_at) FROM magnetis.calls_current AS later
                WHERE later.caller_number = c.caller_number
                  AND later.occurred_at > c.occurred_at) AS next_call
        FROM magnetis.calls_current AS c WHERE c.status = 'missed') AS missed
"""


def test_the_next_call_of_a_caller_is_found_by_the_index(engine: Engine, query: Query) -> None:
    """Without the index, each missed call scans the table: over 60 s for 126,000 calls."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO magnetis.calls (id, payload, occurred_at, day, first_seen_at, "
                "last_seen_at, changed_at, status, caller_number) "
                "SELECT n, '{}', at, at::date, at, at, at, 'missed', 'caller ' || n % 500 "
                "FROM generate_series(1, 5000) AS n, "
                "LATERAL (SELECT timestamptz '2025-01-01Z' + n * interval '1 minute') AS m(at)"
            )
        )
        connection.execute(text("ANALYZE magnetis.calls"))
    plan = "\n".join(line for (line,) in query(f"EXPLAIN {NEXT_CALLS}"))
    assert "ix_calls_caller_number_occurred_at" in plan
    assert query(NEXT_CALLS) == [(4_500, 5_000)]


def test_a_value_too_long_for_an_index_becomes_null_and_stays_in_the_payload(
    load: Any, query: Query
) -> None:
    load("calls", [DAY], [call(1, caller_number="é" * 128), call(2, caller_number="9" * 5000)])
    found = query(
        "SELECT id, length(caller_number), length(payload ->> 'caller_number') "
        "FROM magnetis.calls ORDER BY id"
    )
    assert found == [("c1", 128, 128), ("c2", None, 5000)]


def test_indexed_text_that_is_too_long_does_not_fit_its_column(catalogue: Catalogue) -> None:
    reader = RowParser(catalogue["calls"], response_zone=PARIS, partition_zone=PARIS)
    assert read_row(reader, call(1, caller_number="9" * 129)).misfits == ("caller_number",)
    assert read_row(reader, call(1, caller_name="9" * 129)).misfits == ()


@pytest.mark.usefixtures("hierarchy")
def test_accounts_of_an_earlier_version_get_their_own_id(
    engine: Engine, warehouse: Warehouse, query: Query
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE magnetis.accounts SET account_id = NULL"))
        connection.execute(text("UPDATE magnetis_ops.alembic_version SET version_num = '0004'"))
        connection.execute(
            text("UPDATE magnetis_ops.schema_state SET digest = 'of an earlier version'")
        )
    warehouse.prepare()
    assert query("SELECT account_id FROM magnetis.accounts") == [("a1",)]


def test_a_value_stored_by_an_earlier_version_does_not_prevent_the_index(
    engine: Engine, catalogue: Catalogue
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX magnetis.ix_calls_caller_number_occurred_at"))
        connection.execute(text("DELETE FROM magnetis_ops.schema_state WHERE name = 'catalogue'"))
        connection.execute(
            text(
                "INSERT INTO magnetis.calls "
                "(id, payload, occurred_at, day, caller_number, first_seen_at, last_seen_at, "
                "changed_at) "
                "SELECT id, '{}', now(), current_date, number, now(), now(), now() "
                "FROM (VALUES ('short', '1'), ('long', (SELECT string_agg(md5(each::text), '') "
                "FROM generate_series(1, 300) AS each))) AS call (id, number)"
            )
        )
    assert migrate(engine, catalogue)
    with engine.connect() as connection:
        numbers = connection.execute(
            text("SELECT id, caller_number FROM magnetis.calls ORDER BY id")
        )
        assert [tuple(row) for row in numbers] == [("long", None), ("short", "1")]
        index = text(
            "SELECT to_regclass('magnetis.ix_calls_caller_number_occurred_at') IS NOT NULL"
        )
        assert connection.execute(index).scalar_one()
