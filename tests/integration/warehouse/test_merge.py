"""Merging windows: written, unchanged and deleted rows, and concurrent reads of a day."""

import secrets
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from magnetis_dagster.warehouse import Doubt, DoubtReason, Emptied, MovedRows, Warehouse

DAY = date(2025, 3, 28)
NEXT = DAY + timedelta(days=1)


def call(
    number: object, moment: str | None = "2025-03-28 10:00:00", **members: Any
) -> dict[str, Any]:
    return {
        "id": f"call-{number}",
        "account": {"id": "acc-1", "name": "Agence"},
        "start_at": moment,
        **members,
    }


def test_a_row_is_stored_with_typed_columns_and_payload(load: Any, query: Any) -> None:
    load(
        "calls",
        [DAY],
        [
            call(
                1, duration="61", caller_number="0033199000001", utm_source="google", weird={"a": 1}
            )
        ],
    )
    row = query(
        "SELECT id, account_id, day::text, occurred_at, duration_seconds, caller_number, "
        "utm_source, payload, deleted_at FROM magnetis.calls"
    )
    assert row == [
        (
            "call-1",
            "acc-1",
            "2025-03-28",
            datetime(2025, 3, 28, 9, tzinfo=UTC),
            61,
            "0033199000001",
            "google",
            call(
                1, duration="61", caller_number="0033199000001", utm_source="google", weird={"a": 1}
            ),
            None,
        )
    ]


def test_an_unchanged_row_is_not_rewritten(load: Any, query: Any) -> None:
    load("calls", [DAY], [call(1, duration=5), call(2, duration=5)])
    before = query("SELECT id, xmin::text, changed_at FROM magnetis.calls ORDER BY id")
    merged = load("calls", [DAY], [call(2, duration=6), {**call(1), "duration": 5}])
    after = query("SELECT id, xmin::text, changed_at FROM magnetis.calls ORDER BY id")
    assert after[0] == before[0]
    assert after[1][1] != before[1][1]
    assert after[1][2] > before[1][2]
    assert [(day.inserted, day.changed, day.held) for day in merged.days] == [(0, 1, 2)]


def test_a_row_no_longer_returned_is_marked_deleted_and_restored_if_it_returns(
    load: Any, query: Any
) -> None:
    load("calls", [DAY], [call(1), call(2)])
    merged = load("calls", [DAY], [call(1)])
    assert [(day.deleted, day.held) for day in merged.days] == [(1, 1)]
    deleted = query(
        "SELECT id, deleted_at, changed_at, last_seen_at FROM magnetis.calls "
        "WHERE deleted_at IS NOT NULL"
    )
    assert [row[0] for row in deleted] == ["call-2"]
    load("calls", [DAY], [call(1), call(2)])
    assert query("SELECT count(*) FROM magnetis.calls WHERE deleted_at IS NULL") == [(2,)]
    assert query("SELECT changed_at = first_seen_at FROM magnetis.calls WHERE id = 'call-2'") == [
        (True,)
    ]


def test_other_days_stay_unchanged_and_padding_is_not_stored(load: Any, query: Any) -> None:
    load("calls", [NEXT], [call("n", "2025-03-29 08:00:00")])
    merged = load(
        "calls",
        [DAY],
        [call(1), call("pad", "2025-03-29 00:30:00"), call("pad2", "2025-03-27 23:30:00")],
    )
    assert merged.padding == 2
    assert query("SELECT id FROM magnetis.calls WHERE deleted_at IS NULL ORDER BY id") == [
        ("call-1",),
        ("call-n",),
    ]


def test_a_row_that_moved_to_a_neighbouring_day_moves_in_the_table(load: Any, query: Any) -> None:
    load("calls", [DAY], [call(1), call(2)])
    merged = load("calls", [DAY], [call(1), call(2, "2025-03-29 00:30:00")])
    assert query("SELECT id, day::text, deleted_at FROM magnetis.calls ORDER BY id") == [
        ("call-1", "2025-03-28", None),
        ("call-2", "2025-03-29", None),
    ]
    assert [(day.announced, day.held, day.deleted) for day in merged.days] == [(1, 1, 0)]


