"""The text of alerts: one line for each event of Dagster's log, without personal data.

The texts of our own errors and checks contain no row and no value. Of other errors, which may quote
anything, only the class is posted. Metadata is not read, except for the class of our own errors.
"""

from collections.abc import Sequence

import dagster as dg
from dagster._core.events import JobFailureData
from dagster._core.execution.plan.objects import StepFailureData
from dagster_shared.error import SerializableErrorInfo

from magnetis_dagster.dagster_support.partition_tags import PARTITION, RANGE_END, RANGE_START
from magnetis_dagster.defs.alerting.cursor import MAX_LINES, Alert, AlertKind
from magnetis_dagster.defs.markdown import literal

MAX_LENGTH = 200
"""Characters of a reason."""
MAX_NAMES = 3
OUR_PREFIX = "magnetis"
"""First part of our asset keys. The names of our steps begin with it and two underscores."""
LABELS = {
    AlertKind.RUN_FAILED: "Run failed",
    AlertKind.ERROR: "Check failed (ERROR)",
    AlertKind.WARNING: "Check failed (WARN)",
    AlertKind.RESOLVED: "Resolved",
}


def message_text(alerts: Sequence[Alert], omitted: int, ui: str | None) -> str:
    """Return the message: one line per alert, at most MAX_LINES including the count of the rest."""
    if not omitted:
        return "\n".join(map(_alert_line, alerts))
    listed = alerts[: MAX_LINES - 1]
    rest = f"and {len(alerts) + omitted - len(listed)} more{f': {ui}/runs' if ui else ''}"
    return "\n".join([*map(_alert_line, listed), rest])


def escape(text: str) -> str:
    """Return `text` escaped for Slack. Otherwise `<!channel>` in a text would notify everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def run_key(run: dg.DagsterRun | None, job: str) -> str:
    """Return the key that runs of the same job and assets share."""
    return ": ".join(filter(None, ["run", job, ", ".join(_names(run))]))


def run_link(run_id: str, ui: str | None) -> str:
    """Return the run in parentheses; "" for a check that a sensor evaluated without a run."""
    return f" (run {f'{ui}/runs/{run_id}' if ui else run_id})" if run_id else ""


def run_text(run: dg.DagsterRun | None, job: str, reason: str, link: str) -> str:
    """Return job or assets, days, reason and the run."""
    names = _names(run)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    own_job = not job.startswith("__")  # Dagster's job over all assets has no useful name
    subject = job if own_job or not names else ", ".join(names[:MAX_NAMES]) + more
    return _text(subject, _days(run), reason, link)


def run_failure_reason(event: dg.DagsterEvent) -> str:
    """Return our error's first line, or the step that failed first and the class of its error."""
    data = event.event_specific_data
    if not isinstance(data, JobFailureData):
        return literal(first_line(event.message or ""))
    step = data.first_step_failure_event
    if step and isinstance(step.event_specific_data, StepFailureData):
        return step_failure_reason(str(step.step_key), step.event_specific_data)
    # without an error, the message is Dagster's own: a worker died, or a limit was exceeded
    return _error_class(data.error) if data.error else literal(first_line(event.message or ""))


def step_failure_reason(step: str, data: StepFailureData) -> str:
    """Return our error's first line as literal Markdown, or the class of another error."""
    failure = data.user_failure_data
    if failure and failure.description and step.startswith(f"{OUR_PREFIX}__"):
        # defs/step_failures.py adds this one entry; a Failure raised by other code does not have it
        entry = failure.metadata.get("error")
        if (
            len(failure.metadata) == 1
            and isinstance(entry, dg.TextMetadataValue)
            and (entry.text or "").isidentifier()
        ):
            return literal(first_line(failure.description))
    return f"{step}: {_error_class(data.error) if data.error else 'failed'}"


def check_name(evaluation: dg.AssetCheckEvaluation) -> str:
    """Return asset and check."""
    return f"{evaluation.asset_key.to_user_string()} {evaluation.check_name}"


def check_text(
    evaluation: dg.AssetCheckEvaluation, run: dg.DagsterRun | None, reason: str, link: str
) -> str:
    """Return asset and check, days, reason and the run."""
    return _text(check_name(evaluation), evaluation.partition or _days(run), reason, link)


def check_failure_reason(evaluation: dg.AssetCheckEvaluation) -> str:
    """Return the first line of the description (Markdown); "" unless the check is ours."""
    is_ours = evaluation.asset_key.path[0] == OUR_PREFIX
    return first_line(evaluation.description or "") if is_ours else ""


def first_line(text: str) -> str:
    """Return the first line that is not blank, cut at MAX_LENGTH."""
    line = next(filter(None, map(str.strip, text.splitlines())), "")
    return line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH - 1]}…"


def _alert_line(alert: Alert) -> str:
    times = f" ({alert.times} times)" if alert.times > 1 else ""
    return f"{LABELS[alert.kind]}: {alert.text}{times}"


def _text(subject: str, days: str, reason: str, link: str) -> str:
    return f"{', '.join(filter(None, [subject, days]))}{f': {reason}' if reason else ''}{link}"


def _names(run: dg.DagsterRun | None) -> list[str]:
    if run is None:
        return []
    if run.asset_selection:
        return sorted(map(dg.AssetKey.to_user_string, run.asset_selection))
    checks = run.asset_check_selection or ()
    return sorted(f"{check.asset_key.to_user_string()} {check.name}" for check in checks)


def _days(run: dg.DagsterRun | None) -> str:
    tags = run.tags if run else {}
    first, last = tags.get(RANGE_START), tags.get(RANGE_END)
    if first and last and first != last:
        return f"{first} to {last}"
    return first or tags.get(PARTITION, "")


def _error_class(error: SerializableErrorInfo) -> str:
    """Return the class of the innermost cause: Dagster wraps the error that a step raised."""
    while error.cause:
        error = error.cause
    return (error.cls_name or "an error").rpartition(".")[2]
