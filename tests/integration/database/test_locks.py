"""Locks of other sessions: retries of a migration, time-outs of other writes."""

import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest
from protected import PROTECTION
from small_api import KEY, PARIS, SmallApi, call, serve
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.database import (
    DatabaseUnavailable,
    LockBusy,
    connect,
    guarded,
    locks,
    session,
)
from magnetis_dagster.database.locks import LockRetries, change_tables
from magnetis_dagster.ingest import Ingestion, RunIdentity, Zones
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Charge, Ledger
from magnetis_dagster.warehouse import Warehouse
from magnetis_dagster.warehouse.migrate import migrate

POLICY = QuotaPolicy(limit=5000, zone=PARIS)
FAST_RETRIES = LockRetries(lock_seconds=0.4, pauses=(0.2, 0.4))


@pytest.fixture
def overlay_catalogue(tmp_path: Path) -> Catalogue:
    path = tmp_path / "overlay.yaml"
    path.write_text("collections: {calls: {columns: {crm: {type: text, paths: [crm]}}}}")
    return load_catalogue(path)


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        change_tables, "__defaults__", (*change_tables.__defaults__[:-1], FAST_RETRIES)
    )


def ingestion(engine: Engine, catalogue: Catalogue, origin: str) -> Ingestion:
    return Ingestion(
        Warehouse(
            engine, catalogue, response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
        ),
        Ledger(engine, key_fingerprint="0123456789ab", policy=POLICY),
        RunIdentity("run", "manual"),
        origin=origin,
        key=KEY,
        zones=Zones(partition=PARIS, query=ZoneInfo("UTC"), response=PARIS),
    )


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serve() as small:
        yield small


@pytest.mark.usefixtures("fast_retries")
def test_a_migration_gives_up_and_names_the_session_that_blocks_it(
    database_url: str, engine: Engine, overlay_catalogue: Catalogue
) -> None:
    lines: list[str] = []
    with (
        psycopg.connect(database_url, application_name="analyst's notebook") as analyst,
        psycopg.connect(database_url, application_name="innocent") as innocent,
    ):
        innocent.execute("SELECT 1 FROM magnetis.visits LIMIT 1")
        analyst.execute("SELECT 1 FROM magnetis.calls WHERE id = 'call-secret' LIMIT 1")
        with pytest.raises(LockBusy) as raised:
            migrate(engine, overlay_catalogue, lines.append)
        message = str(raised.value)
        blocker = f"session {analyst.info.backend_pid} (role postgres, application"
        assert f"{blocker} analyst's notebook, idle in transaction since" in message
        assert f"SELECT pg_terminate_backend({analyst.info.backend_pid})" in message
        assert "innocent" not in message
        assert "call-secret" not in message
        assert len(lines) == len(FAST_RETRIES.pauses)
        assert all("Next attempt in" in line and "analyst's notebook" in line for line in lines)
        with engine.connect() as connection:  # the migration was rolled back
            columns = (
                "SELECT count(*) FROM information_schema.columns "
                "WHERE table_name = 'calls' AND column_name = 'crm'"
            )
            assert connection.execute(text(columns)).scalar_one() == 0
        analyst.rollback()
        assert migrate(engine, overlay_catalogue, lines.append) is True


def test_loads_and_queries_proceed_between_the_attempts(
    database_url: str,
    engine: Engine,
    overlay_catalogue: Catalogue,
    catalogue: Catalogue,
    api: SmallApi,
) -> None:
    lines: list[str] = []
    first_attempt = threading.Event()

    def progress(line: str) -> None:
        lines.append(line)
        first_attempt.set()

    migrating = connect(database_url)
    results: list[bool] = []
    migration = threading.Thread(
        target=lambda: results.append(migrate(migrating, overlay_catalogue, progress)), daemon=True
    )
    with psycopg.connect(database_url) as analyst:
        analyst.execute("SELECT 1 FROM magnetis.calls LIMIT 1")
        migration.start()
        assert first_attempt.wait(60)
        api.rows["/calls"] = [call(1, "2025-03-27 10:00:00")]
        with ingestion(engine, catalogue, api.url) as running:
            [window] = running.read_days(catalogue["calls"], [date(2025, 3, 27)])
        assert window.received == 1
        with psycopg.connect(database_url) as other:
            assert other.execute("SELECT count(*) FROM magnetis.calls").fetchone() == (1,)
        assert migration.is_alive()
    migration.join(30)
    migrating.dispose()
    assert results == [True]


def test_preparing_an_up_to_date_database_takes_no_lock(
    database_url: str, engine: Engine, catalogue: Catalogue
) -> None:
    with psycopg.connect(database_url) as other:
        for schema in ("magnetis", "magnetis_ops"):
            tables = other.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = "
                "'r'",
                (schema,),
            )
            for (table,) in tables.fetchall():
                # the strongest lock of writers, VACUUM and CREATE INDEX
                other.execute(f"LOCK TABLE {schema}.{table} IN SHARE ROW EXCLUSIVE MODE")
        other.execute("SELECT pg_advisory_xact_lock(%s)", (locks.MIGRATION,))
        assert migrate(engine, catalogue) is False


def test_missing_indexes_are_created(engine: Engine, overlay_catalogue: Catalogue) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX magnetis.ix_calls_day_connection"))
        connection.execute(text("DROP INDEX magnetis.ix_visits_day_connection"))
    assert migrate(engine, overlay_catalogue) is True
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT count(*) FROM pg_indexes WHERE indexname IN ('ix_calls_day_connection', "
                "'ix_visits_day_connection')"
            )
        )
        assert found.scalar_one() == 2


@pytest.mark.parametrize("statement", ["charge", "merge"])
def test_a_charge_and_a_merge_time_out_and_name_the_locking_session(
    statement: str, database_url: str, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(session._SETTINGS, "lock_timeout", "'1200ms'")
    engine = connect(database_url)
    ledger = Ledger(engine, key_fingerprint="0123456789ab", policy=POLICY)
    ledger.charge(Charge("calls", "/calls", 1, "manual"))
    locks_of = {
        "charge": "SELECT 1 FROM magnetis_ops.quota_keys FOR UPDATE",
        "merge": "LOCK TABLE magnetis_ops.windows IN SHARE MODE",
    }
    with (
        psycopg.connect(database_url, application_name="psql") as other,
        psycopg.connect(database_url) as reader,
    ):
        reader.execute("SELECT count(*) FROM magnetis_ops.quota_keys, magnetis_ops.windows")
        other.execute(locks_of[statement])

        def wait() -> None:
            if statement == "charge":
                ledger.charge(Charge("calls", "/calls", 1, "manual"))
            with guarded(engine, "merge"), engine.begin() as connection:
                connection.execute(text("DELETE FROM magnetis_ops.windows"))

        with pytest.raises(DatabaseUnavailable) as raised:
            wait()
        assert f"SELECT pg_terminate_backend({other.info.backend_pid})" in str(raised.value)
        assert f"session {reader.info.backend_pid}" not in str(raised.value)
    engine.dispose()
