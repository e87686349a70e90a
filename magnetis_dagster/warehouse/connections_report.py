"""Counts the missing days of each connection, for `magnetis connections`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from magnetis_dagster.database import guarded, has_table
from magnetis_dagster.warehouse.queries import Queries

_QUERIES = Queries("connections_report")


@dataclass(frozen=True, slots=True)
class ExpectedDays:
    """The days of one events collection that a connection should have: up to yesterday."""

    connection: str
    collection: str
    first: date
    zone: ZoneInfo
    """Time zone of its days."""

    def last(self, now: datetime) -> date:
        """Return the last closed day; it may be before `first`."""
        return now.astimezone(self.zone).date() - timedelta(days=1)


def missing_days(engine: Engine, expected: Sequence[ExpectedDays]) -> dict[str, int]:
    """Return the number of closed days without a complete read, by connection.

    A day counts once for each collection. Connections without an expected day are omitted. Creates
    no tables.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "count the missing days"), engine.connect() as connection:
        prepared = has_table(connection, "magnetis_ops.days")
        now = connection.execute(_QUERIES["now"]).scalar_one() if prepared else datetime.now(UTC)
        open_ended = [(each, each.last(now)) for each in expected]
        spans = [(each, last) for each, last in open_ended if last >= each.first]
        if not prepared:
            counted: Counter[str] = Counter()
            for each, last in spans:
                counted[each.connection] += (last - each.first).days + 1
            return dict(counted)
        parameters = {
            "connections": [each.connection for each, _ in spans],
            "collections": [each.collection for each, _ in spans],
            "firsts": [each.first for each, _ in spans],
            "lasts": [last for _, last in spans],
        }
        found = connection.execute(_QUERIES["missing_days"], parameters)
        return {row.connection: row.missing for row in found}
