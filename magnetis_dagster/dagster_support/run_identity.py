"""The identity of a run, from its tags: the quota lane it uses, and the work it resumes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dagster import DagsterRun

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.quota import LANES

if TYPE_CHECKING:
    from magnetis_dagster.ingest import RunIdentity

LANE_TAG = "magnetis/lane"
READING_TAG = "magnetis/reading"
"""On a run of a settings sensor: the name of the kept pages that the run loads."""

CONNECTION_TAG = "magnetis/connection"
"""On each asset: the name of its connection. Selects its assets in the UI, and limits its backfill
runs (run_coordinator.py)."""

BACKFILL_TAG = "dagster/backfill"
SENSOR_TAG = "dagster/sensor_name"
RETRY_TAG = "dagster/retry_number"
RESUME_TAGS = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry")
"""Set if a person re-executes a run from its failed steps or its failed assets."""


_LANES = {
    BACKFILL_TAG: "backfill",
    "dagster/schedule_name": "schedule",
    SENSOR_TAG: "settings",
}


class UnknownLane(PermanentError):
    """The tag magnetis/lane names a lane that does not exist."""


def _lane_of(tags: Mapping[str, str]) -> str:
    if (lane := tags.get(LANE_TAG)) and lane not in LANES:
        raise UnknownLane(
            f"Run tag {LANE_TAG}: unknown lane {lane!r}. Allowed: {', '.join(LANES)}."
        )
    return lane or next((lane for tag, lane in _LANES.items() if tag in tags), "manual")


def identity_of(run: DagsterRun, *, step_retry: int) -> "RunIdentity":
    """Return the identity of a run; a retry of step or run resumes the first attempt's work.

    Raises: UnknownLane.
    """
    from magnetis_dagster.ingest import RunIdentity

    reading = run.tags.get(READING_TAG)
    run_retry = RETRY_TAG in run.tags or any(run.tags.get(tag) == "true" for tag in RESUME_TAGS)
    return RunIdentity(
        run_id=run.run_id,
        lane=_lane_of(run.tags),
        work=reading or (run.root_run_id if run_retry else None),
        backfill_id=run.tags.get(BACKFILL_TAG),
        resumes=reading is not None or run_retry or step_retry > 0,
    )
