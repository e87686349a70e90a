"""Finds the first loaded day: the first partition of snapshots, and of the sandbox."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Engine, text

from magnetis_dagster.database import guarded


def first_day(engine: Engine, collections: Sequence[str]) -> date | None:
    """Return the first loaded day of any of the collections, or None if there is none.

    Creates no tables. Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "read the first loaded day"), engine.connect() as connection:
        if not connection.execute(
            text("SELECT to_regclass('magnetis_ops.days') IS NOT NULL")
        ).scalar_one():
            return None
        statement = text(
            "SELECT min(day) FROM magnetis_ops.days WHERE collection = ANY(:collections)"
        )
        first: date | None = connection.execute(
            statement, {"collections": list(collections)}
        ).scalar_one()
        return first
