"""The alert sensor, run by the daemon with a local webhook.

Each failure is posted once, and no alert is lost.
"""

import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.dagster_run import RunRecord
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import (
    consume_new_runs_for_automatic_reexecution,
)
from dagster_daemon import LOGGER, Daemon, daemon
from small_api import SmallApi, call
from sqlalchemy import Engine, event
from webhook import TOKEN, Chat, chat

from magnetis_dagster.dagster_support.partition_tags import days_tags
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.defs.alerting.cursor import AlertCursor, AlertKind
from magnetis_dagster.defs.alerting.message import message_text
from magnetis_dagster.defs.alerting.sensor import _tick
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse import Warehouse

SENSOR = "failure_alert_sensor"
UI = "https://dagster.example.com"
STARTED = "Alerting starts now; earlier failures are ignored."
MINUTE = timedelta(minutes=1)
DAY = date(2026, 11, 1)
CALLS = dg.AssetKey(["magnetis", "calls"])
PERSON = "jeanne.martin@exemple.fr"

Tick = Callable[..., str]
Load = Callable[..., str]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    with chat() as hook:
        monkeypatch.setenv("MAGNETIS_ALERT_WEBHOOK_URL", hook.url)
        monkeypatch.setenv("MAGNETIS_UI_URL", f"{UI}/")
        yield hook


@pytest.fixture
def running(tmp_path: Path, hook: Chat) -> Iterator[Daemon]:
    with daemon(tmp_path) as running:
        yield running


@pytest.fixture
def tick(
    running: Daemon, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[Tick]:
    """Run a tick a minute later and return its skip reason.

    The first tick, which starts alerting, has run.
    """

    def tick(after: timedelta = MINUTE) -> str:
        ticked = running.sensor_tick(SENSOR, after)
        assert ticked.status is TickStatus.SKIPPED, ticked.error
        for text in (str(ticked), str(running.cursor(SENSOR))):
            assert TOKEN not in text
        return str(ticked.skip_reason)

    assert tick(timedelta(hours=1)) == STARTED
    yield tick
    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(capfd.readouterr())
    assert TOKEN not in "".join(
        str(entry)
        for run in running.instance.get_runs()
        for entry in running.instance.all_logs(run.run_id)
    )


def load_calls(instance: dg.DagsterInstance, days: int = 1) -> dg.ExecuteInProcessResult:
    job = build_defs().resolve_implicit_global_asset_job_def()
    tags = days_tags(DAY, DAY + timedelta(days=days - 1))
    return job.execute_in_process(
        instance=instance, asset_selection=[CALLS], tags=tags, raise_on_error=False
    )


def posted_lines(hook: Chat) -> list[list[str]]:
    """Return the lines of each message without `no_missing_days`, which fails after each load."""
    messages = [
        [line for line in lines if " no_missing_days, " not in line] for lines in hook.take()
    ]
    return [lines for lines in messages if lines]


@pytest.fixture
def load(running: Daemon, api: SmallApi) -> Load:
    """Load days of calls and return the run's id."""

    def load(*, fails: bool, days: int = 1) -> str:
        api.respond = lambda request: (403, {}, b"{}") if fails else None
        run = load_calls(running.instance, days)
        assert run.success is not fails
        return run.run_id

    return load


def check(
    running: Daemon,
    name: str,
    *,
    passed: bool = False,
    asset: str = "magnetis/leads",
    **members: Any,
) -> None:
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset.split("/")),
        check_name=name,
        passed=passed,
        metadata={"caller": PERSON},
        **{"description": "why", **members},
    )
    running.instance.report_runless_asset_event(evaluation)


def test_the_sensor_exists_only_if_the_webhook_is_set(
    monkeypatch: pytest.MonkeyPatch, hook: Chat
) -> None:
    sensor = build_defs().resolve_sensor_def(SENSOR)
    assert (sensor.default_status, sensor.minimum_interval_seconds) == (
        dg.DefaultSensorStatus.RUNNING,
        60,
    )
    assert TOKEN not in f"{sensor.description} {sensor.metadata} {sensor.tags}"
    monkeypatch.setenv("MAGNETIS_ALERT_WEBHOOK_URL", "")
    assert SENSOR not in {each.name for each in build_defs().sensors or ()}