def test_a_newer_read_supersedes_an_older_one(load: Any, query: Any) -> None:
    newer = datetime(2025, 4, 1, 12, tzinfo=UTC)
    load("calls", [DAY], [call(1, duration=9), call(2)], read_at=newer)
    merged = load(
        "calls",
        [DAY, NEXT],
        [call(1, duration=1), call("n", "2025-03-29 08:00:00")],
        read_at=newer - timedelta(hours=1),
    )
    assert merged.superseded == [DAY]
    assert query(
        "SELECT id, duration_seconds FROM magnetis.calls WHERE deleted_at IS NULL ORDER BY id"
    ) == [
        ("call-1", 9),
        ("call-2", None),
        ("call-n", None),
    ]


def test_a_read_from_a_clock_that_was_ahead_does_not_supersede_later_ones(
    load: Any, query: Any
) -> None:
    load(
        "calls",
        [DAY],
        [call(1, duration=1), call(2)],
        read_at=datetime.now(UTC) + timedelta(days=300),
    )
    merged = load("calls", [DAY], [call(1, duration=2), call(3)])
    assert merged.superseded == []
    assert query(
        "SELECT id, duration_seconds FROM magnetis.calls WHERE deleted_at IS NULL ORDER BY id"
    ) == [
        ("call-1", 2),
        ("call-3", None),
    ]


def test_an_account_id_too_long_for_its_index_becomes_null(load: Any, query: Any) -> None:
    load("calls", [DAY], [call(1, account={"id": secrets.token_hex(9_000)}), call(2)])
    assert query("SELECT id, account_id FROM magnetis.calls ORDER BY id") == [
        ("call-1", None),
        ("call-2", "acc-1"),
    ]
    assert query(
        "SELECT length(payload #>> '{account,id}') FROM magnetis.calls WHERE id = 'call-1'"
    ) == [(18_000,)]


def test_rows_that_cannot_be_placed_are_quarantined_with_the_reason(load: Any, query: Any) -> None:
    nameless = {"start_at": "2025-03-28 10:00:00", "duration": 3}
    rows = [
        call(1),
        call(2, "yesterday"),
        nameless,
        nameless,
        "text",
        call("x" * 600),
        call(3, None),
    ]
    for _ in range(2):
        merged = load("calls", [DAY], rows, rows)
        assert merged.quarantined == 6
        assert [(day.announced, day.held) for day in merged.days] == [(1, 1)]
    reasons = [
        reason for (reason,) in query("SELECT reason FROM magnetis_ops.quarantine ORDER BY reason")
    ]
    assert reasons == [
        "id longer than 512 bytes",
        "no id",
        "no id",
        "no usable time in start_at, started_at, date, created_at",
        "not an object but str",
        "unreadable time in start_at",
    ]
    load("calls", [DAY], [call(1), call(2)])
    assert query("SELECT count(*) FROM magnetis_ops.quarantine WHERE key = 'call-2'") == [(0,)]


def test_thousands_of_copies_of_a_row_are_one_row(load: Any, query: Any) -> None:
    merged = load("calls", [DAY], *[[call(1, duration=n)] * 5_000 for n in range(6)])
    assert [(day.announced, day.held) for day in merged.days] == [(1, 1)]
    assert query("SELECT duration_seconds FROM magnetis.calls") == [(5,)]


def test_a_stored_row_that_becomes_unreadable_stays_and_the_day_is_doubted(
    load: Any, query: Any
) -> None:
    load("calls", [DAY], [call(1), call(2)])
    merged = load("calls", [DAY], [call(1, duration=9), call(2, "???")])
    assert (merged.days, merged.quarantined) == ([], 1)
    assert merged.doubted == {DAY: Doubt(DoubtReason.UNREADABLE, held=2, rows=1)}
    assert query("SELECT payload ->> 'start_at' FROM magnetis_ops.quarantine") == [("???",)]
    assert query(
        "SELECT count(*), count(deleted_at), max(duration_seconds) FROM magnetis.calls"
    ) == [(2, 0, None)]
    assert query("SELECT announced, held FROM magnetis_ops.days") == [(2, 2)]


def test_a_small_share_of_unreadable_rows_stays_and_the_day_is_complete(
    load: Any, query: Any
) -> None:
    load("calls", [DAY], [call(n) for n in range(200)])
    merged = load("calls", [DAY], [call(0, "???"), *(call(n, duration=9) for n in range(1, 200))])
    assert [(day.announced, day.held, day.changed, day.deleted) for day in merged.days] == [
        (199, 200, 199, 0)
    ]
    assert query("SELECT count(*), count(deleted_at) FROM magnetis.calls") == [(200, 0)]


