"""The columns of the views `magnetis_masked.<collection>`."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, PersonalData, load_catalogue
from magnetis_dagster.privacy.plan import load_plan
from magnetis_dagster.warehouse.foreign_objects import ForeignObject
from magnetis_dagster.warehouse.migrate import drop_columns, migrate
from magnetis_dagster.warehouse.views import ViewInUse

Query = Callable[..., list[Any]]
Overlaid = Callable[..., Catalogue]
DAY = date(2025, 3, 28)


def call(number: int, **members: Any) -> dict[str, Any]:
    return {"id": f"c{number}", "start_at": f"{DAY} 10:00:00", "account": {"id": "a1"}, **members}


@pytest.fixture
def columns(query: Query) -> Callable[[str], list[str]]:
    def columns(table: str) -> list[str]:
        return [
            name
            for (name,) in query(
                "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) "
                "AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                table=table,
            )
        ]

    return columns


@pytest.fixture
def overlaid(engine: Engine, tmp_path: Path) -> Overlaid:
    """Migrate with an overlay, and possibly the section `privacy`, as a connection."""

    def overlaid(overlay: str, connection_name: str = "magnetis") -> Catalogue:
        path = tmp_path / "overlay.yaml"
        path.write_text(overlay)
        catalogue = load_catalogue(path)
        plan = load_plan(path, catalogue)
        migrate(engine, catalogue, connection_name=connection_name, plan=plan)
        return catalogue

    return overlaid


@pytest.fixture
def migrated_again(engine: Engine, catalogue: Catalogue) -> Callable[[], None]:
    """Migrate as if the database had been created by another version."""

    def migrated_again() -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE magnetis_ops.schema_state SET digest = ''"))
        assert migrate(engine, catalogue)

    return migrated_again


def test_no_view_has_a_personal_column(
    catalogue: Catalogue, query: Query, columns: Callable[[str], list[str]]
) -> None:
    views = query(
        "SELECT relname FROM pg_class WHERE relnamespace = 'magnetis_masked'::regnamespace "
        "AND relkind = 'v' AND reloptions = '{security_barrier=true}'"
    )
    assert {name for (name,) in views} == catalogue.collections.keys()
    for name, collection in catalogue.collections.items():
        found = set(columns(f"magnetis_masked.{name}"))
        personal = {
            column
            for column, each in collection.columns.items()
            if each.personal_data is not PersonalData.NONE
        }
        commented = query(
            "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) "
            "AND col_description(attrelid, attnum) ~ 'Personal data:|May hold personal data'",
            table=f"magnetis.{name}",
        )
        assert personal | {"payload"} == {column for (column,) in commented}
        assert not found & (personal | {"payload", "deleted_at"}), name
        rest = collection.columns.keys() - personal
        assert {"id", "account_id", "connection", "first_seen_at"} | rest <= found | {"analysis"}


def test_the_default_plan_hides_columns_too(columns: Callable[[str], list[str]]) -> None:
    """Nobody knows what `analysis` contains: the plan declares it unclassified."""
    assert "analysis" in columns("magnetis.calls_current")
    assert "analysis" not in columns("magnetis_masked.calls")


def test_rows_and_names_are_those_of_current(load: Any, query: Query) -> None:
    load("accounts", [DAY], [{"id": "a1", "name": "Agence Nord"}])
    load("calls", [DAY], [call(1, duration=5), call(2)])
    load("calls", [DAY], [call(1, duration=5)])
    shown = "id, account_name, occurred_at_local::text, duration_seconds"
    masked = query(f"SELECT {shown} FROM magnetis_masked.calls")
    assert masked == query(f"SELECT {shown} FROM magnetis.calls_current")
    assert masked == [("c1", "Agence Nord", "2025-03-28 10:00:00", 5)]


def test_a_number_is_represented_by_its_caller_key_if_the_table_has_it(
    engine: Engine,
    query: Query,
    columns: Callable[[str], list[str]],
    migrated_again: Callable[[], None],
    load: Any,
) -> None:
    def is_shown() -> bool:
        return "caller_key" in columns("magnetis_masked.calls")

    assert is_shown() is ("caller_key" in columns("magnetis.calls"))
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE magnetis.calls ADD IF NOT EXISTS caller_key text, ADD other_key text")
        )
    migrated_again()
    assert is_shown()
    assert "other_key" not in columns("magnetis_masked.calls"), "nobody declares it"
    load("calls", [DAY], [call(1, caller_number="0612345678")])
    with engine.begin() as connection:
        connection.execute(text("UPDATE magnetis.calls SET caller_key = 'k1:x'"))
    assert query("SELECT caller_key FROM magnetis_masked.calls") == [("k1:x",)]


def test_classes_of_an_overlay_and_of_the_plan_apply(
    columns: Callable[[str], list[str]], overlaid: Overlaid
) -> None:
    overlaid(
        """
        collections:
          calls:
            columns:
              crm: {paths: [crm]}
              agent: {paths: [agent], personal_data: staff_recipient}
              note: {paths: [customer.note]}
              extras: {type: json, paths: [extras]}
              home: {paths: [extras.home], personal_data: contact}
              caller_number: {personal_data: none}
              account_name: null
          accounts: {columns: {name: {personal_data: personal}}}
        privacy: {collections: {calls: {members: {customer.note: free_text}}}}
        """
    )
    found = columns("magnetis_masked.calls")
    assert {"crm", "caller_number", "network_name"} <= set(found)
    # `extras` is not personal itself, but contains `home`; `account_name` would be accounts.name
    assert not {"agent", "note", "extras", "home", "account_name"} & set(found)
    assert {"crm", "note", "extras"} <= set(columns("magnetis.calls_current"))
    assert "name" not in columns("magnetis_masked.accounts")

    overlaid("{}")
    assert "crm" not in columns("magnetis_masked.calls"), "no longer declared"
    assert "crm" in columns("magnetis.calls_current")
    assert {"name", "network_name"} <= set(columns("magnetis_masked.accounts"))
    assert "caller_number" not in columns("magnetis_masked.calls")


PLAIN = "collections: {calls: {columns: {crm: {paths: [crm]}}}}"
PERSONAL = "collections: {calls: {columns: {crm: {paths: [crm], personal_data: personal}}}}"


def test_a_column_is_hidden_if_any_connection_declares_it_personal(
    engine: Engine,
    catalogue: Catalogue,
    columns: Callable[[str], list[str]],
    overlaid: Overlaid,
) -> None:
    def is_shown() -> bool:
        return "crm" in columns("magnetis_masked.calls")

    overlaid(PLAIN, "nord")
    assert is_shown()
    overlaid("{}", "sud")
    assert is_shown(), "a connection without the column does not hide it"
    overlaid(PERSONAL, "sud")
    assert not is_shown()
    overlaid(PLAIN, "ouest")
    assert not is_shown()
    overlaid("{}", "sud")
    assert not is_shown(), "the table still contains the values of the connection"
    overlaid(PLAIN, "sud")
    assert is_shown(), "another connection has created the same tables"
    overlaid("{}", "nord")
    overlaid("{}", "ouest")
    assert is_shown()
    overlaid("{}", "sud")
    assert not is_shown()
    assert [str(each) for each in drop_columns(engine, catalogue)] == ["magnetis.calls.crm"]


def test_a_connection_whose_rows_were_deleted_declares_its_columns_again(
    engine: Engine, columns: Callable[[str], list[str]], overlaid: Overlaid
) -> None:
    """As after the statements of docs/connections.md, which leave schema_state."""
    overlaid(PLAIN, "nord")
    overlaid(PERSONAL, "sud")
    with engine.begin() as connection:
        connection.execute(
            text("DELETE FROM magnetis_ops.column_visibility WHERE connection = 'sud'")
        )
    overlaid(PERSONAL, "sud")
    overlaid("collections: {calls: {columns: {crm: {paths: [crm]}, more: {paths: [m]}}}}", "nord")
    found = columns("magnetis_masked.calls")
    assert "more" in found
    assert "crm" not in found


def test_a_dropped_column_is_forgotten(
    engine: Engine, catalogue: Catalogue, query: Query, overlaid: Overlaid
) -> None:
    overlaid(PERSONAL)
    overlaid("{}")
    remembered = "SELECT connection FROM magnetis_ops.column_visibility WHERE name = 'crm'"
    assert query(remembered) == [("magnetis",)]
    drop_columns(engine, catalogue)
    assert query(remembered) == []


def test_a_view_that_shows_a_newly_personal_column_is_named(
    engine: Engine, query: Query, overlaid: Overlaid
) -> None:
    overlaid(PLAIN)
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW public.mine AS SELECT crm FROM magnetis_masked.calls"))
    with pytest.raises(ViewInUse, match=r"magnetis_masked\.calls .* the view public\.mine"):
        overlaid(PERSONAL)
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW public.mine"))
    overlaid(PERSONAL)
    with pytest.raises(Exception, match="crm"):
        query("SELECT crm FROM magnetis_masked.calls")


def test_a_view_of_somebody_else_is_not_replaced(
    engine: Engine, query: Query, overlaid: Overlaid
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW magnetis_masked.pools"))
        connection.execute(text("CREATE VIEW magnetis_masked.pools AS SELECT 1 AS mine"))
    with pytest.raises(ForeignObject, match=r"did not create view magnetis_masked\.pools"):
        overlaid(PLAIN)
    assert query("SELECT mine FROM magnetis_masked.pools") == [(1,)]
