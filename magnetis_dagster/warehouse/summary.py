"""Summarizes rows, API calls and seconds per collection, for the output of `magnetis dev`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Engine

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import fetch, guarded
from magnetis_dagster.warehouse.queries import Queries

_QUERIES = Queries("summary")


@dataclass(frozen=True, slots=True)
class SummaryLine:
    """One collection over a range of days."""

    collection: str
    family: str
    days: int
    rows: int
    """Rows in the table: for events those of the completed days, for snapshots the newest ones."""
    api_calls: int
    """API calls of the given runs, retries included."""
    seconds: float
    """Seconds that the given runs spent on reading and merging."""


def summary(
    engine: Engine,
    catalogue: Catalogue,
    first: date,
    last: date,
    runs: Sequence[str],
    *,
    connection_name: str = UNNAMED,
) -> list[SummaryLine]:
    """Return a line per enabled collection, for the days `first` to `last` inclusive."""
    days = {"connection": connection_name, "first": first, "last": last}
    of_runs = {"connection": connection_name, "runs": list(runs)}
    with guarded(engine, "read the summary"), engine.connect() as connection:
        completed, calls, seconds = (
            {row.collection: row for row in connection.execute(_QUERIES[query], parameters)}
            for query, parameters in (
                ("completed_days", days),
                ("api_calls", of_runs),
                ("seconds", of_runs),
            )
        )
    lines = []
    for collection in catalogue.enabled:
        name = collection.name
        line = completed.get(name)
        lines.append(
            SummaryLine(
                collection=name,
                family=collection.family,
                days=int(line.days) if line else 0,
                rows=int(line.rows if collection.is_events else line.newest) if line else 0,
                api_calls=int(calls[name].calls) if name in calls else 0,
                seconds=float(seconds[name].seconds) if name in seconds else 0.0,
            )
        )
    return lines


def keys_used(engine: Engine, *, connection_name: str = UNNAMED) -> set[str]:
    """Return the fingerprints of the keys whose requests loaded rows of the connection.

    Excludes keys that the API refused, and keys that only `magnetis probe` or `magnetis plan` used.
    """
    parameters = {"connection": connection_name}
    found = fetch(engine, "read the keys used", _QUERIES["keys_used"], parameters)
    return {key for (key,) in found}
