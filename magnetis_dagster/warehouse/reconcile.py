"""Compares the recorded row counts of days with the rows of the tables.

Every transaction that writes rows also writes their counts, `held` of `days` and `strays`. So a
difference is a defect, or somebody changed the tables by hand.
"""

from collections.abc import Collection as Several
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, Engine, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import fetch
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA

_QUERIES = Queries("reconcile")


@dataclass(frozen=True, slots=True)
class DayDifference:
    """A day, or newest snapshot, whose recorded count differs from the number of its rows."""

    day: date
    recorded: int
    """Rows that `magnetis_ops.days` and `magnetis_ops.strays` record."""
    rows: int
    """Rows in the table that are not deleted."""


def reconcile(
    engine: Engine,
    collection: Collection,
    days: Several[date] | None = None,
    *,
    connection_name: str = UNNAMED,
) -> list[DayDifference]:
    """Return the days of a connection whose recorded count is wrong, oldest first.

    `days`: None compares all days.

    One statement, so a concurrent load is visible completely or not at all. A million rows take
    0.5 s. For a snapshot collection it compares the newest snapshot and ignores `days`.
    """
    queries = _QUERIES.fill(
        table=f"{DATA_SCHEMA}.{collection.name}",
        days="" if days is None else "AND day = ANY(:days)",
    )
    query = "differences_of_events" if collection.is_events else "difference_of_snapshot"
    found = fetch(
        engine,
        f"count the rows of {collection.name}",
        queries[query],
        {
            "connection": connection_name,
            "collection": collection.name,
            "days": list(days or ()),
        },
    )
    return [DayDifference(*row) for row in found]


def recount(connection: Connection, collection: Collection, connection_name: str) -> None:
    """Correct a connection's counts of an events collection, in the caller's transaction."""
    queries = _QUERIES.fill(table=f"{DATA_SCHEMA}.{collection.name}")
    parameters = {"connection": connection_name, "collection": collection.name}
    connection.execute(queries["create_counted"])
    connection.execute(queries["count_by_day"], parameters)
    connection.execute(queries["correct_days"], parameters)
    connection.execute(
        text(
            "DELETE FROM magnetis_ops.strays "
            "WHERE connection = :connection AND collection = :collection"
        ),
        parameters,
    )
    connection.execute(queries["insert_strays"], parameters)
    connection.execute(text("DROP TABLE counted"))
