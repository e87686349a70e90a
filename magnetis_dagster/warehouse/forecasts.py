"""Forecasts of backfills, and what became of them: written when the price is known, held against the ledger's calls later."""

from dataclasses import dataclass
from datetime import date

from sqlalchemy import Engine, text

from magnetis_dagster.database import guarded
from magnetis_dagster.errors import PermanentError

_RECORD = """
    INSERT INTO magnetis_ops.forecasts AS f
        (work, collection, first_day, last_day, days, rows, calls, planned, forecast_at)
    VALUES (:work, :collection, :first_day, :last_day, :days, :rows, :calls, :planned, magnetis_ops.now())
    ON CONFLICT (work, collection, first_day) DO UPDATE SET
        last_day = excluded.last_day, days = excluded.days, rows = excluded.rows, calls = excluded.calls,
        planned = true, forecast_at = excluded.forecast_at
    WHERE excluded.planned AND NOT f.planned
"""
"""What was planned before the start stands; it replaces what a run said that was quicker."""

_REPORT = """
    WITH known AS (
        SELECT f.*, bool_or(f.planned) OVER (PARTITION BY f.collection) AS any_planned
        FROM magnetis_ops.forecasts AS f WHERE f.work = :work
    ), valid AS (
        -- a run that goes on with another's days forecasts them again
        SELECT k.* FROM known AS k WHERE k.planned OR NOT k.any_planned AND NOT EXISTS (
            SELECT FROM known AS wider WHERE wider.collection = k.collection AND wider.first_day <= k.first_day
              AND wider.last_day >= k.last_day AND wider.first_day <> k.first_day)
    ), foreseen AS (
        SELECT collection, min(first_day) AS first_day, max(last_day) AS last_day, sum(days) AS days, sum(rows) AS rows,
               sum(calls) AS calls FROM valid GROUP BY collection
    ), done AS (
        SELECT d.collection, count(*) AS days, sum(d.announced) AS rows
        FROM magnetis_ops.days AS d
        WHERE EXISTS (
            SELECT FROM valid AS v WHERE v.collection = d.collection AND d.day BETWEEN v.first_day AND v.last_day
              AND (d.read_at >= v.forecast_at OR d.run_id = v.work OR d.run_id IN (
                  SELECT run_id FROM magnetis_ops.api_calls WHERE backfill_id = :work)))
        GROUP BY d.collection
    ), spent AS (
        SELECT collection, count(*) AS calls FROM magnetis_ops.api_calls
        WHERE backfill_id = :work OR backfill_id IS NULL AND run_id = :work GROUP BY collection
    )
    SELECT f.collection, f.first_day, f.last_day, f.days::int AS days, f.rows::bigint AS rows, f.calls::int AS calls,
           coalesce(spent.calls, 0)::int AS spent, coalesce(done.days, 0)::int AS days_done,
           coalesce(done.rows, 0)::bigint AS rows_done
    FROM foreseen AS f LEFT JOIN done USING (collection) LEFT JOIN spent USING (collection)
    ORDER BY f.collection
"""


class UnknownBackfill(PermanentError):
    """No forecast is known for the backfill."""


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """One collection of a backfill: what was foreseen, and what became of it so far."""

    collection: str
    first_day: date
    last_day: date
    """Inclusive; days between the two may not have been asked."""
    days: int
    rows: int
    """Announced, padding included."""
    calls: int
    spent: int
    """API calls charged so far, retries included."""
    days_done: int
    rows_done: int
    """Rows received for those days."""

    @property
    def error_percent(self) -> float | None:
        """By how much the forecast differs from the calls spent, in per cent of them; None until every day is done."""
        return error_percent(self.calls, self.spent) if self.days_done >= self.days else None


def error_percent(foreseen: int, spent: int) -> float | None:
    """Return the forecast's error in per cent of the calls spent: above 0 it was too high. None where none were spent."""
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
) -> None:
    """Write what reading `first_day` to `last_day` of a collection is expected to cost; one that is there stays.

    `work` is the Dagster backfill, or the run where there is none. `planned`: by `magnetis plan`, one line for each range. Raises
    DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "write the forecast"), engine.begin() as connection:
        connection.execute(
            text(_RECORD),
            {
                "work": work,
                "collection": collection,
                "first_day": first_day,
                "last_day": last_day,
                "days": days,
                "rows": rows,
                "calls": calls,
                "planned": planned,
            },
        )


def report(engine: Engine, work: str) -> list[ForecastLine]:
    """Return a line for each collection of the backfill. Raises UnknownBackfill, DatabaseUnavailable, DatabaseRefused."""
    with guarded(engine, "read the forecast"), engine.connect() as connection:
        prepared = connection.execute(
            text("SELECT to_regclass('magnetis_ops.forecasts') IS NOT NULL")
        ).scalar_one()
        lines = (
            [
                ForecastLine(**row)
                for row in connection.execute(text(_REPORT), {"work": work}).mappings()
            ]
            if prepared
            else []
        )
    if not lines:
        raise UnknownBackfill(
            f"No forecast is known for backfill {work!r} in this database. Take the id from the address of its page in Dagster, "
            "such as abcdefgh; a backfill that was launched there is known once its first run has begun."
        )
    return lines
