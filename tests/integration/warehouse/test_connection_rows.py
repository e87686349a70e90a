"""Several connections in the same tables: nothing of one connection changes anything of another."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protected import PROTECTION
from sqlalchemy import Engine, text
from windows import load_window

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.database import DatabaseUnavailable, connect, guarded
from magnetis_dagster.warehouse import CountMismatch, ForeignSource, Warehouse
from magnetis_dagster.warehouse.connections import (
    COMPONENT,
    CONFIG,
    ConnectionStatus,
    DeclaredConnection,
    declare,
    of_components,
    status,
)
from magnetis_dagster.warehouse.current_settings import current_rows
from magnetis_dagster.warehouse.first_days import first_day
from magnetis_dagster.warehouse.forecasts import UnknownBackfill, record, report
from magnetis_dagster.warehouse.merge_lock import lock_collection, wait_for_turn
from magnetis_dagster.warehouse.merge_queries import merge_queries
from magnetis_dagster.warehouse.policy_queries import evaluate_policy
from magnetis_dagster.warehouse.reparse import reparse
from magnetis_dagster.warehouse.source import adopt, claim
from magnetis_dagster.warehouse.summary import keys_used, summary

PARIS = ZoneInfo("Europe/Paris")
DAY = date(2025, 3, 28)
NEXT = DAY + timedelta(days=1)
FIRST = datetime(2025, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
Query = Callable[..., list[Any]]


def call(number: int, day: date = DAY, **members: Any) -> dict[str, Any]:
    return {
        "id": f"c{number}",
        "start_at": f"{day} 10:00:00",
        "account": {"id": "a1"},
        **members,
    }


@pytest.fixture
def other(engine: Engine, catalogue: Catalogue) -> Warehouse:
    """Return the same tables for another connection."""
    return Warehouse(
        engine,
        catalogue,
        connection_name="other",
        response_zone=PARIS,
        partition_zone=PARIS,
        protection=PROTECTION,
    )


STATE = {
    "calls": "SELECT id, account_id, payload::text, day, occurred_at, first_seen_at, last_seen_at, "
    "changed_at, deleted_at FROM magnetis.calls WHERE connection = :name ORDER BY id",
    "alerts": "SELECT id, payload::text, first_seen_at, last_seen_at, changed_at, deleted_at "
    "FROM magnetis.email_alerts WHERE connection = :name ORDER BY id",
    "history": "SELECT id, payload::text, valid_from, valid_to FROM magnetis.email_alerts_history "
    "WHERE connection = :name ORDER BY id, valid_from",
    "changes": "SELECT changed_at, collection, setting_id, kind, changes::text "
    "FROM magnetis.settings_changes WHERE connection = :name ORDER BY 1, 2, 3",
    "days": "SELECT collection, day, read_at, announced, held FROM magnetis_ops.days "
    "WHERE connection = :name ORDER BY 1, 2",
    "strays": "SELECT collection, day, held FROM magnetis_ops.strays WHERE connection = :name "
    "ORDER BY 1, 2",
    "quarantine": "SELECT collection, key, reason, first_seen_at, last_seen_at "
    "FROM magnetis_ops.quarantine WHERE connection = :name ORDER BY 1, 2",
    "windows": "SELECT collection, first_day, last_day, read_at, announced, received, padding, "
    "held, quarantined, inserted, changed, deleted FROM magnetis_ops.windows "
    "WHERE connection = :name ORDER BY id",
}


def state(query: Query, name: str) -> dict[str, list[Any]]:
    return {what: query(statement, name=name) for what, statement in STATE.items()}


calls_ = st.lists(
    st.builds(
        lambda number, day, duration: call(number, day, duration=duration),
        st.integers(0, 3),
        st.sampled_from([DAY, NEXT]),
        st.integers(0, 2),
    )
    | st.builds(lambda number: {"id": f"c{number}", "start_at": "???"}, st.integers(0, 3)),
    max_size=4,
)
alerts = st.lists(
    st.builds(
        lambda number, enabled: {"id": f"x{number}", "title": "t", "enabled": enabled},
        st.integers(0, 3),
        st.integers(0, 1),
    ),
    max_size=4,
    unique_by=lambda row: row["id"],
)
windows_ = st.sampled_from([[DAY], [NEXT], [DAY, NEXT]])
loads = st.lists(
    st.tuples(st.sampled_from(["magnetis", "other"]), st.just("calls"), windows_, calls_)
    | st.tuples(
        st.sampled_from(["magnetis", "other"]), st.just("email_alerts"), st.just([DAY]), alerts
    ),
    min_size=2,
    max_size=7,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(loads=loads)
def test_interleaved_loads_of_two_connections_equal_separate_loads(
    warehouse: Warehouse, other: Warehouse, query: Query, loads: list[Any]
) -> None:
    by_name = {each.connection_name: each for each in (warehouse, other)}

    def run(only: str | None) -> dict[int, Any]:
        with warehouse.engine.begin() as connection:
            connection.execute(
                text(
                    "TRUNCATE magnetis.calls, magnetis.email_alerts, magnetis.email_alerts_history,"
                    "magnetis_ops.windows, magnetis_ops.days, magnetis_ops.strays, "
                    "magnetis_ops.quarantine CASCADE"
                )
            )
        results: dict[int, Any] = {}
        for number, (name, collection, days, rows) in enumerate(loads):
            if only in {None, name}:
                try:
                    results[number] = load_window(
                        by_name[name], collection, days, rows, read_at=FIRST + number * HOUR
                    )
                except CountMismatch as error:
                    results[number] = str(error)
        return results

    separate, results = {}, {}
    for name in by_name:
        results |= run(name)
        separate[name] = state(query, name)
    assert run(None) == results
    assert {name: state(query, name) for name in by_name} == separate


def test_each_result_concerns_its_own_connection(
    warehouse: Warehouse, other: Warehouse, query: Query
) -> None:
    calls, alerts_ = warehouse.catalogue["calls"], warehouse.catalogue["email_alerts"]
    load_window(warehouse, "calls", [DAY], [call(1), call(2), {"id": "q"}], read_at=FIRST)
    load_window(warehouse, "email_alerts", [DAY], [{"id": "x1", "enabled": 1}], read_at=FIRST)
    assert other.completed_days(calls, [DAY]) == {}
    assert other.completed_days(calls, [DAY], run_id="test") == {}
    assert other.quarantined(calls, [DAY]) == 0
    assert other.announced_totals(calls, [NEXT]) == []
    assert other.changes(alerts_, DAY) is None
    assert (other.count_rows(calls), other.count_rows(alerts_)) == (0, 0)
    assert first_day(other.engine, ["calls"], connection_name="other") is None
    assert first_day(other.engine, ["calls"]) == DAY
    assert current_rows(other.engine, alerts_, connection_name="other") is None
    load_window(other, "calls", [DAY], [call(1)], read_at=FIRST + HOUR)
    load_window(other, "email_alerts", [DAY], [{"id": "x1", "enabled": 0}], read_at=FIRST + HOUR)
    assert query("SELECT connection, id, deleted_at FROM magnetis.calls ORDER BY 1, 2") == [
        ("magnetis", "c1", None),
        ("magnetis", "c2", None),
        ("other", "c1", None),
    ]
    assert (warehouse.count_rows(calls), other.count_rows(calls)) == (2, 1)
    assert (warehouse.count_rows(alerts_), other.count_rows(alerts_)) == (1, 1)
    assert [each.reconcile(calls) for each in (warehouse, other)] == [[], []]
    assert [each.reconcile(alerts_) for each in (warehouse, other)] == [[], []]
    assert warehouse.quarantined(calls, [DAY]) == 1
    assert warehouse.announced_totals(calls, [NEXT]) == [3]
    assert current_rows(other.engine, alerts_, connection_name="other") == {
        "x1": {"id": "x1", "enabled": 0}
    }
    assert current_rows(other.engine, alerts_) == {"x1": {"id": "x1", "enabled": 1}}
    # the first snapshot of a connection contains no added setting, whatever others have
    assert query("SELECT connection, kind FROM magnetis.settings_changes ORDER BY 1") == [
        ("magnetis", "first_seen"),
        ("other", "first_seen"),
    ]
    lines = {
        each.connection_name: {
            line.collection: (line.days, line.rows)
            for line in summary(
                each.engine,
                each.catalogue,
                DAY,
                NEXT,
                ["test"],
                connection_name=each.connection_name,
            )
            if line.days
        }
        for each in (warehouse, other)
    }
    assert lines == {
        "magnetis": {"calls": (1, 2), "email_alerts": (1, 1)},
        "other": {"calls": (1, 1), "email_alerts": (1, 1)},
    }


def test_limits_and_caps_belong_to_a_connection(warehouse: Warehouse, other: Warehouse) -> None:
    calls = warehouse.catalogue["calls"]
    warehouse.learn_longest_window(calls, 7, "too long")
    other.learn_row_cap(calls, 2, "capped")
    assert (warehouse.window_limits(calls).most_days, warehouse.window_limits(calls).most_rows) == (
        7,
        None,
    )
    assert (other.window_limits(calls).most_days, other.window_limits(calls).most_rows) == (None, 2)
    for each in (warehouse, other):
        load_window(each, "calls", [DAY], [call(1), call(2)], read_at=FIRST)
    assert other.discard_windows_at_cap(calls, 2) == [DAY]
    assert other.completed_days(calls, [DAY]) == {}
    assert list(warehouse.completed_days(calls, [DAY])) == [DAY]
    assert [each.reconcile(calls) for each in (warehouse, other)] == [[], []]


def test_pages_belong_to_a_connection(warehouse: Warehouse, other: Warehouse) -> None:
    calls = warehouse.catalogue["calls"]
    mine, theirs = (each.page_cache(calls, "test", "same") for each in (warehouse, other))
    mine.keep([DAY], 1, b"mine", warehouse.now())
    assert theirs.windows() == []
    assert theirs.body([DAY], 1) is None
    theirs.keep([DAY], 1, b"theirs", warehouse.now())
    theirs.keep([NEXT], 1, b"theirs", warehouse.now())
    assert (mine.body([DAY], 1), theirs.body([DAY], 1)) == (b"mine", b"theirs")
    load_window(other, "calls", [DAY], [call(1)], read_at=FIRST)
    assert [window.first for window in theirs.windows()] == [NEXT], "committed pages are deleted"
    assert [window.first for window in mine.windows()] == [DAY]
    theirs.forget([NEXT])
    assert mine.body([DAY], 1) == b"mine"


def test_a_reparse_changes_only_rows_of_its_connection(
    warehouse: Warehouse, other: Warehouse, query: Query
) -> None:
    for each in (warehouse, other):
        load_window(each, "calls", [DAY], [call(1, duration=5)], read_at=FIRST)
        load_window(each, "pools", [DAY], [{"id": "p", "name": "a"}], read_at=FIRST)
    with warehouse.engine.begin() as connection:
        connection.execute(
            text("UPDATE magnetis.calls SET duration_seconds = 9, day = '2025-01-01'")
        )
        connection.execute(text("UPDATE magnetis.pools SET name = 'b'"))
        connection.execute(text("UPDATE magnetis.pools_history SET name = 'b'"))
        connection.execute(text("UPDATE magnetis_ops.days SET held = 0 WHERE collection = 'calls'"))
        connection.execute(
            text(
                "INSERT INTO magnetis_ops.strays (connection, collection, day, held) "
                "SELECT name, 'calls', '2025-01-01', 1 FROM unnest(ARRAY['magnetis', 'other']) "
                "AS name"
            )
        )
    counts = [reparse(other, other.catalogue[name]).read for name in ("calls", "pools")]
    assert counts == [1, 2], "a pool has one version in the history"
    assert query(
        "SELECT connection, duration_seconds, day::text FROM magnetis.calls ORDER BY 1"
    ) == [
        ("magnetis", 9, "2025-01-01"),
        ("other", 5, "2025-03-28"),
    ]
    for table in ("pools", "pools_history"):
        assert query(f"SELECT connection, name FROM magnetis.{table} ORDER BY 1") == [
            ("magnetis", "b"),
            ("other", "a"),
        ]
    assert query("SELECT connection, held FROM magnetis_ops.strays") == [("magnetis", 1)]
    calls = other.catalogue["calls"]
    assert [each.reconcile(calls) for each in (warehouse, other)] == [[], []]


def test_each_connection_has_its_own_source(engine: Engine, catalogue: Catalogue) -> None:
    calls, first, second = catalogue["calls"], {"origin": "https://a"}, {"origin": "https://b"}
    claim(engine, calls, key_fingerprint="one", **first)
    claim(engine, calls, key_fingerprint="two", **second, connection_name="other")
    claim(engine, calls, key_fingerprint="two", **second, connection_name="other")
    with pytest.raises(
        ForeignSource, match=r"calls: the rows of the connection other were loaded with another"
    ):
        claim(engine, calls, key_fingerprint="one", **second, connection_name="other")
    assert adopt(engine, key_fingerprint="three", **second, connection_name="other") == ["calls"]
    claim(engine, calls, key_fingerprint="one", **first)
    claim(engine, calls, key_fingerprint="three", **second, connection_name="other")


def test_a_policy_compares_rows_of_one_connection(warehouse: Warehouse, other: Warehouse) -> None:
    alert = {"id": "x", "account": {"id": "a1"}, "type": "lost_calls", "enabled": 1}
    load_window(warehouse, "accounts", [DAY], [{"id": "a1"}], read_at=FIRST)
    load_window(other, "accounts", [DAY], [{"id": "a1"}, {"id": "a2"}], read_at=FIRST)
    for each in (warehouse, other):
        load_window(each, "sms_alerts", [DAY], [], read_at=FIRST)
    load_window(warehouse, "email_alerts", [DAY], [alert], read_at=FIRST)
    load_window(
        other,
        "email_alerts",
        [DAY],
        [alert, {**alert, "id": "y", "account": {"id": "a3"}}],
        read_at=FIRST,
    )

    def violations(policy: str, collection: str, name: str) -> list[tuple[str, str]]:
        found = evaluate_policy(
            warehouse.engine,
            warehouse.catalogue,
            warehouse.catalogue.policies[policy],
            warehouse.catalogue[collection],
            connection_name=name,
        )
        assert found.not_evaluated is None
        return [(each.id, each.reason) for each in found.violations]

    assert violations("missed_call_alert", "email_alerts", "magnetis") == []
    assert violations("missed_call_alert", "email_alerts", "other") == [
        ("a2", "no alert on missed calls")
    ]


def test_forecasts_and_keys_belong_to_a_connection(engine: Engine) -> None:
    record(engine, "work", "calls", DAY, NEXT, 2, 500, 2, connection_name="other")
    with pytest.raises(UnknownBackfill):
        report(engine, "work")
    record(engine, "work", "calls", DAY, NEXT, 2, 100, 1)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO magnetis_ops.api_calls (key_fingerprint, day, charged_at, collection, "
                "route, page, lane, backfill_id, connection, status, rows) VALUES "
                "('k', '2025-06-12', magnetis_ops.now(), 'calls', '/x', 1, 'backfill', 'work', "
                "'other', 200, 5)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO magnetis_ops.quota_days (key_fingerprint, day, daily_quota) "
                "VALUES ('k', '2025-06-12', 5000)"
            )
        )
    assert [(line.calls, line.spent) for line in report(engine, "work")] == [(1, 0)]
    assert [
        (line.calls, line.spent) for line in report(engine, "work", connection_name="other")
    ] == [(2, 1)]
    assert (keys_used(engine), keys_used(engine, connection_name="other")) == (set(), {"k"})


def test_two_connections_load_one_collection_at_the_same_time_and_table_changes_wait(
    engine: Engine, catalogue: Catalogue
) -> None:
    calls, visits = catalogue["calls"], catalogue["visits"]

    def is_blocked(lock: Callable[..., None], *arguments: Any) -> bool:
        with engine.connect() as connection, connection.begin() as transaction:
            connection.execute(text("SET LOCAL lock_timeout = '200ms'"))
            try:
                with guarded(engine, "lock"):
                    lock(connection, *arguments)
            except DatabaseUnavailable:
                return True
            finally:
                transaction.rollback()
        return False

    def turn(connection: Any, collection: Any, name: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("magnetis_dagster.warehouse.merge_lock.LONGEST_WAIT", "200ms")
            wait_for_turn(connection, collection, name)

    with engine.connect() as connection, connection.begin():
        wait_for_turn(connection, calls, "magnetis")
        assert not is_blocked(turn, calls, "other")
        assert not is_blocked(turn, visits, "magnetis")
        assert is_blocked(turn, calls, "magnetis")
        assert is_blocked(lock_collection, calls)
        assert not is_blocked(lock_collection, visits)
    with engine.connect() as connection, connection.begin():
        lock_collection(connection, calls)
        assert is_blocked(turn, calls, "magnetis")
        assert is_blocked(turn, calls, "other")


MANY = """
    INSERT INTO magnetis.calls (connection, id, payload, occurred_at, day, first_seen_at,
        last_seen_at, changed_at)
    SELECT 'connection_' || n % 50, n, '{}', at, at::date, at, at, at
    FROM generate_series(1, 50000) AS n,
         LATERAL (SELECT timestamptz '2025-01-01Z' + n / 500 * interval '1 day') AS m(at)
