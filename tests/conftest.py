"""Fixtures of all tests.

A real PostgreSQL with a fresh database, the sandbox API over HTTP, and a home without secrets.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from databases import Databases
from sqlalchemy import Connection, Engine, text

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.sandbox import PERSONAL_MARKERS
from magnetis_dagster.warehouse import MergeResult, Staging, Warehouse, WindowFacts
from magnetis_dagster.warehouse.migrate import migrate

pytest_plugins = ["leftovers"]

LONGEST = (
    "end_to_end/test_everything.py",
    "defs/test_settings_sensors.py",
    "end_to_end/test_quota.py",
    "ingest/test_chaos.py",
    "end_to_end/test_without_a_key.py",
    "quota/test_kills.py",
    "end_to_end/test_alert_edited.py",
    "defs/test_repair.py",
    "test_cli.py",
    "dev/test_dagster_api.py",
    "defs/test_celery_launcher.py",
    "ingest/test_ingestion.py",
    "ingest/test_every_failure.py",
    "defs/test_alerts.py",
    "ingest/test_interrupted.py",
)
"""Files that take over half a minute each. One of two workers runs the last file alone.
`end_to_end` mostly waits, so other files run between its files."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # xdist would begin with the files with the most tests, but the slowest files have few
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files and keep the order within each file."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the developer's MAGNETIS_ variables, `.env` files and container secrets from tests."""
    for name in [name for name in os.environ if name.startswith(("MAGNETIS_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("magnetis_dagster.settings.SECRETS", tmp_path / "secrets")
    monkeypatch.chdir(tmp_path)


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


@pytest.fixture(autouse=True)
def _quiet_connections(request: pytest.FixtureRequest) -> Iterator[None]:
    """Log connections only for tests that read logs: a dozen lines per request take time."""
    logger = logging.getLogger("httpcore")
    logger.setLevel(logging.DEBUG if "caplog" in request.fixturenames else logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue()


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


SECRETS = ("key-0f-the-tests", "0033199", *PERSONAL_MARKERS)
"""The tests' key, and markers that every personal value of the small API and the sandbox contains.
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Fail any test whose captured output or log contains the key or a caller's number."""
    report = yield
    captured = f"{report.capstdout}{report.capstderr}{report.caplog}"
    if found := [secret for secret in SECRETS if secret in captured]:
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid}: the captured output contains {found}, which must appear in no log"
        )
    return report
