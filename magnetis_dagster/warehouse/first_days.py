"""Finds the first loaded day: the first partition of snapshots, and of the sandbox."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Engine, text

from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import guarded, has_table

_FIRST = text(
    "SELECT min(day) FROM magnetis_ops.days "
    "WHERE connection = :connection AND collection = ANY(:collections)"
)


def first_day(
    engine: Engine, collections: Sequence[str], *, connection_name: str = UNNAMED
) -> date | None:
    """Return the first loaded day of any of the collections, if any. Creates no tables."""
    with guarded(engine, "read the first loaded day"), engine.connect() as connection:
        if not has_table(connection, "magnetis_ops.days"):
            return None
        parameters = {"connection": connection_name, "collections": list(collections)}
        found = connection.execute(_FIRST, parameters)
        first: date | None = found.scalar_one()
        return first
