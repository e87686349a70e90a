"""Upgrades of a database of the previous version: with rows, in use, interrupted."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from protected import PROTECTION
from sqlalchemy import Engine, text
from waiting import wait_until
from windows import load_window

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.database import connect
from magnetis_dagster.database.locks import change_tables
from magnetis_dagster.warehouse import PageCache, Warehouse, indexes, migrate
from magnetis_dagster.warehouse.forecasts import report
from magnetis_dagster.warehouse.indexes import KeyInUse, ReservedColumn
from magnetis_dagster.warehouse.migrate import differences
from magnetis_dagster.warehouse.schema import data_metadata, ops_metadata, replaced_indexes

PARIS = ZoneInfo("Europe/Paris")
VERSION_ONE = Path(__file__).parent / "version_one.sql"
"""The statements by which the previous version created its tables."""
DAY = date(2025, 3, 28)
MOMENT = "2025-04-01 00:00:00+00"
ROWS = f"""
    INSERT INTO magnetis_ops.windows (collection, first_day, last_day, read_at, committed_at,
        announced, received, padding, held, quarantined, inserted, changed, deleted, api_calls,
        bytes, milliseconds, run_id)
    VALUES ('calls', '{DAY}', '{DAY}', '{MOMENT}', '{MOMENT}',
            500, 500, 0, 500, 1, 500, 0, 0, 2, 9, 9, 'run'),
           ('email_alerts', '{DAY}', '{DAY}', '{MOMENT}', '{MOMENT}',
            1, 1, 0, 1, 0, 1, 0, 0, 1, 9, 9, 'run');
    INSERT INTO magnetis.calls (id, payload, occurred_at, day, first_seen_at, last_seen_at,
        changed_at)
    SELECT 'c' || n, jsonb_build_object('id', 'c' || n, 'start_at', '{DAY} 10:00:00'),
           '{DAY} 09:00:00+00', '{DAY}', '{MOMENT}', '{MOMENT}', '{MOMENT}'
    FROM generate_series(1, 500) AS n;
    INSERT INTO magnetis.email_alerts (id, payload, first_seen_at, last_seen_at, changed_at)
    VALUES ('x1', '{{"id": "x1", "enabled": 1}}', '{MOMENT}', '{MOMENT}', '{MOMENT}');
    INSERT INTO magnetis.email_alerts_history (id, payload, valid_from, valid_to)
    VALUES ('x1', '{{"id": "x1", "enabled": 0}}', '2025-03-01', '{MOMENT}'),
           ('x1', '{{"id": "x1", "enabled": 1}}', '{MOMENT}', NULL);
    INSERT INTO magnetis_ops.days (collection, day, window_id, read_at, announced, held, run_id)
    VALUES ('calls', '{DAY}', 1, '{MOMENT}', 500, 500, 'run'),
           ('email_alerts', '{DAY}', 2, '{MOMENT}', 1, 1, 'run');
    INSERT INTO magnetis_ops.day_reads VALUES (1, '{DAY}', 0, true, 500, 500, 0, 0);
    INSERT INTO magnetis_ops.strays (collection, day, held) VALUES ('visits', '{DAY}', 0);
    INSERT INTO magnetis_ops.quarantine
        (collection, key, reason, payload, window_id, first_seen_at, last_seen_at)
    VALUES ('calls', 'q', 'no id', '{{}}', 1, '{MOMENT}', '{MOMENT}');
    INSERT INTO magnetis_ops.pages
        (work, collection, first_day, last_day, page, fetched_at, body, request)
    VALUES ('run', 'calls', '2025-03-29', '2025-03-29', 1, now(),
            decode('28b52ffd2004210000626f6479', 'hex'), 'fingerprint');
    INSERT INTO magnetis_ops.window_limits (collection, most_days, reason, learned_at)
    VALUES ('calls', 7, 'too long', now());
    INSERT INTO magnetis_ops.sources (collection, key_fingerprint, origin, adopted_at)
    VALUES ('calls', '0123456789ab', 'https://api', now());
    INSERT INTO magnetis_ops.forecasts
        (work, collection, first_day, last_day, days, rows, calls, planned, forecast_at)
    VALUES ('backfill', 'calls', '{DAY}', '{DAY}', 1, 500, 2, true, '{MOMENT}');
    INSERT INTO magnetis_ops.quota_keys (key_fingerprint) VALUES ('0123456789ab');
    INSERT INTO magnetis_ops.quota_days (key_fingerprint, day, daily_quota, backfill)
    VALUES ('0123456789ab', '{DAY}', 5000, 2);
    INSERT INTO magnetis_ops.api_calls
        (key_fingerprint, day, charged_at, collection, route, page, lane, run_id)
    VALUES ('0123456789ab', '{DAY}', '{MOMENT}', 'calls', '/calls', 1, 'backfill', 'run');
