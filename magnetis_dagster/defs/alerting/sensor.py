"""The sensor `failure_alert_sensor`: posts run failures and failed checks to a webhook (Slack's, or one that takes the same JSON).

A tick reads what Dagster's event log holds behind its cursor and posts one message at most. What could not be posted stays in the
cursor. It asks for no run, so its ticks are shown as skipped, with what was done as the reason. The address is a secret.

https://docs.dagster.io/guides/automate/sensors
"""

from collections.abc import Iterable
from datetime import datetime, tzinfo

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DefaultSensorStatus,
    EventLogRecord,
    EventRecordsFilter,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from magnetis_dagster.defs.alerting.cursor import MOST_LINES, MOST_MESSAGES, Kind, State, Waiting
from magnetis_dagster.defs.alerting.message import (
    check_key,
    check_line,
    check_words,
    run_key,
    run_line,
    run_words,
)
from magnetis_dagster.defs.step_failures import skipped_on_failure
from magnetis_dagster.settings import Settings

ALERT_SENSOR = "failure_alert_sensor"
INTERVAL_SECONDS = 60
MOST_EVENTS = 200
"""Looked at by one tick; the next goes on."""
SETTLE_SECONDS = 5.0
RETRY_SECONDS = 600.0
"""A run that Dagster says it will retry, and does not, is told after so long: its backfill was cancelled, or its job is gone."""
WILL_RETRY = "dagster/will_retry"
RETRIED_BY = "dagster/auto_retry_run_id"


def alert_sensors(settings: Settings) -> list[SensorDefinition]:
    """Return the sensor; none where MAGNETIS_ALERT_WEBHOOK_URL is not set."""
    return [alert_sensor(settings)] if settings.alert_webhook_url else []


def alert_sensor(settings: Settings) -> SensorDefinition:
    """Return the sensor, on from the start."""

    @sensor(
        name=ALERT_SENSOR,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Posts run failures, failed checks and their ends to the webhook of MAGNETIS_ALERT_WEBHOOK_URL: the same one once in "
            f"six hours unless it succeeded in between, at most {MOST_LINES} lines a message and {MOST_MESSAGES} messages an hour. "
            "A run that is retried is posted when its last retry has failed. Messages that could not be posted are posted later."
        ),
    )
    def alert(context: SensorEvaluationContext) -> SensorResult:
        return skipped_on_failure(
            lambda: _tick(context.instance, State.parse(context.cursor), settings)
        )

    return alert


def _tick(instance: DagsterInstance, state: State | None, settings: Settings) -> SensorResult:
    from dagster._time import get_current_timestamp

    now = get_current_timestamp()
    if state is None:
        # old failures are no news
        state = State(after=instance.event_log_storage.get_maximum_record_id() or 0)
        return SensorResult(
            skip_reason="Failures are told from now on.", cursor=state.model_dump_json()
        )
    _collect(instance, state, now, settings.ui_url)
    reason = _tell(state, now, settings) if state.untold else "Nothing new."
    return SensorResult(skip_reason=reason, cursor=state.model_dump_json())


def _collect(instance: DagsterInstance, state: State, now: float, ui: str | None) -> None:
    """Turn the events behind the cursor into lines to be told."""
    events = _events(instance, state, now)
    runs = _runs(
        instance,
        [*state.waiting, *(record.run_id for record in events if _needs_run(record, state))],
    )
    _look_at_waiting(state, runs, now)
    for record in events:
        state.after = record.storage_id
        event, run = record.event_log_entry.get_dagster_event(), runs.get(record.run_id)
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            _note_check(state, event, record.run_id, run, now, ui)
            continue
        job = run.job_name if run else event.job_name or ""
        key = run_key(run, job)
        if event.event_type is DagsterEventType.RUN_SUCCESS:
            state.succeeded(key, run_line(run, job, record.run_id, "succeeded again", ui))
            continue
        text = run_line(run, job, record.run_id, run_words(event), ui)
        if not run or run.tags.get(WILL_RETRY) != "true":
            state.failed(Kind.RUN_FAILED, key, text, now)
        elif RETRIED_BY not in run.tags:
            state.waiting[record.run_id] = Waiting(key=key, text=text, until=now + RETRY_SECONDS)


