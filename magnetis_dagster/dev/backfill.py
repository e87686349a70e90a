"""Launch a planned backfill through Dagster's webserver, and store its forecast."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.connections import Connection
from magnetis_dagster.dagster_support.webserver_client import (
    LOCATION,
    PREFIX,
    DagsterApi,
    DagsterUnavailable,
)
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.planning.plan import Plan, completion
from magnetis_dagster.warehouse.forecasts import record

PLANNED_TAG = "magnetis/planned_calls"


class NothingToLaunch(PermanentError):
    """The plan has no price or no missing days; no backfill was launched."""


@contextmanager
def open_dagster(url: str, connection: Connection | None = None) -> Iterator[DagsterApi]:
    """Connect to the webserver at `url`, for the assets of a connection (None: the unnamed one).

    Raises: DagsterUnavailable if it does not answer with the code location. LocationFailed if the
    code location did not load.
    """
    with DagsterApi(url, prefix=connection.key_prefix if connection else PREFIX) as api:
        if not api.loaded():
            raise DagsterUnavailable(
                f"No Dagster webserver that has loaded {LOCATION} answers at {url}. Start "
                "`magnetis dev` or the webserver, or set its address: --dagster-url or "
                "MAGNETIS_DAGSTER_URL. No API call was spent."
            )
        yield api


def launch_plan(
    plan: Plan,
    dagster: DagsterApi,
    engine: Engine,
    ui_url: str | None = None,
    connection: Connection | None = None,
) -> dict[str, str]:
    """Launch exactly the days that the plan priced, and store the forecast.

    Returns the id of the `backfill` and the URL of its `page`. `ui_url` is the UI's address for
    people, if it differs from `dagster`. `connection` is the one of `open_dagster`.

    Raises: NothingToLaunch if the plan has no price or no missing days. DagsterUnavailable.
    DatabaseUnavailable.
    """
    if plan.problems:
        raise NothingToLaunch(
            "Not launched, because some collections have no price. Exclude them: "
            f"{', '.join(line.collection for line in plan.lines if line.problem)}."
        )
    if not plan.calls:
        raise NothingToLaunch(
            f"Not launched: no day between {plan.first} and {plan.last} is missing."
        )
    priced = [line for line in plan.lines if line.ranges]
    details = "; ".join(
        f"{line.collection}: {line.days:,} days, {line.rows:,} rows, {line.calls:,} calls"
        for line in priced
    )
    forecast = f"{plan.calls:,} calls, done {completion(plan)}"
    named = "" if connection is None or connection.is_unnamed else f"{connection.name}: "
    backfill = dagster.launch_backfill(
        {line.collection: [(each.first, each.last) for each in line.ranges] for line in priced},
        title=f"{named}forecast: {forecast}",
        description=f"{named}forecast of {plan.at:%Y-%m-%d %H:%M %Z}: {forecast}. {details}",
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
                connection_name=connection.name if connection else UNNAMED,
            )
    return {"backfill": backfill, "page": dagster.backfill_page(backfill, ui_url=ui_url)}