"""


@pytest.fixture
def old(empty_database_url: str) -> Iterator[Engine]:
    """Return a database of the previous version with rows in every kind of table."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(VERSION_ONE.read_text(encoding="utf-8"))
        connection.execute(ROWS)
    engine = connect(empty_database_url)
    yield engine
    engine.dispose()


def fetch(engine: Engine, statement: str, **parameters: Any) -> list[Any]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement), parameters)]


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def require_new_layout(engine: Engine, catalogue: Catalogue) -> None:
    """Fail unless tables, keys, indexes and comments are those of a new database."""
    with engine.connect() as connection:
        assert differences(connection, ops_metadata) == []
        assert differences(connection, data_metadata(catalogue)) == []
        states = indexes.table_states(connection)
    for metadata in (data_metadata(catalogue), ops_metadata):
        for table in metadata.tables.values():
            state = states[indexes.qualified(table)]
            assert state.key == indexes.wanted_key(table), state.name
            assert state.invalid == []
            declared = {str(index.name) for index in table.indexes} | {f"{table.name}_pkey"}
            assert set(state.valid) >= declared
            assert not set(state.valid) & {*replaced_indexes(catalogue), f"{table.name}_pkey_new"}


def test_rows_of_the_previous_version_belong_to_the_unnamed_connection(
    old: Engine, catalogue: Catalogue
) -> None:
    assert migrate(old, catalogue) is True
    assert migrate(old, catalogue) is False
    require_new_layout(old, catalogue)
    for table, rows in {
        "magnetis.calls": 500,
        "magnetis.email_alerts": 1,
        "magnetis.email_alerts_history": 2,
        "magnetis_ops.windows": 2,
        "magnetis_ops.days": 2,
        "magnetis_ops.strays": 1,
        "magnetis_ops.quarantine": 1,
        "magnetis_ops.pages": 1,
        "magnetis_ops.window_limits": 1,
        "magnetis_ops.sources": 1,
        "magnetis_ops.forecasts": 1,
        "magnetis_ops.quota_keys": 1,
        "magnetis_ops.quota_days": 1,
        "magnetis_ops.api_calls": 1,
    }.items():
        found = fetch(old, f"SELECT connection, count(*) FROM {table} GROUP BY 1")
        assert found == [("magnetis", rows)], table
    assert fetch(old, "SELECT name FROM magnetis_ops.connections") == [("magnetis",)]
    assert [(line.calls, line.days_done) for line in report(old, "backfill")] == [(2, 1)]
    assert fetch(
        old, "SELECT kind, connection FROM magnetis.settings_changes ORDER BY changed_at"
    ) == [("first_seen", "magnetis"), ("changed", "magnetis")]
    assert fetch(old, "SELECT connection, count(*) FROM magnetis.calls_distinct GROUP BY 1") == [
        ("magnetis", 500)
    ]


def test_loads_continue_with_the_rows_pages_and_limits_of_the_previous_version(
    old: Engine, catalogue: Catalogue
) -> None:
    warehouse = Warehouse(
        old, catalogue, response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
    )
    warehouse.prepare()
    calls = catalogue["calls"]
    cache = PageCache(old, calls, "run", "fingerprint")
    assert [window.pages for window in cache.windows()] == [frozenset({1})]
    assert cache.body([date(2025, 3, 29)], 1) == b"body"
    assert warehouse.window_limits(calls).most_days == 7
    assert list(warehouse.completed_days(calls, [DAY], run_id="run")) == [DAY]
    rows = [{"id": f"c{n}", "start_at": f"{DAY} 10:00:00"} for n in range(1, 500)]
    read_at = datetime(2025, 4, 2, tzinfo=UTC)
    other = Warehouse(
        old,
        catalogue,
        connection_name="other",
        response_zone=PARIS,
        partition_zone=PARIS,
        protection=PROTECTION,
    )
    [theirs] = load_window(other, "calls", [DAY], rows, read_at=read_at).days
    [mine] = load_window(warehouse, "calls", [DAY], rows, read_at=read_at).days
    assert (theirs.inserted, theirs.changed, theirs.deleted, theirs.first_read) == (499, 0, 0, True)
    assert (mine.inserted, mine.changed, mine.deleted, mine.first_read) == (0, 0, 1, False)
    alerts = [{"id": "x1", "enabled": 0}]
    for each in (warehouse, other):
        load_window(each, "email_alerts", [DAY], alerts, read_at=read_at)
        assert each.reconcile(calls) == []
    assert fetch(
        old,
        "SELECT connection, count(*), count(valid_to) FROM magnetis.email_alerts_history "
        "GROUP BY 1 ORDER BY 1",
    ) == [("magnetis", 3, 2), ("other", 1, 0)]


