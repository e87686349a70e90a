"""Compares the recorded counts of days (`days.held`, `strays.held`) with the rows of the tables.

Every transaction that writes rows writes the counts with them. So a difference is a defect, or the
work of somebody's own statement on the tables.
"""

from collections.abc import Collection as Several
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.schema import DATA_SCHEMA


@dataclass(frozen=True, slots=True)
class DayDifference:
    """A day whose recorded count is not the number of its rows; of a snapshot collection, the newest snapshot's day."""

    day: date
    recorded: int
    """Rows that `magnetis_ops.days` and `magnetis_ops.strays` record."""
    rows: int
    """Rows of the table that are not deleted."""


def reconcile(
    engine: Engine, collection: Collection, days: Several[date] | None = None
) -> list[DayDifference]:
    """Return the days whose recorded count is wrong, oldest first: those among `days`, or of the whole table.

    One statement, so that it sees a load that commits meanwhile whole or not at all. Of a snapshot
    collection it compares the newest snapshot, whatever `days` are. A million rows take 0.5 s.

    Raises DatabaseUnavailable, DatabaseRefused.
    """
    table = f"{DATA_SCHEMA}.{collection.name}"
    parameters: dict[str, Any] = {"collection": collection.name}
    if collection.is_events:
        asked = ""
        if days is not None:
            asked = "AND day = ANY(:days)"
            parameters["days"] = list(days)
        statement = f"""
            SELECT day, coalesce(r.held, 0), coalesce(t.held, 0)
            FROM (SELECT day, CAST(sum(held) AS bigint) AS held FROM (
                      SELECT day, held FROM magnetis_ops.days WHERE collection = :collection {asked}
                      UNION ALL SELECT day, held FROM magnetis_ops.strays WHERE collection = :collection {asked}
                  ) AS recorded GROUP BY day) AS r
            FULL JOIN (SELECT day, count(*) AS held FROM {table} WHERE deleted_at IS NULL {asked} GROUP BY day) AS t USING (day)
            WHERE coalesce(r.held, 0) <> coalesce(t.held, 0) ORDER BY day
        """
    else:
        statement = f"""
            SELECT day, held, rows FROM (
                SELECT day, held FROM magnetis_ops.days WHERE collection = :collection ORDER BY window_id DESC LIMIT 1
            ) AS newest, (SELECT count(*) AS rows FROM {table} WHERE deleted_at IS NULL) AS t
            WHERE held <> rows
        """
    with guarded(engine, f"count the rows of {collection.name}"), engine.connect() as connection:
        return [DayDifference(*row) for row in connection.execute(text(statement), parameters)]


def recount(connection: Connection, collection: Collection) -> None:
    """Record the rows of each day of an events collection as they are now, in the caller's transaction."""
    table = f"{DATA_SCHEMA}.{collection.name}"
    parameters = {"collection": collection.name}
    connection.execute(
        text(
            f"CREATE TEMPORARY TABLE counted ON COMMIT DROP AS "
            f"SELECT day, count(*) AS held FROM {table} WHERE deleted_at IS NULL GROUP BY day"
        )
    )
    connection.execute(
        text(
            "UPDATE magnetis_ops.days AS d SET held = c.held, announced = c.held FROM ("
            "SELECT day, coalesce(counted.held, 0) AS held FROM magnetis_ops.days LEFT JOIN counted USING (day) "
            "WHERE collection = :collection) AS c "
            "WHERE d.collection = :collection AND d.day = c.day AND d.held <> c.held"
        ),
        parameters,
    )
    connection.execute(
        text("DELETE FROM magnetis_ops.strays WHERE collection = :collection"), parameters
    )
    connection.execute(
        text(
            "INSERT INTO magnetis_ops.strays (collection, day, held) SELECT :collection, day, held FROM counted "
            "WHERE day NOT IN (SELECT day FROM magnetis_ops.days WHERE collection = :collection)"
        ),
        parameters,
    )
    connection.execute(text("DROP TABLE counted"))
