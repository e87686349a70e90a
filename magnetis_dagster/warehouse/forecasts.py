"""Records forecasts of backfills, and compares them with the API calls that the ledger counted."""

from dataclasses import dataclass
from datetime import date

from sqlalchemy import Engine

from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import guarded, has_table, write
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.queries import Queries

_QUERIES = Queries("forecasts")


class UnknownBackfill(PermanentError):
    """No forecast is recorded for the backfill."""


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """Forecast and actual cost of one collection of a backfill."""

    collection: str
    first_day: date
    last_day: date
    """Inclusive. Not every day between the two need be part of the backfill."""
    days: int
    rows: int
    """Announced rows, padding included."""
    calls: int
    spent: int
    """API calls charged so far, retries included."""
    days_done: int
    rows_done: int

    @property
    def error_percent(self) -> float | None:
        """Return the error of the forecast; None until every day is complete."""
        return error_percent(self.calls, self.spent) if self.days_done >= self.days else None


def error_percent(foreseen: int, spent: int) -> float | None:
    """Return the error of a forecast as a percentage of the API calls spent, if any were.

    It is positive if the forecast was too high.
    """
    return 100 * (foreseen - spent) / spent if spent else None


def record(
    engine: Engine,
    work: str,
    collection: str,
    first_day: date,
    last_day: date,
    days: int,
    rows: int,
    calls: int,
    *,
    planned: bool = False,
    connection_name: str = UNNAMED,
) -> None:
    """Record the forecast cost of reading `first_day` to `last_day` of a collection.

    A recorded forecast stays, unless a planned one, by `magnetis plan`, replaces a run's own.
    `work` is the Dagster backfill, or else the run.
    """
    parameters = {
        "connection": connection_name,
        "work": work,
        "collection": collection,
        "first_day": first_day,
        "last_day": last_day,
        "days": days,
        "rows": rows,
        "calls": calls,
        "planned": planned,
    }
    write(engine, "write the forecast", _QUERIES["record"], parameters)


def report(engine: Engine, work: str, *, connection_name: str = UNNAMED) -> list[ForecastLine]:
    """Return a line for each collection of the backfill; raise UnknownBackfill if there is none."""
    parameters = {"connection": connection_name, "work": work}
    lines: list[ForecastLine] = []
    with guarded(engine, "read the forecast"), engine.connect() as connection:
        if has_table(connection, "magnetis_ops.forecasts"):
            found = connection.execute(_QUERIES["report"], parameters).mappings()
            lines = [ForecastLine(**row) for row in found]
    if not lines:
        raise UnknownBackfill(
            f"No forecast is known for backfill {work!r} in this database. Take the id, such as "
            "abcdefgh, from the URL of the backfill's page in Dagster. A backfill launched there "
            "has a forecast as soon as its first run has started."
        )
    return lines
