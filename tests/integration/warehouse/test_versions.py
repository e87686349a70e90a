"""History of snapshots: it replays to every read, and the view of changes lists the differences."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.warehouse import ChangeKind, FieldChange, Warehouse
from magnetis_dagster.warehouse.migrate import migrate
from magnetis_dagster.warehouse.settings_changes import MOST_CHANGES

DAY = date(2025, 5, 1)
FIRST = datetime(2025, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
Row = dict[str, Any]
Query = Callable[..., list[Any]]


def alert(number: int, **members: Any) -> Row:
    return {
        "id": f"ale-{number:03d}",
        "account": {"id": f"acc-{number % 3}"},
        "title": f"Alerte {number}",
        **members,
    }


@pytest.fixture
def forget(warehouse: Warehouse) -> Callable[[], None]:
    def forget() -> None:
        with warehouse.engine.begin() as connection:
            connection.execute(
                text(
                    "TRUNCATE magnetis.email_alerts, magnetis.email_alerts_history, "
                    "magnetis_ops.windows, magnetis_ops.days CASCADE"
                )
            )

    return forget


def canonical(value: object) -> str:
    # 1 and true are equal to Python, not to PostgreSQL
    return json.dumps(value, sort_keys=True)


def differences(old: Row, new: Row) -> Row:
    return {
        name: {"old": old.get(name), "new": new.get(name)}
        for name in {*old, *new}
        if (name in old) != (name in new) or canonical(old.get(name)) != canonical(new.get(name))
    }


def expected_changes(snapshots: list[list[Row]]) -> list[Any]:
    """Return the rows of the view by comparing each snapshot with the one before it."""
    found = []
    before: dict[str, Row] = {}
    for number, snapshot in enumerate(snapshots):
        now = {row["id"]: row for row in snapshot}
        for key in {*before, *now}:
            old, new = before.get(key, {}), now.get(key, {})
            if canonical(old) != canonical(new):
                appeared = "added" if number else "first_seen"
                kind = "removed" if not new else "changed" if old else appeared
                row = new or old
                found.append(
                    (
                        FIRST + number * HOUR,
                        row["account"]["id"],
                        key,
                        row.get("title"),
                        kind,
                        canonical(differences(old, new)),
                    )
                )
        before = now
    return sorted(found, key=lambda change: change[:3])


def load_and_compare(snapshots: list[list[Row]], load: Any, query: Query, page: int) -> None:
    """Load the snapshots an hour apart; compare history, view and counts with them."""
    for number, snapshot in enumerate(snapshots):
        pages = [snapshot[start : start + page] for start in range(0, len(snapshot), page)]
        merged = load("email_alerts", [DAY], *pages, read_at=FIRST + number * HOUR)
        expected = [
            change[4]
            for change in expected_changes(snapshots[: number + 1])
            if change[0] == FIRST + number * HOUR
        ]
        [day] = merged.days
        assert (day.inserted, day.changed, day.deleted) == (
            expected.count("first_seen") + expected.count("added"),
            expected.count("changed"),
            expected.count("removed"),
        )

    versions = query(
        "SELECT id, payload, valid_from, valid_to FROM magnetis.email_alerts_history "
        "ORDER BY id, valid_from"
    )
    for moment in (FIRST + half * HOUR / 2 for half in range(-1, 2 * len(snapshots))):
        as_it_was = {
            key: canonical(row)
            for key, row, start, end in versions
            if start <= moment and (end is None or end > moment)
        }
        newest = (moment - FIRST) // HOUR
        truth = snapshots[newest] if newest >= 0 else []
        assert as_it_was == {row["id"]: canonical(row) for row in truth}

    for (key, payload, start, end), (next_key, next_payload, next_start, _) in pairwise(versions):
        assert end is None or start < end
        if key == next_key:
            assert end is not None, f"{key} has two open versions"
            assert end <= next_start, f"{key} has versions that overlap"
            assert end < next_start or canonical(payload) != canonical(next_payload), (
                "a version equals the one before it"
            )
    open_ids = [key for key, _, _, end in versions if end is None]
    assert open_ids == sorted(row["id"] for row in snapshots[-1])

    found = query(
        "SELECT changed_at, account_id, setting_id, title, kind, changes "
        "FROM magnetis.settings_changes WHERE collection = 'email_alerts' "
        "ORDER BY changed_at, account_id, setting_id"
    )
    assert [(*row[:-1], canonical(row[-1])) for row in found] == expected_changes(snapshots)


values = st.sampled_from([0, 1, True, False, None, "", "x", [], ["a@b.fr"], {"a": 1}, {"a": None}])
members = st.dictionaries(
    st.sampled_from(["enabled", "less_than", "recipients", "title", "o'connor"]), values, max_size=3
)
titles = st.fixed_dictionaries({}, optional={"title": st.sampled_from(["Alerte", "Alerte bis"])})
alerts = st.builds(
    lambda number, content, title: {
        "id": f"ale-{number}",
        "account": {"id": "acc-1"},
        **content,
        **title,
    },
    st.integers(0, 4),
    members.map(
        lambda content: {name: value for name, value in content.items() if name != "title"}
    ),
    titles,
)
sequences = st.lists(
    st.lists(alerts, max_size=5, unique_by=lambda row: row["id"]), min_size=1, max_size=5
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(snapshots=sequences, page=st.integers(1, 5))
def test_history_and_view_agree_with_any_sequence_of_snapshots(
    load: Any, query: Query, forget: Callable[[], None], snapshots: list[list[Row]], page: int
) -> None:
    forget()
    load_and_compare(snapshots, load, query, page)


@pytest.mark.parametrize("size", [250, 251, 500])
def test_history_and_view_agree_around_the_end_of_a_page(
    load: Any, query: Query, size: int
) -> None:
    """Rows disappear, appear, change, and move between pages of 250 rows."""
    whole = [alert(number, enabled=1) for number in range(size)]
    without_first = whole[1:]
    one_more = [alert(999, enabled=1), *without_first]
    edited = [
        row | {"enabled": 0} if number in {248, 249, 250, size - 1} else row
        for number, row in enumerate(one_more)
    ]
    load_and_compare(
        [whole, whole[::-1], without_first, one_more, edited, [whole[0]], whole], load, query, 250
    )


def test_a_removal_and_a_return_are_two_changes(load: Any, query: Query) -> None:
    one, two = alert(1, enabled=1), alert(2, enabled=1)
    load_and_compare(
        [[one, two], [one], [one], [two | {"enabled": 0}, one], [one], [one, two]], load, query, 250
    )
    assert query(
        "SELECT kind FROM magnetis.settings_changes WHERE setting_id = 'ale-002' "
        "ORDER BY changed_at"
    ) == [
        ("first_seen",),
        ("removed",),
        ("added",),
        ("removed",),
        ("added",),
    ]


def test_a_setting_after_an_empty_first_snapshot_is_added(load: Any, query: Query) -> None:
    load("sms_alerts", [DAY], [])
    load("sms_alerts", [DAY], [alert(1)])
    assert query("SELECT collection, kind FROM magnetis.settings_changes") == [
        ("sms_alerts", "added")
    ]


def test_a_superseded_read_leaves_no_version(load: Any, query: Query) -> None:
    load("email_alerts", [DAY], [alert(1, enabled=1)], read_at=FIRST)
    load("email_alerts", [DAY], [alert(1, enabled=0)], read_at=FIRST + 2 * HOUR)
    merged = load("email_alerts", [DAY], [alert(1, enabled=1), alert(2)], read_at=FIRST + HOUR)
    assert merged.superseded == [DAY]
    assert query("SELECT kind, changed_at FROM magnetis.settings_changes ORDER BY changed_at") == [
        ("first_seen", FIRST),
        ("changed", FIRST + 2 * HOUR),
    ]


def test_versions_from_a_clock_that_was_ahead_are_moved_before_the_next_read(
    load: Any, query: Query
) -> None:
    ahead = datetime.now(UTC) + timedelta(days=300)
    load("email_alerts", [DAY], [alert(1, enabled=1), alert(2)], read_at=FIRST)
    load("email_alerts", [DAY], [alert(1, enabled=0), alert(3)], read_at=ahead)
    load("email_alerts", [DAY], [alert(1, enabled=2), alert(3)], read_at=ahead + HOUR)
    load("email_alerts", [DAY], [alert(1, enabled=3), alert(2)], read_at=FIRST + HOUR)
    assert query(
        "SELECT id, payload -> 'enabled', valid_from - :first, valid_to - :first "
        "FROM magnetis.email_alerts_history ORDER BY id, valid_from",
        first=FIRST,
    ) == [
        ("ale-001", 1, timedelta(0), HOUR - timedelta(microseconds=2)),
        ("ale-001", 0, HOUR - timedelta(microseconds=2), HOUR - timedelta(microseconds=1)),
        ("ale-001", 2, HOUR - timedelta(microseconds=1), HOUR),
        ("ale-001", 3, HOUR, None),
        ("ale-002", None, timedelta(0), HOUR - timedelta(microseconds=2)),
        ("ale-002", None, HOUR, None),
        ("ale-003", None, HOUR - timedelta(microseconds=2), HOUR),
    ]


def test_the_changes_of_one_read_are_counted_and_listed(warehouse: Warehouse, load: Any) -> None:
    collection = warehouse.catalogue["email_alerts"]
    account = {"id": "acc-1", "name": "Agence"}
    load("email_alerts", [DAY], [alert(1, enabled=1, account=account), alert(2)], read_at=FIRST)
    load(
        "email_alerts",
        [DAY],
        [alert(1, enabled=0, account=account), alert(3)],
        read_at=FIRST + HOUR,
    )
    first = warehouse.changes(collection, DAY, FIRST)
    newest = warehouse.changes(collection, DAY)
    assert first
    assert newest
    assert (first.counts, first.listed) == ({ChangeKind.FIRST_SEEN: 2}, [])
    assert newest.counts == {ChangeKind.ADDED: 1, ChangeKind.CHANGED: 1, ChangeKind.REMOVED: 1}
    assert [(change.kind, change.setting_id) for change in newest.listed] == [
        ("removed", "ale-002"),
        ("changed", "ale-001"),
        ("added", "ale-003"),
    ]
    assert newest.listed[1].fields == {"enabled": FieldChange(1, 0)}
    assert (newest.listed[1].account_name, newest.listed[1].title) == ("Agence", "Alerte 1")
    assert warehouse.changes(collection, DAY + timedelta(days=1)) is None
    assert warehouse.changes(warehouse.catalogue["pools"], DAY) is None


def test_the_list_of_changes_is_limited(warehouse: Warehouse, load: Any) -> None:
    load("reports", [DAY], [alert(0)])
    load("reports", [DAY], [alert(number) for number in range(MOST_CHANGES + 11)])
    found = warehouse.changes(warehouse.catalogue["reports"], DAY)
    assert found
    assert (found.counts, len(found.listed)) == (
        {ChangeKind.ADDED: MOST_CHANGES + 10},
        MOST_CHANGES,
    )


def test_an_overlay_preserves_the_view_with_its_grants_and_dependent_views(
    warehouse: Warehouse, load: Any, query: Query, tmp_path: Path
) -> None:
    load("email_alerts", [DAY], [alert(1, enabled=1)])
    with warehouse.engine.begin() as connection:
        connection.execute(text("GRANT SELECT ON magnetis.settings_changes TO PUBLIC"))
        connection.execute(
            text("CREATE VIEW public.mine AS SELECT title FROM magnetis.settings_changes")
        )
    path = tmp_path / "overlay.yaml"
    for columns in ("{our_reference: {paths: [ref]}}", "{title: null}", "{}"):
        path.write_text(
            f"collections: {{email_alerts: {{columns: {columns}}}, sms_alerts: {{enabled: false}}}}"
        )
        migrate(warehouse.engine, load_catalogue(path))
        title = None if "title" in columns else "Alerte 1"
        assert query("SELECT kind, title FROM magnetis.settings_changes") == [("first_seen", title)]
    assert query("SELECT title FROM public.mine") == [("Alerte 1",)]
    assert query("SELECT has_table_privilege('public', 'magnetis.settings_changes', 'SELECT')") == [
        (True,)
    ]


def test_a_migration_creates_a_missing_view(warehouse: Warehouse, query: Query) -> None:
    with warehouse.engine.begin() as connection:
        connection.execute(text("DROP VIEW magnetis.settings_changes"))
        connection.execute(
            text("UPDATE magnetis_ops.schema_state SET digest = 'of a version before it'")
        )
    assert migrate(warehouse.engine, warehouse.catalogue) is True
    assert query("SELECT count(*) FROM magnetis.settings_changes") == [(0,)]
    [(about,)] = query("SELECT obj_description('magnetis.settings_changes'::regclass)")
    assert "one row per change" in about