@pytest.mark.parametrize(
    ("remaining", "doubted"), [(0, True), (79, True), (80, False), (95, False)]
)
def test_deleting_a_large_share_of_a_day_is_doubted(
    load: Any, query: Any, remaining: int, doubted: bool
) -> None:
    load("calls", [DAY], [call(n) for n in range(100)])
    merged = load("calls", [DAY], [call(n) for n in range(remaining)], emptied=Emptied.DOUBT)
    reason = DoubtReason.DELETIONS if remaining else DoubtReason.EMPTIED
    assert merged.doubted == (
        {DAY: Doubt(reason, held=100, rows=100 - remaining)} if doubted else {}
    )
    assert query("SELECT count(deleted_at) FROM magnetis.calls") == [
        (0 if doubted else 100 - remaining,)
    ]
    assert query("SELECT held FROM magnetis_ops.days") == [(100 if doubted else remaining,)]


def test_a_large_share_of_few_rows_is_deleted_without_doubt(load: Any, query: Any) -> None:
    load("calls", [DAY], [call(n) for n in range(10)])
    merged = load("calls", [DAY], [call(n) for n in range(1)], emptied=Emptied.DOUBT)
    assert [(day.held, day.deleted) for day in merged.days] == [(1, 9)]


def test_deleting_a_large_share_of_a_snapshot_is_doubted(load: Any, query: Any) -> None:
    load("pools", [DAY], [{"id": f"p{n}", "name": "a"} for n in range(100)])
    merged = load(
        "pools", [NEXT], [{"id": f"p{n}", "name": "b"} for n in range(50)], emptied=Emptied.DOUBT
    )
    assert merged.doubted == {NEXT: Doubt(DoubtReason.DELETIONS, held=100, rows=50)}
    assert query(
        "SELECT count(*), count(deleted_at), count(*) FILTER (WHERE name = 'a') FROM magnetis.pools"
    ) == [(100, 0, 100)]
    assert query("SELECT count(*) FROM magnetis.pools_history") == [(100,)]


@pytest.mark.parametrize(("nameless", "doubted"), [(40, True), (1, False)])
def test_rows_without_a_readable_id_delete_nothing(
    load: Any, query: Any, nameless: int, doubted: bool
) -> None:
    load("calls", [DAY], [call(n) for n in range(200)])
    rows = [call(n) | ({"id": {"value": n}} if n < nameless else {}) for n in range(200)]
    merged = load("calls", [DAY], rows, emptied=Emptied.DOUBT)
    assert merged.doubted == (
        {DAY: Doubt(DoubtReason.UNREADABLE, held=200, rows=nameless)} if doubted else {}
    )
    assert query("SELECT count(*), count(deleted_at) FROM magnetis.calls") == [(200, 0)]
    assert query("SELECT held FROM magnetis_ops.days") == [(200,)]


def test_keep_stores_new_rows_and_deletes_none(load: Any, query: Any) -> None:
    load("calls", [DAY], [call(n) for n in range(100)])
    merged = load(
        "calls",
        [DAY],
        [call(n, duration=9) for n in range(10)] + [call("new")],
        emptied=Emptied.KEEP,
    )
    assert [
        (day.announced, day.held, day.inserted, day.changed, day.deleted) for day in merged.days
    ] == [(11, 101, 1, 10, 0)]
    assert query(
        "SELECT count(*), count(deleted_at), count(duration_seconds) FROM magnetis.calls"
    ) == [(101, 0, 10)]


def test_a_few_rows_that_move_out_of_a_large_day_are_accepted(load: Any, query: Any) -> None:
    load("calls", [DAY], [call(n) for n in range(600)])
    moved = [call(n, f"{NEXT} 00:30:00") for n in range(12)]
    merged = load("calls", [NEXT], moved + [call(f"x{n}", f"{NEXT} 10:00:00") for n in range(50)])
    assert merged.moved == 12


