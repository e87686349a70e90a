"""The settings sensors, run by the daemon.

Each change is loaded once, without a further API call, even after failures.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster_daemon import Daemon, daemon
from small_api import PARIS, SmallApi

from magnetis_dagster.definitions import build_defs
from magnetis_dagster.defs import settings_sensors
from magnetis_dagster.defs.settings_cursor import CollectionState
from magnetis_dagster.warehouse import Warehouse

SENSOR = "alert_settings_sensor"
EMAIL, SMS = "/alerts/email", "/alerts/sms"
ALERTS = frozenset(
    {dg.AssetKey(["magnetis", "email_alerts"]), dg.AssetKey(["magnetis", "sms_alerts"])}
)
RECIPIENT = "jeanne.martin@exemple.fr"


def alert(number: int, **members: Any) -> dict[str, Any]:
    known = {
        "enabled": 1,
        "less_than": None,
        "recipients": [RECIPIENT],
        "title": f"Alerte {number}",
        "type": "lost_calls",
    }
    return {"id": f"ale-{number}", "account": {"id": "acc-1", "name": "Agence"}, **known, **members}


@pytest.fixture
def running(tmp_path: Path, api: SmallApi) -> Iterator[Daemon]:
    api.rows |= {EMAIL: [alert(1), alert(2)], SMS: [alert(3, recipients=["0033199000001"])]}
    with daemon(tmp_path) as running:
        yield running


@pytest.fixture
def tick(running: Daemon) -> Callable[..., InstigatorTick]:
    def tick(expected: TickStatus = TickStatus.SKIPPED) -> InstigatorTick:
        ticked = running.sensor_tick(SENSOR)
        assert ticked.status is expected, ticked.skip_reason or ticked.error
        return ticked

    return tick


def runs(running: Daemon) -> list[tuple[str, list[str]]]:
    """Return status and collections of each run, oldest first."""
    found = reversed(running.instance.get_runs())
    return [
        (run.status.value, sorted(key.path[-1] for key in run.asset_selection or ()))
        for run in found
    ]


def changed(api: SmallApi, route: str, number: int, **members: Any) -> None:
    api.rows[route] = [
        row | members if row["id"] == f"ale-{number}" else row for row in api.rows[route]
    ]


HISTORY = (
    "SELECT id, payload->>'title', valid_to IS NULL FROM magnetis.email_alerts_history "
    "ORDER BY valid_from, id"
)


def test_a_run_loads_each_changed_collection_without_a_further_api_call(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi, query: Any
) -> None:
    tick(TickStatus.SUCCESS)
    assert runs(running) == [("SUCCESS", ["email_alerts", "sms_alerts"])]
    for _ in range(3):
        assert "email_alerts: 2 rows, unchanged since" in str(tick().skip_reason)
    changed(api, EMAIL, 1, title="B")
    tick(TickStatus.SUCCESS)
    changed(api, EMAIL, 1, title="Alerte 1")  # changed back
    tick(TickStatus.SUCCESS)
    api.rows[EMAIL].reverse()
    tick()
    assert runs(running)[1:] == [("SUCCESS", ["email_alerts"])] * 2
    assert [request.path for request in api.requests] == [EMAIL, SMS] * 7
    assert query(HISTORY) == [
        ("ale-1", "Alerte 1", False),
        ("ale-2", "Alerte 2", True),
        ("ale-1", "B", False),
        ("ale-1", "Alerte 1", True),
    ]
    assert query("SELECT lane, run_id, count(*) FROM magnetis_ops.api_calls GROUP BY 1, 2") == [
        ("settings", SENSOR, 14)
    ]
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]


def test_content_loaded_before_the_first_tick_is_not_loaded_again(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi
) -> None:
    job = build_defs().resolve_job_def("daily_snapshots")
    today = str(datetime.now(PARIS).date())
    waiting = running.instance.create_run_for_job(
        job, tags={"dagster/partition": today}, asset_selection=ALERTS
    )
    assert "email_alerts: a run is loading it; the next tick compares." in str(tick().skip_reason)
    running.instance.delete_run(waiting.run_id)
    assert job.execute_in_process(
        instance=running.instance, asset_selection=[*ALERTS], partition_key=today
    ).success
    assert "email_alerts: 2 rows, already loaded before the first tick." in str(tick().skip_reason)
    assert "email_alerts: 2 rows, unchanged since" in str(tick().skip_reason)
    changed(api, EMAIL, 1, title="B")
    tick(TickStatus.SUCCESS)
    assert runs(running)[1:] == [("SUCCESS", ["email_alerts"])]


def test_a_removed_and_restored_row_is_loaded_twice(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi, query: Any
) -> None:
    tick(TickStatus.SUCCESS)
    removed = api.rows[EMAIL].pop()
    tick(TickStatus.SUCCESS)
    assert query("SELECT id FROM magnetis.email_alerts WHERE deleted_at IS NULL") == [("ale-1",)]
    api.rows[EMAIL].append(removed)
    tick(TickStatus.SUCCESS)
    tick()
    assert query(HISTORY) == [
        ("ale-1", "Alerte 1", True),
        ("ale-2", "Alerte 2", False),
        ("ale-2", "Alerte 2", True),
    ]


def test_a_collection_with_several_pages_is_loaded(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi, query: Any
) -> None:
    for rows in (300, 251):
        api.rows[EMAIL] = [alert(number) for number in range(rows)]
        before = len(api.requests)
        tick(TickStatus.SUCCESS)
        assert len(api.requests) == before + 3
        assert query("SELECT count(*) FROM magnetis.email_alerts WHERE deleted_at IS NULL") == [
            (rows,)
        ]


ANSWERS = {
    "key refused": (401, {}, b'{"message": "Unauthenticated."}'),
    "forbidden": (403, {}, b'{"message": "Forbidden."}'),
    "no such route": (404, {}, b'{"message": "Not found."}'),
    "throttled": (429, {"Retry-After": "3600"}, b'{"message": "Too Many Attempts."}'),
    "down": (500, {}, b"<html>" + RECIPIENT.encode()),
    "not JSON": (200, {"Content-Type": "text/html"}, b"<html>" + RECIPIENT.encode()),
    "cut short": (200, {}, b'{"data": [{"id": "ale-1", "recipients": ["' + RECIPIENT.encode()),
    "elsewhere": (302, {"Location": "https://elsewhere.invalid/"}, b""),
}


def test_an_error_is_the_skip_reason_and_the_change_is_loaded_later(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi, clock: Any, query: Any
) -> None:
    tick(TickStatus.SUCCESS)
    for what, answer in ANSWERS.items():
        changed(api, EMAIL, 1, title=what)
        api.respond = lambda request, answer=answer: answer if request.path == EMAIL else None
        reason = str(tick().skip_reason)
        assert "GET /alerts/email" in reason, what
        assert RECIPIENT not in reason
        api.respond = lambda _request: None
        clock.advance(timedelta(hours=2))
        tick(TickStatus.SUCCESS)
        assert query("SELECT title FROM magnetis.email_alerts WHERE id = 'ale-1'") == [(what,)]
    assert [found for _, found in runs(running)[1:]] == [["email_alerts"]] * len(ANSWERS)


def test_a_collection_that_keeps_failing_is_read_less_often(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi
) -> None:
    api.respond = lambda request: ANSWERS["no such route"] if request.path == EMAIL else None
    tick(TickStatus.SUCCESS)  # the other collection is loaded
    reasons = [str(tick().skip_reason) for _ in range(6)]
    assert [request.path for request in api.requests].count(EMAIL) == 3, (
        "after 1, 2, 3 failures, 0, 1, 3 ticks are skipped"
    )
    assert (
        "email_alerts: skipped after 3 consecutive failures. sms_alerts: 1 rows, unchanged since"
        in reasons[-1]
    )


def test_an_exhausted_quota_sends_no_request(
    running: Daemon,
    tick: Callable[..., InstigatorTick],
    api: SmallApi,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAGNETIS_DAILY_QUOTA", "2")
    tick(TickStatus.SUCCESS)
    assert "Out of quota for lane settings" in str(tick().skip_reason)
    monkeypatch.setenv("MAGNETIS_DAILY_QUOTA", "5000")
    changed(api, SMS, 3, enabled=0)
    tick(TickStatus.SUCCESS)
    assert len(api.requests) == 4


def test_rows_that_change_during_the_read_are_reported(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi
) -> None:
    tick(TickStatus.SUCCESS)
    twice = [alert(1), alert(1)]
    api.respond = lambda request: api.envelope(twice, request) if request.path == EMAIL else None
    assert (
        "email_alerts: the API announced 2 rows and returned 1 distinct ones; 1 rows occur twice"
        in str(tick().skip_reason)
    )


def test_a_failed_run_is_requested_again_and_loads_the_same_pages(
    running: Daemon,
    tick: Callable[..., InstigatorTick],
    api: SmallApi,
    query: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit, failures = Warehouse.commit, [1]

    def fails_once(self: Warehouse, *arguments: Any) -> Any:
        if failures:
            failures.pop()
            raise dg.Failure("a test", allow_retries=False)
        return commit(self, *arguments)

    monkeypatch.setattr(Warehouse, "commit", fails_once)
    tick(TickStatus.SUCCESS)
    tick(TickStatus.SUCCESS)
    assert runs(running) == [
        ("FAILURE", ["email_alerts", "sms_alerts"]),
        ("SUCCESS", ["email_alerts", "sms_alerts"]),
    ]
    tick()
    tick()
    assert query("SELECT count(*) FROM magnetis.email_alerts_history") == [(2,)]


def test_a_tick_that_is_evaluated_twice_launches_one_run(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi, query: Any
) -> None:
    tick(TickStatus.SUCCESS)
    cursor = running.cursor(SENSOR)
    changed(api, EMAIL, 1, title="B")
    tick(TickStatus.SUCCESS)
    # the daemon died before it stored the cursor, or a second daemon runs
    running.set_cursor(SENSOR, cursor)
    tick()
    assert len(runs(running)) == 2
    assert query(HISTORY) == [
        ("ale-1", "Alerte 1", False),
        ("ale-2", "Alerte 2", True),
        ("ale-1", "B", True),
    ]


def test_one_of_two_concurrent_ticks_requests_the_run_and_a_lost_request_is_repeated(
    running: Daemon,
    tick: Callable[..., InstigatorTick],
    api: SmallApi,
    query: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tick(TickStatus.SUCCESS)
    changed(api, EMAIL, 1, title="B")
    request = settings_sensors._request

    def after_a_twin(name: str, seen: Any, states: Any, *more: Any) -> Any:
        a_second_ago = [
            (each, replace(found, at=found.at - timedelta(seconds=1))) for each, found in seen
        ]
        assert request(name, a_second_ago, deepcopy(states), *more)
        return request(name, seen, states, *more)

    with monkeypatch.context() as patched:
        patched.setattr(settings_sensors, "_request", after_a_twin)
        assert "Another tick has just read the same content" in str(tick().skip_reason)
    tick(TickStatus.SUCCESS)  # the twin died before it launched
    tick()
    assert len(runs(running)) == 2
    assert query(HISTORY) == [
        ("ale-1", "Alerte 1", False),
        ("ale-2", "Alerte 2", True),
        ("ale-1", "B", True),
    ]


def test_no_change_is_lost_if_the_daemon_dies_before_the_launch(
    running: Daemon,
    tick: Callable[..., InstigatorTick],
    api: SmallApi,
    query: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tick(TickStatus.SUCCESS)
    cursor = running.cursor(SENSOR)
    changed(api, EMAIL, 1, title="B")
    with monkeypatch.context() as dies:
        dies.setattr(
            dg.DagsterInstance, "submit_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            running.sensor_tick(SENSOR)
    assert running.cursor(SENSOR) == cursor
    tick(TickStatus.SUCCESS)
    tick()
    assert [status for status, _ in runs(running)] == ["SUCCESS", "SUCCESS"]
    assert query(HISTORY) == [
        ("ale-1", "Alerte 1", False),
        ("ale-2", "Alerte 2", True),
        ("ale-1", "B", True),
    ]


def test_an_empty_or_invalid_cursor_loads_all_collections_once(
    running: Daemon, tick: Callable[..., InstigatorTick], query: Any
) -> None:
    tick(TickStatus.SUCCESS)
    wrong = json.loads(running.cursor(SENSOR) or "{}")
    wrong["email_alerts"]["since"] = "yesterday"
    for cursor in (
        "{}",
        "nonsense",
        "[]",
        '{"email_alerts": 3}',
        '{"email_alerts": {"digest": 1}}',
        json.dumps(wrong),
    ):
        running.set_cursor(SENSOR, cursor)
        tick(TickStatus.SUCCESS)
        tick()
        assert json.loads(running.cursor(SENSOR) or "{}").keys() == {"email_alerts", "sms_alerts"}
    assert runs(running) == [("SUCCESS", ["email_alerts", "sms_alerts"])] * 7
    assert query("SELECT count(*) FROM magnetis.email_alerts_history") == [(2,)]


def test_earlier_content_is_loaded_again_after_the_cursor_was_emptied(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi, query: Any
) -> None:
    tick(TickStatus.SUCCESS)
    changed(api, EMAIL, 1, title="B")
    tick(TickStatus.SUCCESS)
    changed(api, EMAIL, 1, title="Alerte 1")
    running.set_cursor(SENSOR, "{}")
    tick(TickStatus.SUCCESS)
    tick()
    assert query(HISTORY)[2:] == [("ale-1", "B", False), ("ale-1", "Alerte 1", True)]


def reads(api: SmallApi, route: str) -> int:
    return [request.path for request in api.requests].count(route)


def test_a_volatile_member_is_named_and_its_collection_is_read_less_often(
    running: Daemon, api: SmallApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = {"number": 0, "still": False}

    def respond(request: Any) -> Any:
        if request.path != EMAIL:
            return None
        moves["number"] += 0 if moves["still"] else 1
        sent = f"2025-03-28 10:00:{moves['number']:02d}"
        rows = [
            alert(number, stats={"sent_at": sent, "0033199000001": 1}, title=f"T{number}")
            for number in range(3)
        ]
        return api.envelope(rows, request)

    api.respond = respond
    ticks = [running.sensor_tick(SENSOR) for _ in range(20)]
    launched = [tick.status is TickStatus.SUCCESS for tick in ticks]
    # the first load, five changes, then every second tick, then one an hour
    assert launched == [True] * 6 + [False, True] + ([False] * 3 + [True]) * 3
    assert reads(api, SMS) == 20, "the other collection is read at every tick"
    words = str(ticks[6].skip_reason)
    assert "email_alerts: changed in 5 consecutive reads, each time in stats.sent_at." in words
    assert "collections: {email_alerts: {volatile: [stats.sent_at]}}" in words
    assert "sms_alerts: 1 rows, unchanged since" in words
    cursor = str(running.cursor(SENSOR))
    assert json.loads(cursor)["email_alerts"]["changing"] == ["stats.sent_at"]
    for secret in (RECIPIENT, "0033199000001", "2025-03-28 10"):
        assert secret not in words + cursor

    moves["still"] = True
    for _ in range(4):
        last = running.sensor_tick(SENSOR)
    assert "email_alerts: 3 rows, unchanged since" in str(last.skip_reason)
    assert "consecutive" not in str(last.skip_reason)
    before = reads(api, EMAIL)
    for _ in range(3):
        running.sensor_tick(SENSOR)
    assert reads(api, EMAIL) == before + 3, "at every tick again"


def test_only_members_that_change_in_each_read_are_named(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi
) -> None:
    tick(TickStatus.SUCCESS)
    for number in range(6):
        changed(
            api,
            EMAIL,
            1,
            rotating=str(number),
            **({"title": f"by hand {number}"} if number % 2 else {}),
        )
        running.sensor_tick(SENSOR)
    assert json.loads(str(running.cursor(SENSOR)))["email_alerts"]["changing"] == ["rotating"]


def test_rows_that_appear_and_disappear_are_reported(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi
) -> None:
    tick(TickStatus.SUCCESS)
    for number in range(5):
        api.rows[EMAIL] = [alert(number + 10), alert(2)]
        tick(TickStatus.SUCCESS)
    words = str(tick().skip_reason)
    assert "rows appear and disappear, or other members change each time" in words
    assert "volatile" not in words


def test_a_cursor_of_an_earlier_version_is_read(
    running: Daemon, tick: Callable[..., InstigatorTick], api: SmallApi
) -> None:
    tick(TickStatus.SUCCESS)
    known = json.loads(str(running.cursor(SENSOR)))
    for state in known.values():
        for name in ("members", "changes", "changing"):
            del state[name]
    running.set_cursor(SENSOR, json.dumps(known))
    tick()
    changed(api, EMAIL, 1, title="B")
    tick(TickStatus.SUCCESS)
    assert json.loads(str(running.cursor(SENSOR)))["email_alerts"]["changing"] == ["title"]


@pytest.mark.parametrize(
    ("seconds", "pauses"),
    [(900, [1, 3, 3, 3]), (60, [1, 3, 7, 15]), (3600, [0, 0, 0, 0]), (86_400, [0] * 4)],
)
def test_the_time_between_reads_doubles_up_to_an_hour(seconds: int, pauses: list[int]) -> None:
    found = []
    for changes in range(4, 9):
        state = CollectionState(changes=changes)
        state.slow_down(seconds)
        found.append(state.pause)
    assert found == [0, *pauses]
