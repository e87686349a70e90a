"""What an alert says of one event of Dagster's log: which trouble it is about, and one line without personal data.

Texts of our own errors and checks are sent as they are: they hold no row and no value of one. Of what others wrote, only the class
of the error: its text may quote anything. Metadata is never looked at, but for the name of our error's class.
"""

from collections.abc import Mapping

from dagster import AssetCheckEvaluation, AssetKey, DagsterEvent, DagsterRun, TextMetadataValue
from dagster._core.events import JobFailureData
from dagster._core.execution.plan.objects import StepFailureData
from dagster_shared.error import SerializableErrorInfo

from magnetis_dagster.dagster_support.partition_tags import PARTITION, RANGE_END, RANGE_START
from magnetis_dagster.defs.markdown import literal

LONGEST = 200
MOST_NAMES = 3
OURS = "magnetis"
"""First part of our assets' keys; the names of their steps begin with it and two underscores."""


def run_key(run: DagsterRun | None, job: str) -> str:
    """Return what runs of the same trouble share: job and assets."""
    return ": ".join(filter(None, ["run", job, ", ".join(_names(run))]))


def run_line(run: DagsterRun | None, job: str, run_id: str, words: str, ui: str | None) -> str:
    """Return job or assets, days, words and the run."""
    names = _names(run)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    own_job = not job.startswith("__")  # Dagster's own, over all assets, say nothing
    what = job if own_job or not names else ", ".join(names[:MOST_NAMES]) + more
    return _line(what, _days(run.tags if run else {}), words, run_id, ui)


def run_words(event: DagsterEvent) -> str:
    """Return why the run failed: our error's first line, or the step that failed first and the class of its error."""
    data = event.event_specific_data
    if not isinstance(data, JobFailureData):
        return literal(first_line(event.message or ""))
    step = data.first_step_failure_event
    if step and isinstance(step.event_specific_data, StepFailureData):
        return step_words(str(step.step_key), step.event_specific_data)
    # without an error it is Dagster's own sentence on a worker that is gone, or on a limit that was passed
    return _class_of(data.error) if data.error else literal(first_line(event.message or ""))


def check_key(evaluation: AssetCheckEvaluation) -> str:
    """Return what evaluations of the same check share."""
    return f"check: {_check(evaluation)}"


def check_line(
    evaluation: AssetCheckEvaluation,
    run: DagsterRun | None,
    run_id: str,
    words: str,
    ui: str | None,
) -> str:
    """Return asset and check, days, words and the run; an evaluation that a sensor reported has none."""
    days = evaluation.partition or _days(run.tags if run else {})
    return _line(_check(evaluation), days, words, run_id, ui)


def check_words(evaluation: AssetCheckEvaluation) -> str:
    """Return the first line of the description, which is Markdown; nothing of a check that is not ours."""
    return first_line(evaluation.description or "") if evaluation.asset_key.path[0] == OURS else ""


def first_line(text: str) -> str:
    """Return the first line with something on it, cut at 200 characters."""
    line = next(filter(None, map(str.strip, text.splitlines())), "")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _line(what: str, days: str, words: str, run_id: str, ui: str | None) -> str:
    run = f" (run {f'{ui}/runs/{run_id}' if ui else run_id})" if run_id else ""
    return f"{', '.join(filter(None, [what, days]))}{f': {words}' if words else ''}{run}"


def _names(run: DagsterRun | None) -> list[str]:
    if run is None:
        return []
    if run.asset_selection:
        return sorted(map(AssetKey.to_user_string, run.asset_selection))
    return sorted(
        f"{check.asset_key.to_user_string()} {check.name}"
        for check in run.asset_check_selection or ()
    )


def _check(evaluation: AssetCheckEvaluation) -> str:
    return f"{evaluation.asset_key.to_user_string()} {evaluation.check_name}"


def _days(tags: Mapping[str, str]) -> str:
    first, last = tags.get(RANGE_START), tags.get(RANGE_END)
    return (
        f"{first} to {last}"
        if first and last and first != last
        else first or tags.get(PARTITION) or ""
    )


def step_words(step: str, data: StepFailureData) -> str:
    """Return why the step failed: our error's first line as literal Markdown, or the class of another error."""
    said = data.user_failure_data
    if said and said.description and step.startswith(f"{OURS}__"):
        # as defs/step_failures.py makes them; the Failure of an op that others wrote has no such mark
        mark = said.metadata.get("error")
        if (
            len(said.metadata) == 1
            and isinstance(mark, TextMetadataValue)
            and (mark.text or "").isidentifier()
        ):
            return literal(first_line(said.description))
    return f"{step}: {_class_of(data.error) if data.error else 'failed'}"


def _class_of(error: SerializableErrorInfo) -> str:
    """Return the class of the innermost cause: Dagster wraps what a step raised."""
    while error.cause:
        error = error.cause
    return (error.cls_name or "an error").rpartition(".")[2]
