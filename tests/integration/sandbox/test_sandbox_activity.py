"""Changes of calls, leads, notification settings and numbers over time."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from magnetis_dagster.sandbox import SandboxOptions, World

START = datetime(2026, 9, 14, 7, 0, tzinfo=UTC)
"""A Monday morning."""
Row = dict[str, Any]
SETTINGS = ("reports", "email_alerts", "sms_alerts")


class ChangingWorld:
    def __init__(self, now: datetime = START, **options: Any) -> None:
        self.now = now
        self.world = World(
            SandboxOptions(**({"activity": True, "clock": lambda: self.now} | options))
        )

    def rows(self, collection: str, *days: date) -> dict[str, Row]:
        return {row["id"]: row for row in self.world.truth(collection, *days)}

    def settings(self) -> dict[str, Row]:
        return {identifier: row for name in SETTINGS for identifier, row in self.rows(name).items()}


def changed(before: dict[str, Row], after: dict[str, Row]) -> list[tuple[str, str]]:
    both = before.keys() & after.keys()
    return [
        (identifier, member)
        for identifier in both
        for member in after[identifier]
        if after[identifier] != before[identifier]
        and after[identifier][member] != before[identifier][member]
    ]


def test_nothing_changes_without_the_option() -> None:
    changing = ChangingWorld(activity=False)
    days = date(2026, 9, 7), date(2026, 9, 13)
    before = (
        {name: changing.rows(name, *days) for name in ("calls", "leads", "numbers")},
        changing.settings(),
    )
    changing.now += timedelta(days=40)
    assert (
        {name: changing.rows(name, *days) for name in ("calls", "leads", "numbers")},
        changing.settings(),
    ) == before


def test_an_alert_is_edited_two_minutes_after_the_start() -> None:
    changing = ChangingWorld(
        datetime(2026, 9, 12, 3, tzinfo=UTC)
    )  # a Saturday night: no other edits
    before = changing.settings()
    changing.now += timedelta(seconds=119)
    assert changing.settings() == before
    changing.now += timedelta(seconds=1)
    edits = changed(before, changing.settings())
    assert len(edits) == 1, edits
    assert edits[0][0].startswith(("ale-", "als-"))


def test_settings_are_edited_on_working_days_in_office_hours() -> None:
    changing, edits = ChangingWorld(), dict[datetime, int]()
    # exclude the demonstration's edits, which follow the start of the sandbox
    changing.world._started = datetime(2027, 1, 1, tzinfo=UTC)
    state = changing.settings()
    for _ in range(21 * 24 * 2):
        changing.now += timedelta(minutes=30)
        if (new := changing.settings()) != state:
            edits[changing.now.astimezone(changing.world.options.zone)] = 1
            state = new
    assert 5 <= len(edits) <= 40
    assert {moment.weekday() for moment in edits} <= set(range(5))
    assert all(8 <= moment.hour <= 18 for moment in edits)


def test_numbers_alerts_and_accounts_are_added_and_removed_over_months() -> None:
    early, late = (
        ChangingWorld(datetime(2026, 1, 1, tzinfo=UTC)),
        ChangingWorld(datetime(2026, 12, 31, tzinfo=UTC)),
    )
    assert len(late.rows("accounts")) > len(early.rows("accounts"))
    assert len(late.rows("numbers")) > len(early.rows("numbers"))
    assert early.rows("email_alerts").keys() ^ late.rows("email_alerts").keys()
    assert [row for row in late.rows("numbers").values() if not row["enabled"]]
    accounts, pools = late.rows("accounts"), late.rows("pools")
    for row in late.rows("numbers").values():
        assert row["account"]["id"] in accounts
        assert row["number"] in pools[row["pool"]["id"]]["numbers"]
    new = late.rows("email_alerts").keys() - early.rows("email_alerts").keys()
    assert all(late.rows("email_alerts")[each]["created_at"] >= "2026-01-01" for each in new)
    assert {row["account"]["id"] for row in late.rows("email_alerts").values()} >= set(
        early.rows("accounts")
    ), "each account keeps an alert"


def test_calls_change_late_and_some_are_deleted() -> None:
    day = date(2026, 9, 14)
    changing = ChangingWorld(datetime(2026, 9, 14, 22, tzinfo=UTC), calls_per_day=1500)
    states = [changing.rows("calls", day, day)]
    for _ in range(26):
        changing.now += timedelta(days=1)
        states.append(changing.rows("calls", day, day))
        assert changing.world.count("calls", day, day) == len(states[-1])
    first, after_3, after_8, last = states[0], states[3], states[8], states[-1]
    ringing = [row for row in first.values() if row["status"] == "ringing"]
    assert 10 < len(ringing) < 30
    assert {(row["duration"], row["end_at"]) for row in ringing} == {(0, None)}
    assert not [row for row in after_3.values() if row["status"] == "ringing"]
    members = {member for _, member in changed(first, last)}
    assert members == {"status", "duration", "end_at", "analysis", "caller_name"}
    assert first.keys() > last.keys(), "some calls are deleted, and none is added"
    assert changed(after_3, after_8), "calls still change after 3 days"
    assert changed(after_8, last), "calls still change after 8 days"


def test_leads_change_their_status_in_order() -> None:
    day = date(2026, 9, 14)
    changing = ChangingWorld(datetime(2026, 9, 14, 22, tzinfo=UTC), calls_per_day=600)
    order = ("new", "qualified", "closed")
    states = [
        {identifier: row["status"] for identifier, row in changing.rows("leads", day, day).items()}
    ]
    for _ in range(15):
        changing.now += timedelta(days=1)
        states.append(
            {
                identifier: row["status"]
                for identifier, row in changing.rows("leads", day, day).items()
            }
        )
    assert set(states[0].values()) == {"new"}
    assert set(states[-1].values()) == set(order)
    for identifier in states[0]:
        steps = [order.index(state[identifier]) for state in states]
        assert steps == sorted(steps)


def all_rows(world: World) -> Any:
    days = date(2026, 9, 7), date(2026, 9, 20)
    return {
        name: list(world.truth(name, *days))
        for name in (*world._snapshots, *world.events_collections)
    }


def test_the_state_depends_on_seed_and_clock_but_not_on_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # exclude the demonstration's edits, which follow the start
    monkeypatch.setattr("magnetis_dagster.sandbox.activity.SOON", timedelta(days=9999))
    early, late = ChangingWorld(), ChangingWorld(START + timedelta(days=10))
    for _ in range(40):
        early.now += timedelta(hours=6)
        early.settings()
    assert all_rows(early.world) == all_rows(late.world)
    assert all_rows(ChangingWorld(START + timedelta(days=10), seed=2).world) != all_rows(late.world)


def test_edits_of_a_user_survive_changes_over_time() -> None:
    changing, day = ChangingWorld(), date(2026, 9, 11)
    call = next(iter(changing.rows("calls", day, day)))
    report = next(iter(changing.rows("reports")))
    changing.world.edit("calls", call, status="checked")
    changing.world.edit("reports", report, type="mine")
    changing.now += timedelta(days=20)
    assert changing.rows("calls", day, day)[call]["status"] == "checked"
    assert changing.rows("reports")[report]["type"] == "mine"


def test_pages_are_consistent_while_rows_change(open_sandbox: Callable[..., Any]) -> None:
    now = [START]
    sandbox = open_sandbox(activity=True, clock=lambda: now[0])
    for _ in range(3):
        page = sandbox.page("calls", from_="20260901000000", to="20260910000000")
        assert page["meta"]["total"] == sandbox.world.count(
            "calls", date(2026, 9, 1), date(2026, 9, 10)
        ) - sum(
            row["start_at"] > "2026-09-10 02:00:00"
            for row in sandbox.world.truth("calls", date(2026, 9, 10), date(2026, 9, 10))
        ) - sum(
            row["start_at"] < "2026-09-01 02:00:00"
            for row in sandbox.world.truth("calls", date(2026, 9, 1), date(2026, 9, 1))
        )
        now[0] += timedelta(days=2)
