"""Unusual defaults of server, database or role change no result."""

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import psycopg
import pytest
from paths import ROOT
from protected import PROTECTION
from small_api import KEY, PARIS, SmallApi, call, serve
from sqlalchemy import text

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import DatabaseRefused, connect
from magnetis_dagster.ingest import Ingestion, RunIdentity, Zones
from magnetis_dagster.planning.plan import make_plan, requested_window
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.quota.report import read_report
from magnetis_dagster.warehouse import Warehouse

DAY = date(2025, 3, 4)
POLICY = QuotaPolicy(limit=5000, zone=PARIS)
FINGERPRINT = "0123456789ab"
HOSTILE = {
    "transactions": {
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "default_transaction_deferrable": "on",
        "synchronous_commit": "off",
        "row_security": "on",
        "plan_cache_mode": "force_generic_plan",
    },
    "time-outs": {
        "statement_timeout": "1ms",
        "lock_timeout": "1ms",
        "transaction_timeout": "1ms",
        "idle_in_transaction_session_timeout": "1ms",
        "idle_session_timeout": "200ms",
    },
    "formats": {
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "iso_8601",
        "TimeZone": "Pacific/Chatham",
        "bytea_output": "escape",
        "extra_float_digits": "-15",
        "client_encoding": "latin1",
        "transform_null_equals": "on",
        "array_nulls": "off",
        "quote_all_identifiers": "on",
        "client_min_messages": "debug5",
        "search_path": "hostile, pg_catalog",
    },
}


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serve() as small:
        small.rows["/calls"] = [call(n, "2025-03-04 10:00:00", duration=10) for n in range(300)]
        yield small


def open_parts(
    url: str, api: SmallApi, catalogue: Catalogue
) -> tuple[Warehouse, Ledger, Ingestion]:
    engine = connect(url)
    warehouse = Warehouse(
        engine, catalogue, response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
    )
    ledger = Ledger(engine, key_fingerprint=FINGERPRINT, policy=POLICY)
    zones = Zones(partition=PARIS, query=ZoneInfo("UTC"), response=PARIS)
    return (
        warehouse,
        ledger,
        Ingestion(
            warehouse, ledger, RunIdentity("run", "manual"), origin=api.url, key=KEY, zones=zones
        ),
    )


def use_everything(
    url: str, api: SmallApi, catalogue: Catalogue, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrate, load, report, plan and use Dagster's events; check the results."""
    warehouse, ledger, ingestion = open_parts(url, api, catalogue)
    with ingestion:
        [window] = ingestion.read_days(catalogue["calls"], [DAY])
    assert (window.received, [day.rows for day in window.days]) == (300, [300])
    sent = len(api.requests)
    with warehouse.engine.connect() as connection:
        moments = connection.execute(
            text("SELECT DISTINCT occurred_at, day FROM magnetis.calls")
        ).all()
    assert moments == [(datetime(2025, 3, 4, 9, tzinfo=UTC), DAY)]
    assert ledger.usage().used == sent
    report = read_report(warehouse.engine, key_fingerprint=FINGERPRINT, policy=POLICY)
    assert [(run.calls, run.rows) for run in report.runs] == [(sent, 300)]
    planned = make_plan(
        [catalogue["calls"]],
        requested_window(DAY, DAY, start=DAY, today=date(2026, 1, 1)),
        warehouse,
        ledger,
        zones=Zones(partition=PARIS, query=ZoneInfo("UTC"), response=PARIS),
        origin=api.url,
        key=KEY,
        missing=False,
        progress=lambda _line: None,
    )
    assert planned.as_dict()["collections"][0]["rows"] == 300
    warehouse.engine.dispose()
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", url)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    shutil.copy(ROOT / "dagster.yaml", folder)
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("here", partition="é"))
        instance.add_dynamic_partitions("parts", ["a"])
        assert instance.get_materialized_partitions(dg.AssetKey("here")) == {"é"}
        assert instance.get_runs_count() == 0


@pytest.mark.parametrize("group", HOSTILE)
def test_defaults_of_the_database_affect_no_statement(
    group: str,
    empty_database_url: str,
    api: SmallApi,
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(
            "CREATE SCHEMA hostile; CREATE TABLE hostile.runs (id int); "
            "CREATE TABLE hostile.event_logs (id int)"
        )
        connection.execute(
            "CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql "
            "AS $$SELECT timestamptz '1999-01-01'$$"
        )
        for setting, value in HOSTILE[group].items():
            connection.execute(
                f"ALTER DATABASE {name} SET {setting} = {value if ',' in value else repr(value)}"
            )
    use_everything(empty_database_url, api, catalogue, tmp_path, monkeypatch)
    with psycopg.connect(
        empty_database_url,
        autocommit=True,
        options="-c statement_timeout=0 -c transaction_timeout=0",
    ) as after:
        tables = after.execute(
            "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^(pg_|information)'"
        ).fetchall()
        assert {schema for (schema,) in tables} == {
            "magnetis",
            "magnetis_ops",
            "dagster",
            "hostile",
        }
        assert after.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'hostile'"
        ).fetchone() == (2,)


@pytest.fixture
def role(postgres_url: str, empty_database_url: str) -> Iterator[str]:
    """Create a role with no privilege but CONNECT; drop it and its objects at the end."""
    name = empty_database_url.partition("/test_")[2].partition("?")[0]
    name = f"role_{name}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE ROLE {name} LOGIN")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            f"REVOKE CREATE, TEMPORARY ON DATABASE {connection.info.dbname} FROM PUBLIC"
        )
        connection.execute(
            f"GRANT CONNECT, TEMPORARY ON DATABASE {connection.info.dbname} TO {name}"
        )
    yield name
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {name} CASCADE")
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"DROP ROLE {name}")


def as_role(url: str, role: str) -> str:
    return url.replace("//postgres:@", f"//{role}@").replace("//postgres@", f"//{role}@")


def test_a_role_that_owns_the_schemas_but_cannot_create_schemas(
    role: str,
    empty_database_url: str,
    api: SmallApi,
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = as_role(empty_database_url, role)
    assert role in url
    warehouse, _, _ = open_parts(url, api, catalogue)
    with pytest.raises(DatabaseRefused, match=f'CREATE SCHEMA magnetis AUTHORIZATION "{role}"'):
        warehouse.prepare()
    warehouse.engine.dispose()
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        for schema in ("magnetis", "magnetis_ops", "magnetis_masked", "dagster"):
            connection.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
    use_everything(url, api, catalogue, tmp_path, monkeypatch)


def test_a_role_with_only_the_grants_of_deployment_md(
    role: str,
    empty_database_url: str,
    api: SmallApi,
    catalogue: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", empty_database_url)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    warehouse, _, _ = open_parts(empty_database_url, api, catalogue)
    warehouse.prepare()
    warehouse.engine.dispose()
    with dg.DagsterInstance.get():
        pass
    documented = (
        (ROOT / "docs/deployment.md")
        .read_text()
        .partition("```sql grants\n")[2]
        .partition("```")[0]
    )
    assert documented
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            documented.replace("DATABASE magnetis", f"DATABASE {connection.info.dbname}").replace(
                "loader", role
            )
        )
    use_everything(as_role(empty_database_url, role), api, catalogue, tmp_path, monkeypatch)
