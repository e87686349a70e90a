"""Undeclared columns, and columns whose declared type differs from that of the database."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from protected import PROTECTION
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.cli.app import app
from magnetis_dagster.warehouse import Warehouse, WindowFacts
from magnetis_dagster.warehouse.columns import SchemaDisagrees
from magnetis_dagster.warehouse.migrate import ColumnInUse, compare, drop_columns, migrate
from magnetis_dagster.warehouse.policy_queries import evaluate_policy
from magnetis_dagster.warehouse.reparse import reparse

PARIS = ZoneInfo("Europe/Paris")
Query = Callable[..., list[Any]]
CRM = "{crm: {paths: [crm]}}"
BOTH = f"collections: {{calls: {{columns: {CRM}}}, pools: {{columns: {CRM}}}}}"


@pytest.fixture
def overlaid(engine: Engine, tmp_path: Path) -> Callable[[str], Warehouse]:
    """Return the warehouse of a process that starts with this overlay."""

    def overlaid(overlay: str) -> Warehouse:
        path = tmp_path / "overlay.yaml"
        path.write_text(overlay)
        warehouse = Warehouse(
            engine,
            load_catalogue(path),
            response_zone=PARIS,
            partition_zone=PARIS,
            protection=PROTECTION,
        )
        warehouse.prepare()
        return warehouse

    return overlaid


def store(warehouse: Warehouse, name: str, *rows: dict[str, Any]) -> None:
    day = warehouse.now().astimezone(PARIS).date()
    collection = warehouse.catalogue[name]
    stamped = [
        {"start_at": f"{day} 00:00:00", **row} if collection.is_events else row for row in rows
    ]
    with warehouse.staging(collection) as staging:
        staging.add(stamped)
        received = staging.deduplicate().received
        warehouse.commit(
            staging, WindowFacts([day], warehouse.now(), received, received, 1, 0, 0, "test", day)
        )


@pytest.mark.parametrize("name", ["calls", "pools"])
def test_a_new_payload_clears_an_undeclared_column(
    overlaid: Callable[[str], Warehouse], warehouse: Warehouse, query: Query, name: str
) -> None:
    store(overlaid(BOTH), name, {"id": "changes", "crm": "old"}, {"id": "stays", "crm": "old"})
    warehouse.prepare()
    store(
        warehouse,
        name,
        {"id": "changes", "crm": "new"},
        {"id": "stays", "crm": "old"},
        {"id": "comes", "crm": "new"},
    )
    assert query(f"SELECT id, payload ->> 'crm', crm FROM magnetis.{name} ORDER BY id") == [
        ("changes", "new", None),
        ("comes", "new", None),
        ("stays", "old", "old"),
    ]


def test_each_version_in_the_history_has_the_columns_of_its_payload(
    overlaid: Callable[[str], Warehouse], warehouse: Warehouse, query: Query
) -> None:
    store(overlaid(BOTH), "pools", {"id": "p", "crm": "old"})
    warehouse.prepare()
    store(warehouse, "pools", {"id": "p", "crm": "new"})
    store(overlaid(BOTH), "pools", {"id": "p", "crm": "newer"})
    versions = query(
        "SELECT payload ->> 'crm', crm FROM magnetis.pools_history ORDER BY valid_from"
    )
    assert versions == [("old", "old"), ("new", None), ("newer", "newer")]


def test_two_alternating_overlays_keep_the_columns_of_each_other(
    overlaid: Callable[[str], Warehouse], query: Query
) -> None:
    one, two = (
        f"collections: {{calls: {{columns: {{{name}: {{paths: [{name}]}}}}}}}}"
        for name in ("one", "two")
    )
    row = {"id": "c", "one": "1", "two": "2"}
    for overlay in (one, two, one):
        store(overlaid(overlay), "calls", row)
    assert query("SELECT one, two FROM magnetis.calls") == [("1", "2")]
    [(written,)] = query("SELECT xmin::text FROM magnetis.calls")
    for overlay in (two, one):
        store(overlaid(overlay), "calls", row)
    assert query("SELECT xmin::text FROM magnetis.calls") == [(written,)], (
        "a row that has not changed is not written again"
    )


def test_columns_that_somebody_else_added_are_neither_cleared_nor_dropped(
    warehouse: Warehouse, engine: Engine, query: Query, catalogue: Catalogue
) -> None:
    store(warehouse, "calls", {"id": "c", "title": "a"})
    with engine.begin() as connection:
        connection.execute(
            text(
                'ALTER TABLE magnetis.calls ADD COLUMN "Note" text, '
                "ADD COLUMN reviewed boolean NOT NULL DEFAULT false, "
                "ADD COLUMN size integer GENERATED ALWAYS AS (length(payload::text)) STORED"
            )
        )
        connection.execute(text("UPDATE magnetis.calls SET \"Note\" = 'by hand', reviewed = true"))
    store(warehouse, "calls", {"id": "c", "title": "bb"})
    assert query('SELECT "Note", reviewed, size > 0 FROM magnetis.calls') == [
        ("by hand", True, True)
    ]
    assert compare(engine, catalogue).undeclared == []


def test_a_new_database_has_only_the_declared_columns(engine: Engine, catalogue: Catalogue) -> None:
    assert compare(engine, catalogue).undeclared == []
    assert compare(engine, catalogue).disagreements == []


def test_undeclared_columns_are_listed_and_dropped_in_table_and_history(
    overlaid: Callable[[str], Warehouse], engine: Engine, catalogue: Catalogue, query: Query
) -> None:
    store(overlaid(BOTH), "calls", {"id": "c", "crm": "x"})
    migrate(engine, catalogue)
    names = ["magnetis.calls.crm", "magnetis.pools.crm", "magnetis.pools_history.crm"]
    assert [str(column) for column in compare(engine, catalogue).undeclared] == names
    assert [str(column) for column in drop_columns(engine, catalogue)] == names
    assert compare(engine, catalogue).undeclared == []
    assert query("SELECT payload ->> 'crm' FROM magnetis.calls") == [("x",)]
    again = overlaid(BOTH)
    reparse(again, again.catalogue["calls"])
    assert query("SELECT crm FROM magnetis.calls") == [("x",)]


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (
            "CREATE VIEW public.mine AS SELECT id, crm FROM magnetis.pools_history",
            "the view public.mine",
        ),
        ("CREATE VIEW public.mine AS SELECT * FROM magnetis.pools_history", "the view public.mine"),
        (
            "CREATE MATERIALIZED VIEW public.mine AS SELECT crm FROM magnetis.pools_history",
            "the view public.mine",
        ),
        (
            (
                "ALTER TABLE magnetis.pools_history "
                "ADD COLUMN mine text GENERATED ALWAYS AS (lower(crm)) STORED"
            ),
            "column mine",
        ),
    ],
)
def test_no_column_is_dropped_if_an_object_uses_one_and_the_error_names_both(
    overlaid: Callable[[str], Warehouse],
    engine: Engine,
    catalogue: Catalogue,
    made: str,
    named: str,
) -> None:
    overlaid(BOTH)
    migrate(engine, catalogue)
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW public.other AS SELECT id FROM magnetis.calls"))
        connection.execute(text(made))
    with pytest.raises(
        ColumnInUse,
        match=rf"magnetis\.pools_history\.crm is used by .*{named}.*No column was dropped",
    ):
        drop_columns(engine, catalogue)
    assert len(compare(engine, catalogue).undeclared) == 3


def test_an_index_is_dropped_with_its_column(
    overlaid: Callable[[str], Warehouse], engine: Engine, catalogue: Catalogue, query: Query
) -> None:
    overlaid(BOTH)
    migrate(engine, catalogue)
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX mine ON magnetis.calls (crm)"))
    assert len(drop_columns(engine, catalogue)) == 3
    assert query("SELECT count(*) FROM pg_indexes WHERE indexname = 'mine'") == [(0,)]


WRONG = "collections: {%s: {columns: {%s: {type: %s}}}}"


def test_a_wrong_type_fails_the_loads_of_its_collection_only(
    overlaid: Callable[[str], Warehouse], query: Query
) -> None:
    wrong = overlaid(WRONG % ("calls", "status", "integer"))
    declared = r"magnetis\.calls\.status is declared as BIGINT, but the database has TEXT"
    with pytest.raises(SchemaDisagrees, match=declared):
        store(wrong, "calls", {"id": "c"})
    with pytest.raises(SchemaDisagrees, match=declared):
        reparse(wrong, wrong.catalogue["calls"])
    today = wrong.now().astimezone(PARIS).date()
    for name in ("emails", "pools"):
        store(wrong, name, {"id": "x", "received_at": f"{today} 12:00:00"})
        assert query(f"SELECT count(*) FROM magnetis.{name}") == [(1,)]
    [sentence] = compare(wrong.engine, wrong.catalogue).disagreements
    assert "magnetis migrate --drop-columns" in sentence


def test_a_wrong_type_does_not_prevent_new_columns_of_other_collections(
    overlaid: Callable[[str], Warehouse], query: Query
) -> None:
    more = (
        "collections: {calls: {columns: {status: {type: integer}}}, visits: {columns: {crm: {}}}}"
    )
    overlaid(more)
    assert query("SELECT count(crm) FROM magnetis.visits") == [(0,)]
    assert migrate(overlaid(more).engine, overlaid(more).catalogue) is False, "it is up to date"


def test_a_policy_on_two_collections_is_not_evaluated_if_one_has_a_wrong_type(
    overlaid: Callable[[str], Warehouse],
) -> None:
    wrong = overlaid("collections: {sms_alerts: {columns: {enabled: {type: text}}}}")
    right = overlaid("")
    with right.engine.begin() as connection:
        connection.execute(
            text(
                "DROP VIEW magnetis.sms_alerts_current, magnetis.sms_alerts_distinct, "
                "magnetis_masked.sms_alerts; "
                "ALTER TABLE magnetis.sms_alerts ALTER COLUMN enabled TYPE text"
            )
        )
    store(right, "accounts", {"id": "acc-1"})
    store(
        right,
        "email_alerts",
        {"id": "a", "account": {"id": "acc-1"}, "type": "lost_calls", "enabled": 1},
    )
    policy = right.catalogue.policies["missed_call_alert"]
    assert "magnetis.sms_alerts.enabled is declared as BOOLEAN, but the database has TEXT" in str(
        evaluate_policy(
            right.engine, right.catalogue, policy, right.catalogue["email_alerts"]
        ).not_evaluated
    )
    assert evaluate_policy(
        wrong.engine, wrong.catalogue, policy, wrong.catalogue["email_alerts"]
    ).not_evaluated


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> Callable[..., str]:
    """Run `magnetis migrate` in this process."""
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", database_url)

    def command(*options: str, overlay: str | None = None) -> str:
        if overlay is not None:
            (tmp_path / "command.yaml").write_text(overlay)
            monkeypatch.setenv("MAGNETIS_CONFIG", str(tmp_path / "command.yaml"))
        else:
            monkeypatch.delenv("MAGNETIS_CONFIG", raising=False)
        done = CliRunner().invoke(app, ["migrate", *options], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    return command


def test_the_command_lists_columns_and_drops_them_only_with_both_options(
    command: Callable[..., str], query: Query
) -> None:
    assert command(overlay=BOTH).strip() == "Brought up to date."
    for options in ([], ["--drop-columns"]):
        listed = command(*options)
        assert "magnetis.calls.crm is no longer declared." in listed
        assert "`magnetis migrate --drop-columns --yes` drops these columns" in listed
    assert query("SELECT count(crm) FROM magnetis.calls") == [(0,)]
    dropped = command("--drop-columns", "--yes")
    names = ("calls.crm", "pools.crm", "pools_history.crm")
    assert "\n".join(f"Dropped magnetis.{name}." for name in names) in dropped
    assert "no longer declared" not in dropped
    assert "there is nothing to drop" in command("--drop-columns")


def test_the_command_lists_wrong_types(command: Callable[..., str]) -> None:
    listed = command(overlay=WRONG % ("calls", "status", "integer"))
    assert (
        "Column magnetis.calls.status is declared as BIGINT, but the database has TEXT." in listed
    )
    assert "the others can." in listed
