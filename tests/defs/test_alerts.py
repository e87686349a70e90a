"""The sensor of alerts as the daemon runs it, with a webhook on this machine: each trouble is told once, and nothing is lost."""

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
from magnetis_dagster.defs.alerting.cursor import Kind, State
from magnetis_dagster.defs.alerting.sensor import _tick
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse import Warehouse

SENSOR = "failure_alert_sensor"
UI = "https://dagster.example.com"
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
    """A tick a minute later; its reason. The first one has been: it says since when failures are told."""

    def tick(after: timedelta = MINUTE) -> str:
        ticked = running.sensor_tick(SENSOR, after)
        assert ticked.status is TickStatus.SKIPPED, ticked.error
        for text in (str(ticked), str(running.cursor(SENSOR))):
            assert TOKEN not in text
        return str(ticked.skip_reason)

    assert tick(timedelta(hours=1)) == "Failures are told from now on."
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


def told(hook: Chat) -> list[list[str]]:
    """The lines of each message, without the check that finds nearly every day missing after each load."""
    return [
        left
        for lines in hook.take()
        if (left := [line for line in lines if " no_missing_days, " not in line])
    ]


@pytest.fixture
def load(running: Daemon, api: SmallApi) -> Load:
    """Run the load of a day of calls; the run's id."""

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