def test_a_failed_run_is_posted_once_in_six_hours_and_its_recovery_once(
    tick: Tick, load: Load, hook: Chat
) -> None:
    run_id = load(fails=True, days=2)
    assert tick() == "Posted 2 alerts."
    [[line]] = posted_lines(hook)
    assert line.startswith(
        "Run failed: magnetis/calls, 2026-11-01 to 2026-11-02: calls: GET /calls, page 1: "
    )
    assert line.endswith(f" (run {UI}/runs/{run_id})")
    assert tick() == "No new alerts."

    for hours in (1, 4):
        load(fails=True)
        assert tick(timedelta(hours=hours)) == "No new alerts."
    load(fails=True)
    tick(timedelta(hours=1))
    [[line]] = posted_lines(hook)
    assert line.startswith("Run failed: magnetis/calls, 2026-11-01: ")
    assert line.endswith(" (2 more in between)")

    succeeded = load(fails=False)
    load(fails=False)
    tick()
    assert posted_lines(hook) == [
        [f"Resolved: magnetis/calls, 2026-11-01: succeeded again (run {UI}/runs/{succeeded})"]
    ]

    load(fails=True)
    tick()
    [[line]] = posted_lines(hook)
    assert line.startswith("Run failed: "), "a success in between resets the six hours"


