"""Launching the backfill that a plan describes, through the running webserver, and writing its forecast down."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from sqlalchemy import Engine

from magnetis_dagster.dagster_support.webserver_client import (
    LOCATION,
    DagsterApi,
    DagsterUnavailable,
)
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.planning.plan import Plan, completion
from magnetis_dagster.warehouse.forecasts import record

PLANNED_TAG = "magnetis/planned_calls"


class NothingToLaunch(PermanentError):
    """The plan has no price, or nothing to read; no backfill was launched."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A backfill that Dagster has accepted."""

    backfill: str
    page: str
    """Address of its page."""

    def as_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        return asdict(self)


@contextmanager
def open_dagster(url: str, *, location: str = LOCATION) -> Iterator[DagsterApi]:
    """Open the webserver at `url`. Raises DagsterUnavailable where none answers with the code location, LocationFailed."""
    with DagsterApi(url, location=location) as api:
        if not api.loaded():
            raise DagsterUnavailable(
                f"No Dagster that has loaded {location} answers at {url}. Start `magnetis dev` or the webserver, or give its "
                "address: --dagster-url or MAGNETIS_DAGSTER_URL. Nothing was spent."
            )
        yield api


def launch_plan(
    plan: Plan, dagster: DagsterApi, engine: Engine, *, ui_url: str | None = None
) -> Launched:
    """Launch exactly what the plan priced, and record the forecast; `ui_url`: where people open the UI, if not at `dagster`.

    Raises NothingToLaunch, DagsterUnavailable, DatabaseUnavailable.
    """
    if plan.problems:
        raise NothingToLaunch(
            "Not launched, since not everything has a price. Leave out: "
            f"{', '.join(line.collection for line in plan.lines if line.problem)}."
        )
    if not plan.calls:
        raise NothingToLaunch(
            f"Not launched: nothing is missing between {plan.first} and {plan.last}."
        )
    priced = [line for line in plan.lines if line.ranges]
    what = "; ".join(
        f"{line.collection}: {line.days:,} days, {line.rows:,} rows, {line.calls:,} calls"
        for line in priced
    )
    backfill = dagster.launch_backfill(
        {line.collection: [(each.first, each.last) for each in line.ranges] for line in priced},
        title=f"forecast: {plan.calls:,} calls, done {completion(plan)}",
        description=f"forecast of {plan.at:%Y-%m-%d %H:%M %Z}: {plan.calls:,} calls, done {completion(plan)}. {what}",
        tags={PLANNED_TAG: str(plan.calls)},
    )
    for line in priced:
        for each in line.ranges:
            record(
                engine,
                backfill,
                line.collection,
                each.first,
                each.last,
                each.days,
                each.rows,
                each.calls,
                planned=True,
            )
    return Launched(backfill, dagster.backfill_page(backfill, ui_url=ui_url))