def test_views_grants_and_views_of_users_survive(old: Engine, catalogue: Catalogue) -> None:
    execute(
        old,
        "GRANT SELECT ON magnetis.calls_current, magnetis.settings_changes, "
        "magnetis_ops.late_changes TO PUBLIC",
        "CREATE VIEW public.mine AS SELECT * FROM magnetis.calls_current",
        "CREATE VIEW public.changes AS SELECT * FROM magnetis.settings_changes",
        "CREATE VIEW public.late AS SELECT * FROM magnetis_ops.late_changes",
        "CREATE VIEW public.raw AS SELECT * FROM magnetis.calls",
        "CREATE INDEX mine ON magnetis.calls (status)",
    )
    migrate(old, catalogue)
    for view in ("mine", "changes", "late", "raw"):
        fetch(old, f"SELECT * FROM public.{view}")
    for view in (
        "magnetis.calls_current",
        "magnetis.settings_changes",
        "magnetis_ops.late_changes",
    ):
        assert fetch(old, "SELECT has_table_privilege('public', :view, 'SELECT')", view=view) == [
            (True,)
        ]
    assert fetch(old, "SELECT count(*) FROM pg_indexes WHERE indexname = 'mine'") == [(1,)]
    last = (
        "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:view AS regclass) "
        "ORDER BY attnum DESC LIMIT 1"
    )
    for view in (
        "magnetis.calls_current",
        "magnetis.calls_distinct",
        "magnetis.settings_changes",
        "magnetis_ops.late_changes",
    ):
        assert fetch(old, last, view=view) == [("connection",)]


SCHEMA = """
    SELECT c.relname, a.attname FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE n.nspname IN ('magnetis', 'magnetis_ops') ORDER BY 1, 2
"""


@pytest.mark.parametrize(
    ("created", "dropped", "named"),
    [
        (
            "CREATE TABLE public.notes (call text REFERENCES magnetis.calls (id))",
            "DROP TABLE public.notes",
            r"magnetis\.calls .*the foreign key notes_call_fkey of (public\.)?notes",
        ),
        (
            "CREATE VIEW public.mine AS SELECT id, status FROM magnetis.calls GROUP BY id",
            "DROP VIEW public.mine",
            r"magnetis\.calls .*the view public\.mine",
        ),
        (
            (
                "CREATE MATERIALIZED VIEW public.mine AS "
                "SELECT id, title FROM magnetis.email_alerts GROUP BY id"
            ),
            "DROP MATERIALIZED VIEW public.mine",
            r"magnetis\.email_alerts .*the materialized view public\.mine",
        ),
    ],
)
def test_an_object_that_uses_a_key_is_named_and_nothing_changes(
    old: Engine, catalogue: Catalogue, created: str, dropped: str, named: str
) -> None:
    execute(old, created)
    before = fetch(old, SCHEMA)
    with pytest.raises(KeyInUse, match=named):
        migrate(old, catalogue)
    assert fetch(old, SCHEMA) == before
    assert fetch(old, "SELECT version_num FROM magnetis_ops.alembic_version") == [("0007",)]
    execute(old, dropped)
    assert migrate(old, catalogue) is True
    require_new_layout(old, catalogue)


def test_a_column_of_an_earlier_overlay_is_not_taken_for_the_connection(
    old: Engine, catalogue: Catalogue
) -> None:
    execute(old, "ALTER TABLE magnetis.calls ADD COLUMN connection text")
    with pytest.raises(ReservedColumn, match=r"magnetis\.calls\.connection was created for"):
        migrate(old, catalogue)
    execute(old, "ALTER TABLE magnetis.calls DROP COLUMN connection CASCADE")
    assert migrate(old, catalogue) is True


class Killed(BaseException):
    """Ends a migration between two steps."""


