"""The sensor `failure_alert_sensor`: posts failed runs and failed checks to a webhook.

The webhook is Slack's, or one that accepts the same JSON. Its address is a secret. A tick posts at
most one message; alerts that cannot be posted stay in the cursor. The sensor requests no run, so
Dagster shows its ticks as skipped; the skip reason reports the result.

https://docs.dagster.io/guides/automate/sensors
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile

import dagster as dg

from magnetis_dagster.defs.alerting.cursor import (
    MAX_LINES,
    MAX_MESSAGES_PER_HOUR,
    AlertCursor,
    AlertKind,
    PendingRetry,
)
from magnetis_dagster.defs.alerting.message import (
    check_failure_reason,
    check_name,
    check_text,
    escape,
    message_text,
    run_failure_reason,
    run_key,
    run_link,
    run_text,
)
from magnetis_dagster.defs.step_failures import skipped_on_failure
from magnetis_dagster.settings import Settings

ALERT_SENSOR = "failure_alert_sensor"
INTERVAL_SECONDS = 60
MAX_EVENTS = 200
"""Events read by one tick; the next tick reads the following ones."""
MIN_AGE_SECONDS = 5.0
"""Younger events are read by the next tick."""
RETRY_SECONDS = 600.0
"""A failed run that Dagster marked for a retry is posted unless it is retried within this time.
Runs of a canceled backfill are not retried."""
WILL_RETRY = "dagster/will_retry"
RETRIED_BY = "dagster/auto_retry_run_id"


def alert_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Return the sensor, on by default; no sensor if MAGNETIS_ALERT_WEBHOOK_URL is unset."""
    if not settings.alert_webhook_url:
        return []

    @dg.sensor(
        name=ALERT_SENSOR,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Posts failed runs, failed checks and their recoveries to the webhook in "
            "MAGNETIS_ALERT_WEBHOOK_URL. A failure that persists is posted once in six hours. "
            f"Limits: {MAX_LINES} lines per message, {MAX_MESSAGES_PER_HOUR} messages per hour. "
            "A run that Dagster retries is posted after its last retry fails. "
            "If the webhook fails, the alerts are posted later."
        ),
    )
    def alert(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return skipped_on_failure(
            lambda: _tick(context.instance, AlertCursor.parse(context.cursor), settings)
        )

    return [alert]


def _tick(
    instance: dg.DagsterInstance, cursor: AlertCursor | None, settings: Settings
) -> dg.SensorResult:
    from dagster._time import get_current_timestamp

    now = get_current_timestamp()
    if cursor is None:
        cursor = AlertCursor(after=instance.event_log_storage.get_maximum_record_id() or 0)
        reason = "Alerting starts now; earlier failures are ignored."
    else:
        _read_events(instance, cursor, now, settings.ui_url)
        reason = _post(cursor, now, settings) if cursor.pending else "No new alerts."
    return dg.SensorResult(skip_reason=reason, cursor=cursor.serialize())


def _read_events(
    instance: dg.DagsterInstance, cursor: AlertCursor, now: float, ui: str | None
) -> None:
    records = _next_records(instance, cursor, now)
    with_run = (record.run_id for record in records if _needs_run(record, cursor))
    runs = _runs(instance, [*cursor.pending_retries, *with_run])
    _check_pending_retries(cursor, runs, now)
    for record in records:
        cursor.after = record.storage_id
        event, run = record.event_log_entry.get_dagster_event(), runs.get(record.run_id)
        link = run_link(record.run_id, ui)
        if evaluation := record.event_log_entry.asset_check_evaluation:
            _record_check(cursor, evaluation, run, link, now)
            continue
        job = run.job_name if run else event.job_name or ""
        key = run_key(run, job)
        if event.event_type is dg.DagsterEventType.RUN_SUCCESS:
            cursor.record_success(key, run_text(run, job, "succeeded again", link))
            continue
        text = run_text(run, job, run_failure_reason(event), link)
        if not run or run.tags.get(WILL_RETRY) != "true":
            cursor.record_failure(AlertKind.RUN_FAILED, key, text, now)
        elif RETRIED_BY not in run.tags:
            cursor.pending_retries[record.run_id] = PendingRetry(
                key=key, text=text, until=now + RETRY_SECONDS
            )


def _next_records(
    instance: dg.DagsterInstance, cursor: AlertCursor, now: float
) -> list[dg.EventLogRecord]:
    """Return the next events in order: two index look-ups if there are none."""
    failures = _records(instance, cursor, dg.DagsterEventType.RUN_FAILURE)
    found = [*failures, *_records(instance, cursor, dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
    open_runs = any(key.startswith("run:") for key in cursor.open_failures)
    if failures or cursor.pending_retries or open_runs:
        found += _records(instance, cursor, dg.DagsterEventType.RUN_SUCCESS)
    found.sort(key=lambda record: record.storage_id)
    # Events get their ids before they become visible, and a failed run gets its retry tag after its
    # event: a younger event may lack either.
    return list(
        takewhile(lambda each: abs(now - each.timestamp) >= MIN_AGE_SECONDS, found[:MAX_EVENTS])
    )


def _records(
    instance: dg.DagsterInstance, cursor: AlertCursor, kind: dg.DagsterEventType
) -> Sequence[dg.EventLogRecord]:
    wanted = dg.EventRecordsFilter(kind, after_cursor=cursor.after)
    # The storage's method, since the instance's is deprecated. No other returns the evaluations of
    # all checks.
    return instance.event_log_storage.get_event_records(wanted, limit=MAX_EVENTS, ascending=True)


def _needs_run(record: dg.EventLogRecord, cursor: AlertCursor) -> bool:
    """Return whether the event may become an alert: most checks passed now and before."""
    evaluation = record.event_log_entry.asset_check_evaluation
    return bool(record.run_id) and (
        evaluation is None
        or not evaluation.passed
        or _check_key(evaluation) in cursor.open_failures
    )


def _check_key(evaluation: dg.AssetCheckEvaluation) -> str:
    return f"check: {check_name(evaluation)}"


def _runs(instance: dg.DagsterInstance, run_ids: list[str]) -> dict[str, dg.DagsterRun]:
    found = instance.get_runs(dg.RunsFilter(run_ids=sorted({*run_ids}))) if run_ids else []
    return {run.run_id: run for run in found}


def _check_pending_retries(cursor: AlertCursor, runs: dict[str, dg.DagsterRun], now: float) -> None:
    """Drop runs that were retried or deleted; record those that will not be retried as failed."""
    for run_id, pending in list(cursor.pending_retries.items()):
        run = runs.get(run_id)
        retried = run is None or RETRIED_BY in run.tags
        if not retried and run and run.tags.get(WILL_RETRY) == "true" and now < pending.until:
            continue
        del cursor.pending_retries[run_id]
        if not retried:
            cursor.record_failure(AlertKind.RUN_FAILED, pending.key, pending.text, now)


def _record_check(
    cursor: AlertCursor,
    evaluation: dg.AssetCheckEvaluation,
    run: dg.DagsterRun | None,
    link: str,
    now: float,
) -> None:
    key = _check_key(evaluation)
    if evaluation.passed:
        cursor.record_success(key, check_text(evaluation, run, "passed again", link))
        return
    is_warning = evaluation.severity is dg.AssetCheckSeverity.WARN
    text = check_text(evaluation, run, check_failure_reason(evaluation), link)
    cursor.record_failure(AlertKind.WARNING if is_warning else AlertKind.ERROR, key, text, now)


def _post(cursor: AlertCursor, now: float, settings: Settings) -> str:
    """Post the pending alerts, unless a limit delays them; return the skip reason of the tick."""
    from magnetis_dagster.webhook_client import WebhookFailed, post_json

    alerts = _count(cursor.pending, "alert")
    if (at := cursor.next_message_at(now)) > now:
        return (
            f"{alerts} pending until {datetime.fromtimestamp(at, settings.timezone):%H:%M %Z}. "
            f"Limit: {MAX_MESSAGES_PER_HOUR} messages per hour."
        )
    if cursor.pause:
        cursor.pause -= 1
        return (
            f"Skipped after {_count(cursor.failures, 'consecutive webhook failure')}; "
            f"{alerts} pending."
        )
    text = message_text(cursor.alerts, cursor.omitted, settings.ui_url)
    try:
        assert settings.alert_webhook_url
        post_json(settings.alert_webhook_url.get_secret_value(), {"text": escape(text)})
    except WebhookFailed as failed:
        pause = cursor.record_post_failure(now, maybe_delivered=failed.perhaps_delivered)
        when = f"after skipping {_count(pause, 'tick')}" if pause else "at the next tick"
        return (
            f"The webhook in MAGNETIS_ALERT_WEBHOOK_URL failed ({failed}); {alerts} pending. "
            f"Next attempt {when}."
        )
    cursor.record_post(now)
    return f"Posted {alerts}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