"""


@pytest.fixture
def many(engine: Engine) -> None:
    """Fill calls with 100 days of 50 connections."""
    with engine.begin() as connection:
        connection.execute(text(MANY))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE magnetis.calls"))


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("has_rows", ["ix_calls_day_connection", "connection = "]),
        ("stored_days", ["ix_calls_day_connection", "connection = "]),
        ("mark_deleted", ["ix_calls_day_connection", "connection = "]),
        ("count_rows", ["ix_calls_day_connection", "connection = "]),
        # the rows of the requested days by the index of days, or each id by the key
        ("upsert", ["Index Scan using", "on calls c", "connection = "]),
    ],
)
def test_a_merge_reads_no_rows_of_other_connections(
    warehouse: Warehouse, statement: str, expected: list[str]
) -> None:
    calls = warehouse.catalogue["calls"]
    name = "connection_7"
    parameters = {
        "connection": name,
        "collection": "calls",
        "read_at": FIRST,
        "days": [date(2025, 1, 20), date(2025, 1, 21)],
        "undeleted": [],
    }
    with warehouse.staging(calls) as staging:
        staging.add([call(number, date(2025, 2, number % 20 + 1)) for number in range(200)])
        staging.connection.execute(text("ANALYZE incoming (key, id, reason, day)"))
        explained = text(f"EXPLAIN {merge_queries(calls).sql(statement)}")
        plan = "\n".join(line for (line,) in staging.connection.execute(explained, parameters))
        staging.connection.rollback()
    for each in expected:
        assert each in plan, plan
    conditions = [line for line in plan.splitlines() if "Index Cond" in line]
    assert all("connection = " in line for line in conditions), plan
    assert "Seq Scan on calls" not in plan


@pytest.mark.usefixtures("many")
def test_an_analysts_query_by_day_uses_the_index(query: Query) -> None:
    plan = query("EXPLAIN SELECT count(*) FROM magnetis.calls_current WHERE day = '2025-01-20'")
    assert any("ix_calls_day_connection" in line for (line,) in plan), plan


def test_declared_connections_are_written_only_if_they_differ(engine: Engine, query: Query) -> None:
    wide = DeclaredConnection("magnetis", "all accounts", None)
    narrow = DeclaredConnection("north", "the north", date(2026, 5, 1))
    stored = "SELECT name, scope, rank, key_expires, removed_at IS NOT NULL, xmin::text"
    stored += " FROM magnetis_ops.connections ORDER BY rank, name"
    declare(engine, [wide, narrow])
    first = query(stored)
    assert [row[:-1] for row in first] == [
        ("magnetis", "all accounts", 1, None, False),
        ("north", "the north", 2, date(2026, 5, 1), False),
    ]
    declare(engine, [wide, narrow])
    assert query(stored) == first
    declare(engine, [narrow])
    assert [row[:-1] for row in query(stored)] == [
        ("north", "the north", 1, date(2026, 5, 1), False),
        ("magnetis", "all accounts", None, None, True),
    ]
    second = query(stored)
    declare(engine, [narrow])
    assert query(stored) == second
    declare(engine, [narrow, wide])
    assert [row[:-1] for row in query(stored)] == [
        ("north", "the north", 1, date(2026, 5, 1), False),
        ("magnetis", "all accounts", 2, None, False),
    ]


def test_connections_of_components_are_not_removed(engine: Engine, query: Query) -> None:
    ours = DeclaredConnection("magnetis", None, None, 5)
    theirs = DeclaredConnection("north", "network", None, 3, COMPONENT)
    declare(engine, [theirs], complete=False)
    declare(engine, [ours])
    removed = "SELECT name FROM magnetis_ops.connections WHERE removed_at IS NOT NULL"
    assert query(removed) == []
    assert of_components(engine) == ["north"]
    declare(engine, [replace(theirs, declared_in=CONFIG)], complete=False)
    declare(engine, [ours])
    assert query(removed) == [("north",)]
    assert of_components(engine) == []


def test_the_status_has_the_last_load_and_the_recorded_rows(
    warehouse: Warehouse, other: Warehouse, query: Query
) -> None:
    assert status(warehouse.engine) == []
    load_window(other, "calls", [DAY], [call(1), call(2)], read_at=FIRST)
    load_window(other, "calls", [DAY], [call(1), call(2, NEXT)], read_at=FIRST + HOUR)
    load_window(other, "pools", [DAY], [{"id": "a"}, {"id": "b"}], read_at=FIRST)
    load_window(other, "pools", [NEXT], [{"id": "a"}], read_at=FIRST + HOUR)
    [(newest,)] = query("SELECT max(committed_at) FROM magnetis_ops.windows")
    assert status(warehouse.engine) == [
        ConnectionStatus("other", None, newest, 2 + 1, None, None)
    ], "a connection with rows is known without a declaration"
    declare(warehouse.engine, [DeclaredConnection("magnetis", "all", date(2026, 1, 1))])
    declared, removed = status(warehouse.engine)
    assert declared == ConnectionStatus("magnetis", "all", None, 0, date(2026, 1, 1), None)
    assert (removed.name, removed.rows, removed.removed_at is not None) == ("other", 3, True)


def test_the_status_of_an_empty_database_creates_nothing(empty_database_url: str) -> None:
    engine = connect(empty_database_url)
    assert status(engine) == []
    engine.dispose()


NAMES = ["a", "b", "c", "magnetis"]
stored_rows = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 4)), st.booleans(), max_size=14
)
orders = st.lists(
    st.permutations(NAMES).flatmap(
        lambda names: st.integers(0, 4).map(lambda number: names[:number])
    ),
    min_size=0,
    max_size=2,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=stored_rows, orders=orders)
def test_the_view_distinct_has_each_id_once_from_the_widest_connection(
    engine: Engine,
    query: Query,
    rows: dict[tuple[str, int], bool],
    orders: list[list[str]],
) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE magnetis.pools, magnetis_ops.connections"))
        for name in NAMES:
            connection.execute(
                text("INSERT INTO magnetis_ops.connections (name) VALUES (:name)"), {"name": name}
            )
        for (name, number), is_deleted in rows.items():
            connection.execute(
                text(
                    "INSERT INTO magnetis.pools (connection, id, payload, first_seen_at, "
                    "last_seen_at, changed_at, deleted_at) "
                    "VALUES (:name, :id, '{}', now(), now(), now(), "
                    "CASE WHEN :deleted THEN now() END)"
                ),
                {"name": name, "id": str(number), "deleted": is_deleted},
            )
    for order in orders:
        declare(engine, [DeclaredConnection(name, None, None) for name in order])
    ranked = orders[-1] if orders else []
    preferred: dict[str, str] = {}
    for (name, number), is_deleted in rows.items():
        if not is_deleted:
            before = preferred.get(str(number))
            preferred[str(number)] = min(
                (each for each in (before, name) if each is not None),
                key=lambda each: (ranked.index(each) if each in ranked else 99, each),
            )
    found = query("SELECT id, connection FROM magnetis.pools_distinct ORDER BY id")
    assert found == sorted(preferred.items())


def test_the_view_distinct_joins_names_of_the_same_connection(
    warehouse: Warehouse, other: Warehouse, query: Query
) -> None:
    for each, name in ((warehouse, "Nord"), (other, "Sud")):
        load_window(each, "accounts", [DAY], [{"id": "a1", "name": name}], read_at=FIRST)
        load_window(each, "calls", [DAY], [call(1)], read_at=FIRST)
    load_window(other, "calls", [NEXT], [call(2, NEXT)], read_at=FIRST)
    assert query(
        "SELECT connection, id, account_name FROM magnetis.calls_current ORDER BY 1, 2"
    ) == [
        ("magnetis", "c1", "Nord"),
        ("other", "c1", "Sud"),
        ("other", "c2", "Sud"),
    ]
    distinct = "SELECT id, connection, account_name FROM magnetis.calls_distinct ORDER BY id"
    assert query(distinct) == [("c1", "magnetis", "Nord"), ("c2", "other", "Sud")]
    declare(
        warehouse.engine,
        [DeclaredConnection("other", None, None), DeclaredConnection("magnetis", None, None)],
    )
    assert query(distinct) == [("c1", "other", "Sud"), ("c2", "other", "Sud")]
    columns = (
        "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:view AS regclass) ORDER BY attnum"
    )
    current, distinct_ = (
        query(columns, view=f"magnetis.calls_{view}") for view in ("current", "distinct")
    )
    assert current == distinct_
    assert current[-1] == ("connection",)


@pytest.mark.usefixtures("many")
def test_the_view_distinct_neither_sorts_nor_hashes_and_filters_early(
    engine: Engine, query: Query
) -> None:
    declare(engine, [DeclaredConnection(f"connection_{n}", None, None) for n in range(50)])
    plan = "\n".join(
        line
        for (line,) in query(
            "EXPLAIN SELECT count(*) FROM magnetis.calls_distinct WHERE day = '2025-01-20'"
        )
    )
    assert "ix_calls_day_connection" in plan
    assert "Hash" not in plan
    assert "calls_pkey" in plan
    whole = "\n".join(line for (line,) in query("EXPLAIN SELECT id FROM magnetis.calls_distinct"))
    assert "Hash" not in whole
    assert whole.count("Sort Key") == 1, "only the connections are sorted, to find the first one"


def test_settings_of_one_connections_overlay_stay_in_the_view_of_all(
    engine: Engine, warehouse: Warehouse, query: Query
) -> None:
    push = {
        "route": "/alerts/push",
        "family": "settings",
        "kind": "snapshot",
        "description": "Push alerts.",
        "columns": {"title": {"type": "text", "paths": ["title"]}},
    }
    catalogue = load_catalogue(None, {"collections": {"push_alerts": push}}, "other")
    zones: dict[str, Any] = {"response_zone": PARIS, "partition_zone": PARIS}
    other = Warehouse(
        engine,
        catalogue,
        connection_name="other",
        **zones,
        protection=PROTECTION,
    )
    other.prepare()
    load_window(other, "push_alerts", [DAY], [{"id": "1", "title": "t"}], read_at=FIRST)
    row = [("other", "push_alerts", "first_seen", "t")]
    statement = "SELECT connection, collection, kind, title FROM magnetis.settings_changes"
    assert query(statement) == row
    # catalogues without the collection
    columns = {"columns": {"extra": {"type": "text", "paths": ["extra"]}}}
    changed = load_catalogue(None, {"collections": {"calls": columns}}, "magnetis")
    Warehouse(
        engine,
        changed,
        **zones,
        protection=PROTECTION,
    ).prepare()
    warehouse.prepare()
    assert query(statement) == row