def test_a_row_that_moves_between_days_corrects_both_counts(load: Any, query: Any) -> None:
    load("calls", [DAY, NEXT], [call(n) for n in range(5)])
    merged = load("calls", [NEXT], [call(0, f"{NEXT} 09:00:00")])
    assert merged.moved == 1
    recorded = "SELECT day::text, held FROM magnetis_ops.days ORDER BY 1"
    stored = (
        "SELECT day::text, count(*) FROM magnetis.calls WHERE deleted_at IS NULL "
        "GROUP BY 1 ORDER BY 1"
    )
    assert query(recorded) == query(stored) == [(str(DAY), 4), (str(NEXT), 1)]


def test_a_row_that_moves_to_a_day_without_a_read_is_counted(
    load: Any, query: Any, warehouse: Warehouse
) -> None:
    load("calls", [DAY], [call(1), call(2)])
    load("calls", [DAY], [call(1), call(2, f"{NEXT} 00:30:00")])
    assert query("SELECT day, held FROM magnetis_ops.strays") == [(NEXT, 1)]
    assert warehouse.count_rows(warehouse.catalogue["calls"]) == 2
    load("calls", [NEXT], [call(2, f"{NEXT} 00:30:00"), call(3, f"{NEXT} 10:00:00")])
    assert query("SELECT count(*) FROM magnetis_ops.strays") == [(0,)]
    assert warehouse.count_rows(warehouse.catalogue["calls"]) == 3


def test_many_ids_that_rows_of_another_day_have_are_refused(load: Any, query: Any) -> None:
    load("calls", [DAY], [call(n) for n in range(100)])
    with pytest.raises(
        MovedRows,
        match="2025-03-29: 100 of 100 rows have ids that the table contains on other days",
    ):
        load("calls", [NEXT], [call(n, f"{NEXT} 10:00:00") for n in range(100)])
    assert query("SELECT day, held FROM magnetis_ops.days") == [(DAY, 100)]


def test_a_window_is_recorded_with_its_days(load: Any, query: Any) -> None:
    load(
        "calls",
        [DAY, NEXT],
        [call(1), call(2), call(3, "2025-03-29 09:00:00"), call("p", "2025-03-30 01:00:00")],
    )
    assert query(
        "SELECT announced, received, padding, held, inserted, first_day::text, last_day::text "
        "FROM magnetis_ops.windows"
    ) == [(4, 4, 1, 3, 3, "2025-03-28", "2025-03-29")]
    assert query("SELECT day::text, announced, held FROM magnetis_ops.days ORDER BY day") == [
        ("2025-03-28", 2, 2),
        ("2025-03-29", 1, 1),
    ]


def test_an_empty_day_is_complete_too(load: Any, query: Any) -> None:
    load("calls", [DAY], [])
    assert query("SELECT day::text, announced, held FROM magnetis_ops.days") == [
        ("2025-03-28", 0, 0)
    ]


def test_snapshots_keep_versions(load: Any, query: Any) -> None:
    def alert(number: int, **members: Any) -> dict[str, Any]:
        return {"id": f"ale-{number}", "account": {"id": "acc-1"}, "title": "Alerte", **members}

    load("email_alerts", [DAY], [alert(1, enabled=1), alert(2, enabled=1)])
    load("email_alerts", [DAY], [alert(1, enabled=0), alert(2, enabled=1)])
    load("email_alerts", [NEXT], [alert(1, enabled=0)])
    load("email_alerts", [NEXT], [alert(1, enabled=0), alert(2, enabled=1)])
    versions = query(
        "SELECT id, enabled, extract(hour FROM valid_from)::int, extract(hour FROM valid_to)::int "
        "FROM magnetis.email_alerts_history ORDER BY id, valid_from"
    )
    assert versions == [
        ("ale-1", True, 0, 1),
        ("ale-1", False, 1, None),
        ("ale-2", True, 0, 2),
        ("ale-2", True, 3, None),
    ]
    assert query("SELECT count(*) FROM magnetis.email_alerts WHERE deleted_at IS NULL") == [(2,)]


