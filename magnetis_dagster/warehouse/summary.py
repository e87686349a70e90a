"""What is there and what it cost, per collection: for the table that `magnetis dev` ends its load with."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import guarded


@dataclass(frozen=True, slots=True)
class SummaryLine:
    """One collection over a range of days."""

    collection: str
    family: str
    days: int
    """Days of the range that are done."""
    rows: int
    """Rows that the table holds: of those days for events, of the newest state for snapshots."""
    api_calls: int
    """Calls that the given runs sent, retries included."""
    seconds: float
    """Seconds that the given runs spent reading and merging."""


def summary(
    engine: Engine, catalogue: Catalogue, first: date, last: date, runs: Sequence[str]
) -> list[SummaryLine]:
    """Return a line per enabled collection, over the days `first` to `last` inclusive. Raises DatabaseUnavailable, DatabaseRefused."""
    with guarded(engine, "read the summary"), engine.connect() as connection:
        done = {
            row.collection: row
            for row in connection.execute(
                text(
                    "SELECT collection, count(*) AS days, sum(held)::bigint AS rows, "
                    "(array_agg(held ORDER BY day DESC))[1] AS newest "
                    "FROM magnetis_ops.days WHERE day BETWEEN :first AND :last GROUP BY collection"
                ),
                {"first": first, "last": last},
            )
        }
        calls = {
            row.collection: int(row.calls)
            for row in connection.execute(
                text(
                    "SELECT collection, count(*) AS calls FROM magnetis_ops.api_calls WHERE run_id = ANY(:runs) GROUP BY collection"
                ),
                {"runs": list(runs)},
            )
        }
        seconds = {
            row.collection: float(row.seconds)
            for row in connection.execute(
                text(
                    "SELECT collection, sum(milliseconds) / 1000.0 AS seconds FROM magnetis_ops.windows "
                    "WHERE run_id = ANY(:runs) GROUP BY collection"
                ),
                {"runs": list(runs)},
            )
        }
    lines = []
    for collection in catalogue.enabled:
        found = done.get(collection.name)
        lines.append(
            SummaryLine(
                collection=collection.name,
                family=collection.family,
                days=int(found.days) if found else 0,
                rows=int(found.rows if collection.is_events else found.newest) if found else 0,
                api_calls=calls.get(collection.name, 0),
                seconds=seconds.get(collection.name, 0.0),
            )
        )
    return lines


def keys_used(engine: Engine) -> set[str]:
    """Return the fingerprints of the keys whose calls filled this database. Raises DatabaseUnavailable, DatabaseRefused.

    A mistyped key that was refused, or one that only `magnetis probe` or `magnetis plan` used, brought no row.
    """
    with guarded(engine, "read which keys were used"), engine.connect() as connection:
        return set(
            connection.execute(
                text(
                    "SELECT key_fingerprint FROM (SELECT DISTINCT key_fingerprint FROM magnetis_ops.quota_days) AS key "
                    "WHERE EXISTS (SELECT FROM magnetis_ops.api_calls AS call WHERE call.key_fingerprint = key.key_fingerprint "
                    "AND status = 200 AND rows > 0 AND coalesce(run_id, '') NOT IN ('magnetis probe', 'magnetis plan'))"
                )
            ).scalars()
        )
