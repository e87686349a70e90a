"""The role for BI tools: it reads the data over TCP, and can do nothing else."""

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.migrate import migrate
from magnetis_dagster.warehouse.roles import READER_ROLE, RoleUnknown
from magnetis_dagster.wiring import shown_address


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """Return settings of a home with a running server and the tables of the sandbox."""
    # not in pytest's folder: if we are root, the embedded server runs as another user
    with tempfile.TemporaryDirectory(prefix="magnetis-bi-") as home:
        yield Settings(home=home)
        embedded.stop(Path(home))


@pytest.fixture(scope="module")
def owner(settings: Settings, catalogue: Catalogue) -> Iterator[Engine]:
    engine = connect(embedded.start(settings.home, database="sandbox"))
    migrate(engine, catalogue)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA dagster; CREATE TABLE dagster.runs (id int)"))
    yield engine
    engine.dispose()


@pytest.fixture
def bi(settings: Settings, owner: Engine) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    del owner
    url, runs = shown_address(settings, tcp=True, role=READER_ROLE)
    assert runs
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_the_role_reads_the_data_over_tcp_within_limits(
    settings: Settings, bi: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    assert bi.info.host == "127.0.0.1"
    shown = [
        bi.execute("SELECT current_setting(%s)", (name,)).fetchone()
        for name in (
            "default_transaction_read_only",
            "statement_timeout",
            "idle_in_transaction_session_timeout",
            "search_path",
        )
    ]
    assert shown == [("on",), ("5min",), ("5min",), ("magnetis, magnetis_marts",)]
    tables = bi.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'magnetis'::regnamespace "
        "AND relkind IN ('r', 'p', 'v', 'm')"
    ).fetchall()
    assert ("calls",) in tables
    assert ("settings_changes",) in tables
    assert ("calls_distinct",) in tables
    for (table,) in tables:
        bi.execute(f"SELECT * FROM {table} LIMIT 0")  # type: ignore[call-overload]

    passwords = settings.home / "postgres-passwords.json"
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600
    assert (
        shown_address(settings, tcp=True, role=READER_ROLE)[0].count(str(bi.info.password)) == 1
    ), "generated once"
    socket, _ = shown_address(settings, tcp=False, role=READER_ROLE)
    with psycopg.connect(socket) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (READER_ROLE.name,)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM magnetis.calls",
        "INSERT INTO magnetis.calls (id) VALUES ('1')",
        "CREATE TABLE magnetis.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "CREATE SCHEMA mine",
        "SELECT * FROM magnetis_ops.pages",
        "SELECT * FROM magnetis_ops.api_calls",
        "SELECT * FROM magnetis_ops.connections",
        "SELECT * FROM dagster.runs",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT pg_ls_dir('.')",
        "COPY magnetis.calls TO '/tmp/calls'",
        "COPY magnetis.calls TO PROGRAM 'cat'",
        "SELECT rolpassword FROM pg_authid",
        "SET ROLE postgres",
        "ALTER SYSTEM SET fsync = off",
        "SELECT pg_reload_conf()",
    ],
)
def test_the_role_can_neither_write_nor_read_anything_else(
    bi: "psycopg.Connection[tuple[object, ...]]", statement: str
) -> None:
    bi.execute("SET default_transaction_read_only = off")  # any role may: only rights protect
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        bi.execute(statement)  # type: ignore[call-overload]


def test_later_tables_and_schemas_are_readable(
    owner: Engine, bi: "psycopg.Connection[tuple[object, ...]]", catalogue: Catalogue
) -> None:
    with owner.begin() as connection:
        connection.execute(text("CREATE TABLE magnetis.later AS SELECT 1 AS n"))
        connection.execute(text("CREATE SCHEMA magnetis_marts"))
        connection.execute(text("CREATE TABLE magnetis_marts.calls_by_day AS SELECT 2 AS n"))
        # the next version of the tables
        connection.execute(text("UPDATE magnetis_ops.schema_state SET digest = ''"))
    assert bi.execute("SELECT n FROM later").fetchone() == (1,)
    migrate(owner, catalogue)
    assert bi.execute("SELECT n FROM calls_by_day").fetchone() == (2,)


def test_the_other_database_of_the_server_is_readable_too(
    settings: Settings,
    owner: Engine,
    bi: "psycopg.Connection[tuple[object, ...]]",
    catalogue: Catalogue,
) -> None:
    """A role belongs to the server: later tables in another database are granted too."""
    del owner
    engine = connect(embedded.start(settings.home, database="magnetis"))
    migrate(engine, catalogue)
    engine.dispose()
    url = shown_address(settings, tcp=True, role=READER_ROLE)[0].replace("/sandbox", "/magnetis")
    assert bi.info.dbname == "sandbox"
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM calls").fetchone() == (0,)
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(url.replace("/magnetis", "/postgres"))


def test_the_sql_for_the_administrator_of_an_own_server_works(database_url: str) -> None:
    settings = Settings(database_url=database_url)
    with pytest.raises(RoleUnknown) as raised:
        shown_address(settings, tcp=False, role=READER_ROLE)
    statements = [line for line in str(raised.value).splitlines() if line.endswith(";")]
    assert len(statements) == 13
    with psycopg.connect(database_url) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]
        connection.execute(f"SET ROLE {READER_ROLE.name}")
        assert connection.execute("SELECT count(*) FROM magnetis.calls").fetchone() == (0,)
        connection.rollback()  # roles belong to the server, which other tests share
    assert shown_address(settings, tcp=True) == (database_url, True)
