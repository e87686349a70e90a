"""Objects under our names that this program did not create are rejected before any change."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from paths import ROOT
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.database import DatabaseRefused, connect
from magnetis_dagster.warehouse.foreign_objects import ForeignObject
from magnetis_dagster.warehouse.migrate import migrate

OBJECTS = """
    SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname ~ '^(mag|dag)'
"""


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE TABLE magnetis.calls (id text, started timestamptz)",
         "table magnetis.calls \\(without changed_at"),
        ("CREATE TABLE magnetis.pools_history (id text PRIMARY KEY, payload jsonb)",
         "table magnetis.pools_history"),
        ("CREATE VIEW magnetis.calls AS SELECT 1 AS id", "view magnetis.calls"),
        ("CREATE MATERIALIZED VIEW magnetis.calls AS SELECT 1 AS id",
         "materialized view magnetis.calls"),
        ("CREATE SEQUENCE magnetis.leads", "sequence magnetis.leads"),
        ("CREATE TYPE magnetis.calls AS ENUM ('a')", "type magnetis.calls"),
        ("CREATE TYPE magnetis.calls AS (a int)", "type magnetis.calls"),
        ("CREATE DOMAIN magnetis.visits AS text", "type magnetis.visits"),
        (("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; "
         "CREATE FOREIGN TABLE magnetis.calls (id text) SERVER s"),
         "foreign table magnetis.calls"),
        ("CREATE VIEW magnetis.settings_changes AS SELECT 1 AS x",
         "view magnetis.settings_changes"),
        ("CREATE TABLE magnetis.orders (id int)", "table magnetis.orders"),
        ("CREATE TABLE magnetis_ops.windows (id int)", "table magnetis_ops.windows"),
        ("CREATE TABLE magnetis_ops.alembic_version (version_num text)",
         "table magnetis_ops.alembic_version"),
        ("CREATE FUNCTION magnetis_ops.now() RETURNS int LANGUAGE sql AS 'SELECT 1'",
         "function magnetis_ops.now"),
    ],
)  # fmt: skip
def test_an_existing_object_is_rejected_and_nothing_changes(
    statement: str, name: str, empty_database_url: str, catalogue: Catalogue
) -> None:
    engine = connect(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA magnetis; CREATE SCHEMA magnetis_ops")
        connection.execute(statement)
        before = connection.execute(OBJECTS).fetchall()
        with pytest.raises(ForeignObject, match=f"did not create {name}"):
            migrate(engine, catalogue)
        assert connection.execute(OBJECTS).fetchall() == before
    engine.dispose()


def test_an_existing_table_under_the_name_of_a_new_collection_is_rejected(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text("collections: {pools: {columns: {region: {type: text, paths: [region]}}}}")
    more = load_catalogue(path)
    with engine.begin() as connection:
        # as before the version that added the collection
        connection.execute(text("DROP TABLE magnetis.leads CASCADE"))
        connection.execute(text("CREATE TABLE magnetis.leads (id text PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE magnetis.notes_of_analysts (id int)"))
    with pytest.raises(ForeignObject, match=r"table magnetis\.leads \(without") as raised:
        migrate(engine, more)
    assert "notes_of_analysts" not in str(raised.value)


def test_restored_tables_are_recognised_without_their_records(
    engine: Engine, catalogue: Catalogue
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW magnetis.settings_changes"))
        connection.execute(text("DROP SCHEMA magnetis_ops CASCADE"))
    assert migrate(engine, catalogue) is True


@pytest.fixture
def storage(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", empty_database_url)

    def open_() -> None:
        with dg.DagsterInstance.get():
            pass

    return open_


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE TABLE dagster.runs (id int)", "dagster.runs"),
        ("CREATE VIEW dagster.event_logs AS SELECT 1 AS event", "dagster.event_logs"),
        ("CREATE TABLE dagster.orders (id int)", "dagster.orders"),
    ],
)
def test_an_existing_object_in_the_schema_of_dagster_is_rejected(
    statement: str, name: str, empty_database_url: str, storage: Callable[[], None]
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA dagster")
        connection.execute(statement)
        with pytest.raises(ForeignObject, match=f"Dagster did not create {name}"):
            storage()
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname IN ('dagster', 'public')"
        ).fetchone() < (2,)


def test_errors_of_dagsters_database_sessions_name_their_cause(
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    storage: Callable[[], None],
) -> None:
    storage()
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        role = f"role_{connection.info.dbname}"
        connection.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
        with dg.DagsterInstance.get() as instance:
            url = instance.event_log_storage.postgres_url.replace(
                "//postgres:@", f"//{role}@"
            ).replace("//postgres@", f"//{role}@")
        engine = create_engine(url)
        with pytest.raises(
            OperationalError, match=r"no connection is free.*too many connections for role"
        ):
            engine.connect()
        connection.execute(f"ALTER ROLE {role} NOLOGIN")
        with pytest.raises(DatabaseRefused, match="LOGIN"):
            engine.connect()
        connection.execute(f"DROP ROLE {role}")