def _events(instance: DagsterInstance, state: State, now: float) -> list[EventLogRecord]:
    """Return the next events in order. With nothing to tell and nothing in trouble, that is two look-ups in an index."""
    found = [
        *_records(instance, state, DagsterEventType.RUN_FAILURE),
        *_records(instance, state, DagsterEventType.ASSET_CHECK_EVALUATION),
    ]
    failures = any(
        record.event_log_entry.dagster_event_type is DagsterEventType.RUN_FAILURE
        for record in found
    )
    if failures or state.waiting or any(key.startswith("run:") for key in state.troubles):
        found += _records(instance, state, DagsterEventType.RUN_SUCCESS)
    found.sort(key=lambda record: record.storage_id)
    settled = []
    for record in found[:MOST_EVENTS]:
        # ids are given before rows can be seen, and a failed run gets its mark after its event: what is this new may lack either
        if abs(now - record.timestamp) < SETTLE_SECONDS:
            break
        settled.append(record)
    return settled


def _records(
    instance: DagsterInstance, state: State, kind: DagsterEventType
) -> Iterable[EventLogRecord]:
    wanted = EventRecordsFilter(kind, after_cursor=state.after)
    # the storage's own method: the instance's is deprecated, and there is no other for evaluations of all checks
    return instance.event_log_storage.get_event_records(wanted, limit=MOST_EVENTS, ascending=True)


def _needs_run(record: EventLogRecord, state: State) -> bool:
    """Whether a line may be made of it: most evaluations passed, as before."""
    evaluation = record.event_log_entry.asset_check_evaluation
    return bool(record.run_id) and (
        evaluation is None or not evaluation.passed or check_key(evaluation) in state.troubles
    )


def _runs(instance: DagsterInstance, run_ids: list[str]) -> dict[str, DagsterRun]:
    return (
        {run.run_id: run for run in instance.get_runs(RunsFilter(run_ids=sorted(set(run_ids))))}
        if run_ids
        else {}
    )


def _look_at_waiting(state: State, runs: dict[str, DagsterRun], now: float) -> None:
    """Forget the runs that were retried or deleted; tell those that will not be retried."""
    for run_id, waiting in list(state.waiting.items()):
        run = runs.get(run_id)
        retried = run is None or RETRIED_BY in run.tags
        if not retried and run and run.tags.get(WILL_RETRY) == "true" and now < waiting.until:
            continue
        del state.waiting[run_id]
        if not retried:
            state.failed(Kind.RUN_FAILED, waiting.key, waiting.text, now)


def _note_check(
    state: State,
    event: DagsterEvent,
    run_id: str,
    run: DagsterRun | None,
    now: float,
    ui: str | None,
) -> None:
    evaluation = event.asset_check_evaluation_data
    key = check_key(evaluation)
    if evaluation.passed:
        state.succeeded(key, check_line(evaluation, run, run_id, "passed again", ui))
    else:
        kind = Kind.WARNING if evaluation.severity.value == "WARN" else Kind.ERROR
        state.failed(
            kind, key, check_line(evaluation, run, run_id, check_words(evaluation), ui), now
        )


def _tell(state: State, now: float, settings: Settings) -> str:
    """Post what is to be told, where that is allowed now; return what was done."""
    from magnetis_dagster.webhook_client import WebhookFailed, post_json

    lines = f"{state.untold} line{'' if state.untold == 1 else 's'}"
    if (at := state.may_post_at(now)) > now:
        return f"Held back until {_shown(at, settings.timezone)}: {lines}. {MOST_MESSAGES} messages an hour is the most."
    if state.pause:
        state.pause -= 1
        return (
            f"Left out, after {state.failures} failures of the webhook in a row; {lines} to tell."
        )
    try:
        assert settings.alert_webhook_url
        post_json(
            settings.alert_webhook_url.get_secret_value(),
            {"text": _escaped(state.message(settings.ui_url))},
        )
    except WebhookFailed as failed:
        state.not_told(now, perhaps=failed.perhaps_delivered)
        return f"The webhook of MAGNETIS_ALERT_WEBHOOK_URL failed ({failed}); {lines} to tell, tried again after {state.pause} ticks."
    state.told(now)
    return f"Told {lines}."


def _escaped(text: str) -> str:
    # as Slack wants it; otherwise <!channel> in a text would call everybody
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _shown(at: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(at, zone):%H:%M %Z}"