def test_nothing_is_written_when_the_transaction_fails(
    warehouse: Warehouse, load: Any, query: Any
) -> None:
    """PostgreSQL itself reports a full disk (SQLSTATE 53100) while the window is committed."""
    load("calls", [DAY], [call(1)])
    with warehouse.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE EXCEPTION 'could not extend file: call-2' USING ERRCODE = '53100'; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER full_disk BEFORE INSERT ON magnetis_ops.windows "
                "FOR EACH ROW EXECUTE FUNCTION public.full()"
            )
        )
    with pytest.raises(Exception, match="disk of the database server is full") as raised:
        load("calls", [DAY], [call(2, caller_number="0033199000002")])
    assert "call-2" not in str(raised.value)
    assert raised.value.__suppress_context__
    assert query("SELECT id FROM magnetis.calls WHERE deleted_at IS NULL") == [("call-1",)]
    assert query("SELECT count(*) FROM magnetis_ops.windows") == [(1,)]


# --- properties of all merges

days = st.sampled_from([DAY - timedelta(days=1), DAY, NEXT, NEXT + timedelta(days=1)])
rows = st.builds(
    lambda number, day, hour, duration: call(number, f"{day} {hour:02d}:15:00", duration=duration),
    st.integers(0, 12),
    days,
    st.integers(0, 23),
    st.integers(0, 3),
)
snapshots_of_rows = st.lists(rows, max_size=12, unique_by=lambda row: row["id"])
TABLE = """
    SELECT id, day::text, duration_seconds, payload, deleted_at IS NULL FROM magnetis.calls
    ORDER BY id
"""


def _reset(warehouse: Warehouse) -> None:
    with warehouse.engine.begin() as connection:
        connection.execute(
            text(
                "TRUNCATE magnetis.calls, magnetis_ops.windows, magnetis_ops.days, "
                "magnetis_ops.quarantine, magnetis_ops.strays CASCADE"
            )
        )


def _visible(found: list[Any]) -> list[Any]:
    return [row[:-1] for row in found if row[-1]]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(truth=snapshots_of_rows, data=st.data())
def test_order_and_duplication_of_pages_do_not_matter(
    warehouse: Warehouse,
    load: Any,
    query: Callable[..., list[Any]],
    truth: list[Any],
    data: st.DataObject,
) -> None:
    _reset(warehouse)
    load("calls", [DAY, NEXT], truth)
    straight = query(TABLE)
    _reset(warehouse)
    shuffled = data.draw(st.permutations(truth))
    cut = data.draw(st.integers(0, len(truth)))
    pages = [shuffled[:cut], shuffled[cut:], shuffled[: data.draw(st.integers(0, len(truth)))]]
    load("calls", [DAY, NEXT], *data.draw(st.permutations(pages)))
    assert query(TABLE) == straight
    load("calls", [DAY, NEXT], truth)
    assert query(TABLE) == straight


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(snapshots_of_rows, min_size=1, max_size=4), split=st.booleans())
def test_the_requested_days_contain_exactly_the_last_complete_read(
    warehouse: Warehouse,
    load: Any,
    query: Callable[..., list[Any]],
    history: list[list[Any]],
    split: bool,
) -> None:
    """Earlier reads do not matter, nor does the division of the days into windows."""
    _reset(warehouse)
    requested = [DAY, NEXT]
    for truth in history:
        for window in [[day] for day in requested] if split else [requested]:
            load("calls", window, truth)
    last = [(row["id"], row["start_at"][:10], row["duration"], row) for row in history[-1]]
    names = [str(day) for day in requested]
    expected = sorted((row for row in last if row[1] in names), key=lambda row: row[0])
    assert [row for row in _visible(query(TABLE)) if row[1] in names] == expected