def test_only_the_class_of_other_errors_is_posted(
    tick: Tick, load: Load, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, shown in (
        (ValueError(f"{PERSON} called"), "magnetis__calls: ValueError"),
        (dg.Failure(f"{PERSON} called", allow_retries=False), "magnetis__calls: Failure"),
        (
            dg.Failure(f"{PERSON} called", metadata={"error": PERSON}, allow_retries=False),
            "magnetis__calls: Failure",
        ),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Warehouse, "commit", fail)
            with pytest.raises(AssertionError):  # the API answers
                load(fails=False)
        tick(timedelta(hours=7))
        [lines] = hook.take()
        assert PERSON not in "".join(lines)
        [line] = [line for line in lines if line.startswith("Run failed")]
        assert f": {shown} (run " in line


def test_a_run_that_was_failed_from_outside_is_posted(
    running: Daemon, tick: Tick, hook: Chat
) -> None:
    definitions = build_defs()
    job = definitions.resolve_job_def("daily_events")
    for tags, message in (
        ({}, None),
        (
            {"dagster/partition": "2026-11-03"},
            f"Detected run worker status FAILED.\nDebug: {PERSON}",
        ),
    ):
        run = running.instance.create_run_for_job(
            job, tags=tags, status=dg.DagsterRunStatus.STARTED
        )
        running.instance.report_run_failed(run, message)
        tick()
        running.instance.report_dagster_event(
            dg.DagsterEvent("PIPELINE_SUCCESS", job_name=run.job_name, message="done"),
            run_id=run.run_id,
        )
        tick()
    first, resolved, second, _ = (line for [line] in hook.take())
    assert first.startswith(
        "Run failed: daily_events: This run has been marked as failed from outside the execution "
        "context. (run "
    )
    assert resolved.startswith("Resolved: daily_events: succeeded again (run ")
    assert second.startswith(
        "Run failed: daily_events, 2026-11-03: Detected run worker status FAILED. (run "
    )


def test_a_failed_check_and_its_recovery_are_posted(
    running: Daemon, tick: Tick, hook: Chat
) -> None:
    check(running, "passes", passed=True)
    check(running, "loud", description="x" * 300 + "\nsecond")
    check(
        running,
        "quiet",
        severity=dg.AssetCheckSeverity.WARN,
        partition="2026-11-02",
        description="<!channel> & more\nsecond",
    )
    check(running, "theirs", asset="other/table", description=PERSON)
    check(running, "loud")
    assert tick() == "Posted 3 alerts."
    assert hook.take() == [
        [
            f"Check failed (ERROR): magnetis/leads loud: {'x' * 199}…",
            "Check failed (ERROR): other/table theirs",
            "Check failed (WARN): magnetis/leads quiet, 2026-11-02: &lt;!channel&gt; &amp; more",
        ]
    ]
    check(running, "loud", passed=True)
    check(running, "quiet")
    tick()
    assert hook.take() == [["Resolved: magnetis/leads loud: passed again"]]


def test_a_check_of_a_run_names_the_run_and_its_days(
    running: Daemon, tick: Tick, api: SmallApi, hook: Chat
) -> None:
    api.rows["/calls"] = [call(1, "2026-11-01 10:00:00"), call(2, "2026-11-01 11:00:00", id=None)]
    run = load_calls(running.instance)
    tick()
    [lines] = hook.take()
    [line] = [line for line in lines if " quarantined_rows" in line]
    assert re.fullmatch(
        r"Check failed \(WARN\): magnetis/calls quarantined_rows, 2026-11-01: "
        r"1 of 2 received rows are not in the table\..* "
        rf"\(run {UI}/runs/{run.run_id}\)",
        line,
    )
    api.rows["/calls"].pop()
    run = load_calls(running.instance)
    tick()
    assert (
        "Resolved: magnetis/calls quarantined_rows, 2026-11-01: passed again "
        f"(run {UI}/runs/{run.run_id})"
    ) in posted_lines(hook)[0]


def test_many_alerts_become_one_message_of_twenty_lines(
    running: Daemon, tick: Tick, load: Load, hook: Chat
) -> None:
    for number in range(30):
        check(running, f"check_{number}", severity=dg.AssetCheckSeverity.WARN)
    load(fails=True)
    assert tick() == "Posted 32 alerts."
    [lines] = hook.take()
    assert len(lines) == 20
    assert lines[0].startswith("Run failed: magnetis/calls"), "the most severe alert is listed"
    assert lines[-1] == f"and 13 more: {UI}/runs"
    for number in range(30):
        check(running, f"check_{number}", severity=dg.AssetCheckSeverity.WARN)
    assert tick() == "No new alerts."


def test_at_most_six_messages_are_posted_per_hour(running: Daemon, tick: Tick, hook: Chat) -> None:
    for number in range(9):
        check(running, f"check_{number}")
        reason = tick()
    assert reason.startswith("3 alerts pending until ")
    assert reason.endswith(". Limit: 6 messages per hour.")
    assert len(hook.take()) == 6
    assert "Limit: 6 messages per hour." in tick(timedelta(minutes=45))
    tick(timedelta(minutes=10))
    assert hook.take() == [
        [f"Check failed (ERROR): magnetis/leads check_{number}: why" for number in (6, 7, 8)]
    ]
    assert tick() == "No new alerts."


def test_no_alert_is_lost_or_repeated_after_the_webhook_was_down(
    running: Daemon, tick: Tick, hook: Chat
) -> None:
    hook.status = 500
    tried = []
    for number in range(14):
        check(running, f"check_{number}")
        before = hook.refused
        reason = tick()
        tried.append(hook.refused - before)
        assert (
            "MAGNETIS_ALERT_WEBHOOK_URL failed (HTTP 500); " in reason
            or " consecutive webhook failures; " in reason
        )
    assert tried == [1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    check(running, "check_0", passed=True)
    check(running, "check_0")
    check(running, "check_1", passed=True)
    hook.status = 200
    while not hook.accepted:
        tick()
    [lines] = hook.take()
    assert sorted(lines) == sorted(
        [
            "Check failed (ERROR): magnetis/leads check_0: why (2 times)",
            *(
                f"Check failed (ERROR): magnetis/leads check_{number}: why"
                for number in range(1, 14)
            ),
            "Resolved: magnetis/leads check_1: passed again",
        ]
    )
    assert tick() == "No new alerts."
    check(running, "check_1")
    assert tick() == "Posted 1 alert.", "no tick is skipped any more"


def test_a_message_that_may_have_been_delivered_counts_towards_the_hourly_limit(
    running: Daemon, tick: Tick, hook: Chat
) -> None:
    hook.cut = True
    check(running, "check")
    reasons = [tick() for _ in range(26)]
    assert reasons[0].endswith(
        "failed (RemoteProtocolError); 1 alert pending. Next attempt at the next tick."
    )
    assert reasons[-1].endswith("Limit: 6 messages per hour.")
    hook.cut = False
    tick(timedelta(hours=1))
    while not hook.accepted:
        tick()
    assert hook.take() == [["Check failed (ERROR): magnetis/leads check: why"]]


@pytest.mark.parametrize("url", [f"http://127.0.0.1:1/{TOKEN}", f"https://hooks.invalid/{TOKEN}"])
def test_an_unreachable_webhook_is_the_skip_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("MAGNETIS_ALERT_WEBHOOK_URL", url)
    with daemon(tmp_path) as running:
        running.sensor_tick(SENSOR)
        check(running, "check")
        reason = str(running.sensor_tick(SENSOR).skip_reason)
    assert reason == (
        "The webhook in MAGNETIS_ALERT_WEBHOOK_URL failed (ConnectError); 1 alert pending. "
        "Next attempt at the next tick."
    )


def test_a_run_with_retries_is_posted_after_its_last_retry_fails(
    tmp_path: Path, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cases with Dagster's own retries.

    The worker of a run dies and so does that of its retry; Dagster cannot retry a run.
    """
    import dagster_daemon

    monkeypatch.setattr(
        dagster_daemon,
        "INSTANCE",
        f"{dagster_daemon.INSTANCE}run_retries: {{enabled: true, max_retries: 1}}\n",
    )
    monkeypatch.setattr(
        "dagster._core.launcher.sync_in_memory_run_launcher.SyncInMemoryRunLauncher.launch_run",
        lambda *_: None,
    )
    with daemon(tmp_path) as running:
        running.sensor_tick(SENSOR)
        instance = running.instance
        origin = running.repository.get_full_job("daily_events").get_remote_origin()
        job = build_defs().resolve_job_def("daily_events")

        def fail(run: dg.DagsterRun) -> RunRecord:
            instance.report_run_failed(run, "Detected run worker status NOT_FOUND.")
            [record] = instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
            return record

        def retry(record: RunRecord) -> list[dg.DagsterRun]:
            list(consume_new_runs_for_automatic_reexecution(running.workspace, [record], LOGGER))
            return [
                run for run in instance.get_runs() if run.parent_run_id == record.dagster_run.run_id
            ]

        first = fail(
            instance.create_run_for_job(
                job,
                tags=days_tags(DAY, DAY),
                status=dg.DagsterRunStatus.STARTED,
                remote_job_origin=origin,
            )
        )
        assert first.dagster_run.tags["dagster/will_retry"] == "true"
        assert running.sensor_tick(SENSOR, MINUTE).skip_reason == "No new alerts."
        [second] = retry(first)
        assert running.sensor_tick(SENSOR, timedelta(hours=1)).skip_reason == "No new alerts."
        assert retry(fail(second)) == []
        assert running.sensor_tick(SENSOR, MINUTE).skip_reason == "Posted 1 alert."
        [[line]] = hook.take()
        assert line.endswith(
            "daily_events, 2026-11-01: Detected run worker status NOT_FOUND. (run "
            f"{UI}/runs/{second.run_id})"
        )

        orphan = fail(instance.create_run_for_job(build_defs().resolve_job_def("daily_snapshots")))
        for _ in range(10):
            assert running.sensor_tick(SENSOR, MINUTE).skip_reason == "No new alerts."
        running.sensor_tick(SENSOR, MINUTE)
        [[line]] = hook.take()
        assert (
            "daily_snapshots: Detected run worker status NOT_FOUND. (run "
            f"{UI}/runs/{orphan.dagster_run.run_id})" in line
        )


def test_a_failed_run_whose_retry_succeeds_is_not_posted(
    running: Daemon, tick: Tick, load: Load, hook: Chat
) -> None:
    failed = load(fails=True)
    running.instance.add_run_tags(failed, {"dagster/will_retry": "true"})
    tick()
    load(fails=False)
    for _ in range(15):
        tick()
    assert not [
        line
        for lines in hook.take()
        for line in lines
        if "Run failed" in line or "Resolved: magnetis/calls," in line
    ]


def test_earlier_failures_are_ignored_at_the_start_and_after_an_invalid_cursor(
    running: Daemon, hook: Chat
) -> None:
    check(running, "old")
    for _ in range(2):
        assert running.sensor_tick(SENSOR).skip_reason == STARTED
        assert running.sensor_tick(SENSOR).skip_reason == "No new alerts."
        running.set_cursor(SENSOR, '{"after": "nonsense"}')
    assert hook.take() == []


def test_a_tick_reads_a_limited_number_of_events_and_the_next_tick_continues(
    running: Daemon, tick: Tick, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnetis_dagster.defs.alerting.sensor.MAX_EVENTS", 5)
    for number in range(4):
        check(running, f"check_{number}")
        check(running, f"fine_{number}", passed=True)
        running.instance.report_run_failed(
            running.instance.create_run_for_job(build_defs().resolve_job_def("daily_events")),
            f"failure {number}",
        )
    assert [tick() for _ in range(4)] == [
        "Posted 3 alerts.",
        "Posted 2 alerts.",
        "No new alerts.",
        "No new alerts.",
    ]
    lines = [line for message in hook.take() for line in message]
    assert len(lines) == len(set(lines)) == 5


def test_events_of_the_last_seconds_are_left_to_the_next_tick(
    running: Daemon, tick: Tick, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(running, "check")
    with monkeypatch.context() as patched:
        patched.setattr("magnetis_dagster.defs.alerting.sensor.MIN_AGE_SECONDS", 1e9)
        assert tick() == "No new alerts."
    assert tick() == "Posted 1 alert."


def test_a_tick_without_new_events_costs_two_queries(
    running: Daemon, tick: Tick, load: Load, hook: Chat
) -> None:
    load(fails=False)
    tick()
    cursor = AlertCursor.parse(running.cursor(SENSOR))
    statements: list[str] = []

    def count(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", count)
    try:
        result = _tick(running.instance, cursor, Settings.load())
        assert result.skip_reason.skip_message == "No new alerts."
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert len(statements) == 2, statements


def test_a_storage_error_is_the_skip_reason_and_keeps_the_cursor(
    running: Daemon, tick: Tick, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def fail(*_: object) -> None:
        raise OperationalError("SELECT secret", {}, Exception("gone"))

    check(running, "check")
    with monkeypatch.context() as patched:
        patched.setattr("magnetis_dagster.defs.alerting.sensor._next_records", fail)
        assert tick() == (
            "Dagster's storage does not answer (OperationalError). The next tick tries again."
        )
    assert tick() == "Posted 1 alert."


def test_the_cursor_stays_small() -> None:
    cursor = AlertCursor(after=0)
    for number in range(2000):
        key = f"check: magnetis/calls check_{number}"
        cursor.record_failure(AlertKind.ERROR, key, "x" * 300, 1.0)
    assert len(cursor.serialize()) < 50_000
    assert cursor.pending == 2000
    assert message_text(cursor.alerts, cursor.omitted, None).endswith("\nand 1981 more")


def test_a_cursor_of_an_earlier_version_is_read() -> None:
    stored = (
        '{"after":7,"troubles":{"k":{"at":1.0,"again":2}},'
        '"waiting":{"r":{"key":"k","text":"t","until":3.0}},'
        '"lines":[{"kind":0,"key":"k","text":"t","times":1}],"more":4,"posted":[5.0],'
        '"failures":6,"pause":7}'
    )
    cursor = AlertCursor.parse(stored)
    assert cursor is not None
    assert cursor.serialize() == stored