def test_a_migration_that_dies_between_any_two_steps_is_resumed(
    old: Engine, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"left": 0}

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if not steps["left"]:
                raise Killed
            steps["left"] -= 1
            return function(*arguments, **options)

        return step

    module = sys.modules["magnetis_dagster.warehouse.migrate"]  # the package has the function
    monkeypatch.setattr(module, "change_tables", counted(change_tables))
    monkeypatch.setattr(indexes, "exclusive_session", counted(indexes.exclusive_session))
    number, changed = 0, False
    while not changed:
        number += 1
        steps["left"] = number
        try:
            changed = migrate(old, catalogue)
        except Killed:
            continue
    assert number > 10
    require_new_layout(old, catalogue)
    assert fetch(old, "SELECT count(*) FROM magnetis.calls") == [(500,)]
    assert migrate(old, catalogue) is False


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE UNIQUE INDEX CONCURRENTLY calls_pkey_new ON magnetis.calls (connection, id)",
        "CREATE INDEX CONCURRENTLY ix_calls_day_connection ON magnetis.calls (day, connection)",
        "DROP INDEX CONCURRENTLY magnetis.ix_calls_day",
    ],
)
def test_an_index_that_an_interrupted_statement_left_invalid_is_rebuilt_or_dropped(
    old: Engine, catalogue: Catalogue, empty_database_url: str, statement: str
) -> None:
    execute(
        old,
        "ALTER TABLE magnetis.calls ADD COLUMN connection text NOT NULL DEFAULT 'magnetis'",
        "COMMENT ON COLUMN magnetis.calls.connection IS 'Connection whose key returned the row.'",
    )
    with (
        psycopg.connect(empty_database_url) as writer,
        psycopg.connect(empty_database_url, autocommit=True) as builder,
    ):
        writer.execute("UPDATE magnetis.calls SET status = 'x' WHERE id = 'c1'")
        builder.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            builder.execute(statement)  # type: ignore[call-overload]
        writer.rollback()
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    assert fetch(old, invalid) == [(1,)]
    assert migrate(old, catalogue) is True
    assert fetch(old, invalid) == [(0,)]
    require_new_layout(old, catalogue)


def test_a_transaction_that_writes_delays_the_upgrade_and_loses_no_row(
    old: Engine, catalogue: Catalogue, empty_database_url: str
) -> None:
    insert = (
        "INSERT INTO magnetis.calls (id, payload, occurred_at, day, first_seen_at, last_seen_at, "
        "changed_at) VALUES (%s, '{}', now(), current_date, now(), now(), now())"
    )
    second = connect(empty_database_url)
    results: list[bool] = []
    ended = threading.Event()
    written: list[int] = []

    def write_and_read() -> None:
        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            number = 0
            while not ended.is_set():
                connection.execute(insert, (f"new {number}",))
                connection.execute("SELECT count(*) FROM magnetis.calls").fetchone()
                written.append(number)
                number += 1

    # not joined if the test fails, so daemons
    threads = [
        threading.Thread(
            target=lambda engine=engine: results.append(migrate(engine, catalogue)), daemon=True
        )
        for engine in (old, second)
    ]
    writer = threading.Thread(target=write_and_read, daemon=True)
    with psycopg.connect(empty_database_url) as merge:
        # holds a snapshot and the lock of a merge, like a load of the previous version
        merge.execute("SELECT pg_advisory_xact_lock(0, 0)")
        merge.execute(insert, ("of the open transaction",))
        for thread in (writer, *threads):
            thread.start()
        time.sleep(2)
        assert all(thread.is_alive() for thread in threads)
        before = len(written)
        wait_until(lambda: len(written) > before, "writers continue while the upgrade waits")
        merge.commit()
    for thread in threads:
        thread.join(60)
    ended.set()
    writer.join(10)
    second.dispose()
    assert sorted(results) == [False, True], "two processes do not wait for each other"
    require_new_layout(old, catalogue)
    assert fetch(old, "SELECT count(*) FROM magnetis.calls WHERE connection = 'magnetis'") == [
        (500 + len(written) + 1,)
    ]


def test_an_index_of_an_overlay_is_built_without_blocking_writers(
    old: Engine, catalogue: Catalogue, empty_database_url: str, tmp_path: Path
) -> None:
    migrate(old, catalogue)
    path = tmp_path / "overlay.yaml"
    path.write_text("collections: {calls: {indexes: [[status], [day]]}}")
    overlaid = load_catalogue(path)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(migrate(old, overlaid)), daemon=True)
    with (
        psycopg.connect(empty_database_url) as open_transaction,
        psycopg.connect(empty_database_url, autocommit=True) as writer,
    ):
        open_transaction.execute("UPDATE magnetis.calls SET status = 'x' WHERE id = 'c1'")
        thread.start()
        time.sleep(1)
        assert thread.is_alive(), "the build waits for the open transaction"
        writer.execute("SET lock_timeout = '500ms'")
        writer.execute("UPDATE magnetis.calls SET status = 'y' WHERE id = 'c2'")
        open_transaction.commit()
        thread.join(30)
    assert results == [True]
    assert fetch(
        old,
        "SELECT count(*) FROM pg_indexes WHERE indexname IN ('ix_calls_status', 'ix_calls_day')",
    ) == [(2,)]
