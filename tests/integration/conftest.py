"""Fixtures of tests with servers: a real PostgreSQL, a fresh database per test, and its clock."""

import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from databases import Databases
from sqlalchemy import Connection, Engine, text

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.warehouse import MergeResult, Staging, Warehouse, WindowFacts
from magnetis_dagster.warehouse.migrate import migrate


@pytest.fixture(autouse=True)
def _counts_agree_after_each_commit(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare recorded counts with rows after every window.

    Applies to the windows that a test of ingest/ or warehouse/ commits in this process.
    """
    if request.path.parent.name not in {"ingest", "warehouse"}:
        return
    commit = Warehouse.commit

    def reconciled(self: Warehouse, staging: Staging, facts: WindowFacts) -> MergeResult:
        merged = commit(self, staging, facts)
        assert self.reconcile(staging.collection) == [], (
            f"{staging.collection.name}: recorded counts are not those of the table"
        )
        return merged

    monkeypatch.setattr(Warehouse, "commit", reconciled)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the URL of an embedded server for the session, without fsync.

    Tests kill processes, not the machine. The server is not under pytest's folder: a second pytest
    on the machine closes that folder to other users, and the server runs as another user.
    """
    home = Path(tempfile.mkdtemp(prefix="magnetis-tests-"))
    url = embedded.start(home, database="postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
            connection.execute(f"ALTER SYSTEM SET {setting}")
        connection.execute("SELECT pg_reload_conf()")
    yield url
    embedded.stop(home)
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def _template(postgres_url: str, catalogue: Catalogue) -> str:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_magnetis")
    engine = connect(postgres_url.replace("/postgres?", "/template_magnetis?"))
    migrate(engine, catalogue)
    engine.dispose()
    return "template_magnetis"


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Databases:
    return Databases(postgres_url)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """Return the URL of an empty database."""
    with databases.lent("template1") as url:
        yield url


@pytest.fixture
def database_url(databases: Databases, _template: str) -> Iterator[str]:
    """Return the URL of a database with the tables of the shipped catalogue."""
    with databases.lent(_template) as url:
        yield url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = connect(database_url)
    yield engine
    engine.dispose()


class Clock:
    """Moves the clock that all processes of a database share by replacing `magnetis_ops.now()`.

    The clock continues from the new time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set(self, moment: datetime) -> None:
        with self._engine.begin() as connection:
            shift = moment - connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            self._replace(connection, shift.total_seconds())

    def advance(self, by: timedelta) -> None:
        with self._engine.begin() as connection:
            shift = connection.execute(
                text("SELECT extract(epoch FROM magnetis_ops.now() - clock_timestamp())")
            ).scalar_one()
            self._replace(connection, float(shift) + by.total_seconds())

    @staticmethod
    def _replace(connection: Connection, seconds: float) -> None:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION magnetis_ops.now() RETURNS timestamptz LANGUAGE sql "
                "VOLATILE AS "
                f"'SELECT clock_timestamp() + make_interval(secs => {seconds})'"
            )
        )


@pytest.fixture
def clock(engine: Engine) -> Clock:
    return Clock(engine)
