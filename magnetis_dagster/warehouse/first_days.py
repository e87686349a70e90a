"""Finds the first loaded day: the first partition of snapshots, and of the sandbox."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Engine, text

from magnetis_dagster.database import guarded, has_table

_FIRST = text("SELECT min(day) FROM magnetis_ops.days WHERE collection = ANY(:collections)")


def first_day(engine: Engine, collections: Sequence[str]) -> date | None:
    """Return the first loaded day of any of the collections, if any. Creates no tables."""
    with guarded(engine, "read the first loaded day"), engine.connect() as connection:
        if not has_table(connection, "magnetis_ops.days"):
            return None
        found = connection.execute(_FIRST, {"collections": list(collections)})
        first: date | None = found.scalar_one()
        return first