# each state maps ids to a version of their content
snapshot_states = st.lists(
    st.dictionaries(st.integers(0, 4), st.integers(0, 2), max_size=5), min_size=1, max_size=6
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(states=snapshot_states)
def test_history_replays_to_exactly_the_snapshots(
    warehouse: Warehouse, load: Any, query: Callable[..., list[Any]], states: list[dict[int, int]]
) -> None:
    with warehouse.engine.begin() as connection:
        connection.execute(
            text(
                "TRUNCATE magnetis.pools, magnetis.pools_history, magnetis_ops.windows, "
                "magnetis_ops.days CASCADE"
            )
        )
    moments = [datetime(2025, 5, 1, hour, tzinfo=UTC) for hour in range(len(states))]
    for moment, state in zip(moments, states, strict=True):
        load(
            "pools",
            [DAY],
            [{"id": str(key), "name": str(value)} for key, value in state.items()],
            read_at=moment,
        )
    for moment, state in zip(moments, states, strict=True):
        as_it_was = query(
            "SELECT id, name FROM magnetis.pools_history "
            "WHERE valid_from <= :at AND (valid_to IS NULL OR valid_to > :at) ORDER BY id",
            at=moment,
        )
        assert as_it_was == sorted((str(key), str(value)) for key, value in state.items())
    assert query("SELECT count(*) FROM magnetis.pools_history WHERE valid_to IS NULL") == [
        (len(states[-1]),)
    ]


@pytest.mark.parametrize("emptied", [Emptied.DOUBT, Emptied.KEEP])
def test_a_day_with_rows_that_becomes_empty_is_doubted(
    load: Any, query: Any, emptied: Emptied
) -> None:
    first, second = DAY, NEXT
    rows = [
        call(1, f"{first} 10:00:00"),
        call(2, f"{first} 11:00:00"),
        call(3, f"{second} 10:00:00"),
    ]
    load("calls", [first, second], rows)
    before = query("SELECT day::text, held, read_at FROM magnetis_ops.days ORDER BY day")
    merged = load(
        "calls",
        [first, second],
        [call(3, f"{second} 10:00:00"), call(4, f"{second} 12:00:00")],
        emptied=emptied,
    )
    assert merged.doubted == {first: Doubt(DoubtReason.EMPTIED, held=2, rows=2)}
    assert [day.day for day in merged.days] == [second]
    assert query("SELECT count(*) FROM magnetis.calls WHERE deleted_at IS NULL") == [(4,)]
    assert (
        query("SELECT day::text, held, read_at FROM magnetis_ops.days ORDER BY day")[0] == before[0]
    )


def test_a_day_whose_rows_moved_to_another_day_is_not_doubted(load: Any, query: Any) -> None:
    first, second = DAY, NEXT
    load("calls", [first, second], [call(1, f"{first} 10:00:00")])
    merged = load("calls", [first, second], [call(1, f"{second} 10:00:00")], emptied=Emptied.DOUBT)
    assert (merged.doubted, [(day.day, day.held) for day in merged.days]) == (
        {},
        [(first, 0), (second, 1)],
    )


def test_a_snapshot_that_becomes_empty_is_doubted(load: Any, query: Any) -> None:
    load("pools", [DAY], [{"id": "p", "name": "a"}])
    merged = load("pools", [NEXT], [], emptied=Emptied.DOUBT)
    assert (merged.days, merged.doubted) == ([], {NEXT: Doubt(DoubtReason.EMPTIED, held=1, rows=1)})
    assert query("SELECT count(*) FROM magnetis.pools_history WHERE valid_to IS NULL") == [(1,)]


def test_each_read_of_a_day_is_recorded_with_its_age_and_changes(load: Any, query: Any) -> None:
    night = datetime(2025, 3, 29, 1, 0, tzinfo=UTC)
    load("calls", [DAY], [call(1, f"{DAY} 10:00:00"), call(2, f"{DAY} 11:00:00")], read_at=night)
    later = [call(1, f"{DAY} 10:00:00", status="answered"), call(3, f"{DAY} 12:00:00")]
    load("calls", [DAY], later, read_at=night + timedelta(days=3))
    assert query(
        "SELECT age_days, first_read, inserted, changed, deleted FROM magnetis_ops.day_reads "
        "ORDER BY window_id"
    ) == [
        (0, True, 2, 0, 0),
        (3, False, 1, 1, 1),
    ]
    assert query("SELECT * FROM magnetis_ops.late_changes") == []


def test_late_changes_show_which_lookback_is_sufficient(
    load: Any, query: Any, warehouse: Warehouse
) -> None:
    day = warehouse.now().date() - timedelta(days=12)
    for later, rows in ((1, 1), (2, 4), (3, 5), (9, 6)):
        read_at = datetime.combine(day + timedelta(days=later), time(12), UTC)
        load("calls", [day], [call(n, f"{day} 10:00:00") for n in range(rows)], read_at=read_at)
    found = query(
        "SELECT age_days, reads, held_rows, new_rows, reads_with_changes, percent_up_to_this_age "
        "FROM magnetis_ops.late_changes"
    )
    assert sorted(found) == [(1, 1, 4, 3, 1, 60), (2, 1, 5, 1, 1, 80), (8, 1, 6, 1, 1, 100)]