def test_it_is_there_only_where_an_address_is_set(
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


def test_a_failed_run_is_told_once_in_six_hours_and_so_is_its_end(
    tick: Tick, load: Load, hook: Chat
) -> None:
    run_id = load(fails=True, days=2)
    assert tick() == "Told 2 lines."
    [[line]] = told(hook)
    assert line.startswith(
        "Run failed: magnetis/calls, 2026-11-01 to 2026-11-02: calls: GET /calls, page 1: "
    )
    assert line.endswith(f" (run {UI}/runs/{run_id})")
    assert tick() == "Nothing new."

    for hours in (1, 4):
        load(fails=True)
        assert tick(timedelta(hours=hours)) == "Nothing new."
    load(fails=True)
    tick(timedelta(hours=1))
    [[line]] = told(hook)
    assert line.startswith("Run failed: magnetis/calls, 2026-11-01: ")
    assert line.endswith(" (2 more in between)")

    over = load(fails=False)
    load(fails=False)
    tick()
    assert told(hook) == [
        [f"Over: magnetis/calls, 2026-11-01: succeeded again (run {UI}/runs/{over})"]
    ]

    load(fails=True)
    tick()
    [[line]] = told(hook)
    assert line.startswith("Run failed: "), "it had succeeded in between"


def test_of_foreign_errors_only_the_class_is_told(
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


def test_runs_that_others_ended(running: Daemon, tick: Tick, hook: Chat) -> None:
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
    first, over, second, _ = (line for [line] in hook.take())
    assert first.startswith(
        "Run failed: daily_events: This run has been marked as failed from outside the execution context. (run "
    )
    assert over.startswith("Over: daily_events: succeeded again (run ")
    assert second.startswith(
        "Run failed: daily_events, 2026-11-03: Detected run worker status FAILED. (run "
    )


def test_a_failed_check_and_its_end(running: Daemon, tick: Tick, hook: Chat) -> None:
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
    assert tick() == "Told 3 lines."
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
    assert hook.take() == [["Over: magnetis/leads loud: passed again"]]


def test_a_check_of_a_run_names_the_run_and_its_days(
    running: Daemon, tick: Tick, api: SmallApi, hook: Chat
) -> None:
    api.rows["/calls"] = [call(1, "2026-11-01 10:00:00"), call(2, "2026-11-01 11:00:00", id=None)]
    run = load_calls(running.instance)
    tick()
    [lines] = hook.take()
    [line] = [line for line in lines if " quarantined_rows" in line]
    assert re.fullmatch(
        r"Check failed \(WARN\): magnetis/calls quarantined_rows, 2026-11-01: 1 rows could not be placed.* "
        rf"\(run {UI}/runs/{run.run_id}\)",
        line,
    )
    api.rows["/calls"].pop()
    run = load_calls(running.instance)
    tick()
    over = f"Over: magnetis/calls quarantined_rows, 2026-11-01: passed again (run {UI}/runs/{run.run_id})"
    assert over in told(hook)[0]


def test_a_flood_is_one_message_of_twenty_lines(
    running: Daemon, tick: Tick, load: Load, hook: Chat
) -> None:
    for number in range(30):
        check(running, f"check_{number}", severity=dg.AssetCheckSeverity.WARN)
    load(fails=True)
    assert tick() == "Told 32 lines."
    [lines] = hook.take()
    assert len(lines) == 20
    assert lines[0].startswith("Run failed: magnetis/calls"), (
        "what matters most is not among those that are counted"
    )
    assert lines[-1] == f"and 13 more: {UI}/runs"
    for number in range(30):
        check(running, f"check_{number}", severity=dg.AssetCheckSeverity.WARN)
    assert tick() == "Nothing new."


def test_six_messages_an_hour(running: Daemon, tick: Tick, hook: Chat) -> None:
    for number in range(9):
        check(running, f"check_{number}")
        reason = tick()
    assert "Held back until " in reason
    assert ": 3 lines. 6 messages an hour is the most." in reason
    assert len(hook.take()) == 6
    assert tick(timedelta(minutes=45)).startswith("Held back")
    tick(timedelta(minutes=10))
    assert hook.take() == [
        [f"Check failed (ERROR): magnetis/leads check_{number}: why" for number in (6, 7, 8)]
    ]
    assert tick() == "Nothing new."


def test_while_the_webhook_is_down_nothing_is_lost_and_afterwards_nothing_comes_twice(
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
            or "failures of the webhook in a row" in reason
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
            "Over: magnetis/leads check_1: passed again",
        ]
    )
    assert tick() == "Nothing new."
    check(running, "check_1")
    assert tick() == "Told 1 line.", "the pauses are over"


def test_what_perhaps_arrived_counts_among_the_messages_of_the_hour(
    running: Daemon, tick: Tick, hook: Chat
) -> None:
    hook.cut = True
    check(running, "check")
    reasons = [tick() for _ in range(26)]
    assert "failed (RemoteProtocolError); 1 line to tell, tried again after 0 ticks" in reasons[0]
    assert reasons[-1].startswith("Held back")
    hook.cut = False
    tick(timedelta(hours=1))
    while not hook.accepted:
        tick()
    assert hook.take() == [["Check failed (ERROR): magnetis/leads check: why"]]


@pytest.mark.parametrize("url", [f"http://127.0.0.1:1/{TOKEN}", f"https://hooks.invalid/{TOKEN}"])
def test_an_address_where_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("MAGNETIS_ALERT_WEBHOOK_URL", url)
    with daemon(tmp_path) as running:
        running.sensor_tick(SENSOR)
        check(running, "check")
        said = str(running.sensor_tick(SENSOR).skip_reason)
    assert (
        said
        == "The webhook of MAGNETIS_ALERT_WEBHOOK_URL failed (ConnectError); 1 line to tell, tried again after 0 ticks."
    )


def test_a_run_that_is_retried_is_told_when_its_retries_are_used_up(
    tmp_path: Path, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Dagster's own retries: a worker that dies, the retry that dies too, and one that Dagster cannot retry after all."""
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

        def dies(run: dg.DagsterRun) -> RunRecord:
            instance.report_run_failed(run, "Detected run worker status NOT_FOUND.")
            [record] = instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
            return record

        def retry(record: RunRecord) -> list[dg.DagsterRun]:
            list(consume_new_runs_for_automatic_reexecution(running.workspace, [record], LOGGER))
            return [
                run for run in instance.get_runs() if run.parent_run_id == record.dagster_run.run_id
            ]

        first = dies(
            instance.create_run_for_job(
                job,
                tags=days_tags(DAY, DAY),
                status=dg.DagsterRunStatus.STARTED,
                remote_job_origin=origin,
            )
        )
        assert first.dagster_run.tags["dagster/will_retry"] == "true"
        assert running.sensor_tick(SENSOR, MINUTE).skip_reason == "Nothing new."
        [second] = retry(first)
        assert running.sensor_tick(SENSOR, timedelta(hours=1)).skip_reason == "Nothing new."
        assert retry(dies(second)) == []
        assert running.sensor_tick(SENSOR, MINUTE).skip_reason == "Told 1 line."
        [[line]] = hook.take()
        assert line.endswith(
            f"daily_events, 2026-11-01: Detected run worker status NOT_FOUND. (run {UI}/runs/{second.run_id})"
        )

        orphan = dies(instance.create_run_for_job(build_defs().resolve_job_def("daily_snapshots")))
        for _ in range(10):
            assert running.sensor_tick(SENSOR, MINUTE).skip_reason == "Nothing new."
        running.sensor_tick(SENSOR, MINUTE)
        [[line]] = hook.take()
        assert (
            f"daily_snapshots: Detected run worker status NOT_FOUND. (run {UI}/runs/{orphan.dagster_run.run_id})"
            in line
        )


def test_a_retry_that_succeeds_is_no_news(
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
        if "Run failed" in line or "Over: magnetis/calls," in line
    ]


def test_history_is_no_news_and_a_cursor_that_is_not_ours_begins_now(
    running: Daemon, hook: Chat
) -> None:
    check(running, "old")
    for _ in range(2):
        assert running.sensor_tick(SENSOR).skip_reason == "Failures are told from now on."
        assert running.sensor_tick(SENSOR).skip_reason == "Nothing new."
        running.set_cursor(SENSOR, '{"after": "nonsense"}')
    assert hook.take() == []


def test_a_tick_reads_so_many_events_and_the_next_goes_on(
    running: Daemon, tick: Tick, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnetis_dagster.defs.alerting.sensor.MOST_EVENTS", 5)
    for number in range(4):
        check(running, f"check_{number}")
        check(running, f"fine_{number}", passed=True)
        running.instance.report_run_failed(
            running.instance.create_run_for_job(build_defs().resolve_job_def("daily_events")),
            f"failure {number}",
        )
    assert [tick() for _ in range(4)] == [
        "Told 3 lines.",
        "Told 2 lines.",
        "Nothing new.",
        "Nothing new.",
    ]
    lines = [line for message in hook.take() for line in message]
    assert len(lines) == len(set(lines)) == 5


def test_what_is_too_new_to_be_complete_waits(
    running: Daemon, tick: Tick, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(running, "check")
    with monkeypatch.context() as patched:
        patched.setattr("magnetis_dagster.defs.alerting.sensor.SETTLE_SECONDS", 1e9)
        assert tick() == "Nothing new."
    assert tick() == "Told 1 line."


def test_a_tick_with_no_news_costs_two_queries(
    running: Daemon, tick: Tick, load: Load, hook: Chat
) -> None:
    load(fails=False)
    tick()
    state = State.parse(running.cursor(SENSOR))
    statements: list[str] = []

    def count(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", count)
    try:
        assert (
            _tick(running.instance, state, Settings.load()).skip_reason.skip_message
            == "Nothing new."
        )
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert len(statements) == 2, statements


def test_trouble_with_the_storage_is_a_skip_reason_and_keeps_the_cursor(
    running: Daemon, tick: Tick, hook: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def fail(*_: object) -> None:
        raise OperationalError("SELECT secret", {}, Exception("gone"))

    check(running, "check")
    with monkeypatch.context() as patched:
        patched.setattr("magnetis_dagster.defs.alerting.sensor._events", fail)
        assert (
            tick()
            == "Dagster's storage does not answer (OperationalError). The next tick looks again."
        )
    assert tick() == "Told 1 line."


def test_the_cursor_stays_small() -> None:
    state = State(after=0)
    for number in range(2000):
        state.failed(Kind.ERROR, f"check: magnetis/calls check_{number}", "x" * 300, 1.0)
    assert len(state.model_dump_json()) < 50_000
    assert state.untold == 2000
    assert state.message(None).endswith("\nand 1981 more")
