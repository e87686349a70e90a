"""Decides whether the rows that the API returned for a day are plausible.

Few rows, unreadable rows, or known ids on other days would make a merge delete or move correct
rows. Such a day is doubted: the merge leaves its rows unchanged.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import PermanentError

FEWEST_DOUBTED = 10
"""Deleting or moving fewer rows of a day is always plausible, whatever their share."""


class MovedRows(PermanentError):
    """Many ids of a day belong to rows of other days; the transaction was rolled back."""


class Emptied(StrEnum):
    """Reaction to an API that no longer returns any, or many, rows of a day or snapshot."""

    DOUBT = "doubt"
    """Keep the rows and report the day as incomplete: the key may have lost some of its scope."""
    KEEP = "keep"
    """Keep the rows, and the day's completion record: the vendor deletes old rows."""
    DELETE = "delete"


class DoubtReason(StrEnum):
    """Reason why the API's rows for a day are implausible."""

    EMPTIED = "emptied"
    """The API returned no rows, but the table contains some."""
    DELETIONS = "deletions"
    """The API no longer returned many of the stored rows."""
    UNREADABLE = "unreadable"
    """The API returned many rows that cannot be placed, at least one of them a stored row."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of a plausible change. Shares are fractions of the day's rows, 0 to 1."""

    emptied: Emptied = Emptied.DOUBT
    doubted_share: float = 0.20
    """Largest share that one read may delete or move, from FEWEST_DOUBTED rows. 1: no limit."""
    unreadable_share: float = 0.01
    """Largest share of unreadable rows, if at least one of them is stored."""

    def too_many(self, rows: int, of: int) -> bool:
        """Return whether deleting or moving `rows` rows out `of` a day's rows is implausible."""
        return rows >= FEWEST_DOUBTED and rows > self.doubted_share * of


@dataclass(frozen=True, slots=True)
class Doubt:
    """An implausible day. The merge left its rows unchanged."""

    reason: DoubtReason
    held: int
    rows: int
    """Rows that the merge would have deleted, or that are unreadable."""


@dataclass(frozen=True, slots=True)
class StoredDay:
    """A requested day for which the table contains rows before the merge."""

    day: date
    held: int
    missing: int
    """Stored rows that were not received."""
    unreadable: int
    """Stored rows that were received but can no longer be placed."""
    without_id: int
    """Received rows without a readable id. Each may be one of the missing rows."""


@dataclass(slots=True)
class Decisions:
    """The merge's treatment of each stored day."""

    doubted: dict[date, Doubt] = field(default_factory=dict)
    kept: dict[date, int] = field(default_factory=dict)
    """Days to the number of rows that stay although they were not received as usable rows."""
    undeleted: list[date] = field(default_factory=list)
    """Days on which no row is marked as deleted."""

    def keep(self, stored: StoredDay) -> None:
        """Delete no row of the day."""
        self.kept[stored.day] = stored.unreadable + stored.missing
        self.undeleted.append(stored.day)


def decide(rules: Rules, announced: Counter[date | None], days: Sequence[StoredDay]) -> Decisions:
    """Decide how to treat each day. `announced` counts the usable rows received for it."""
    decisions = Decisions()
    for stored in days:
        day, held, missing = stored.day, stored.held, stored.missing
        lost = stored.unreadable + min(missing, stored.without_id)
        many_missing = rules.too_many(missing, held)
        if lost > rules.unreadable_share * (announced[day] + lost):
            decisions.doubted[day] = Doubt(DoubtReason.UNREADABLE, held, lost)
        elif stored.without_id:
            # any missing row may be one of those without an id, and a received row is never deleted
            decisions.keep(stored)
        elif rules.emptied is Emptied.DELETE or not missing:
            decisions.kept[day] = stored.unreadable
        elif not announced[day]:
            decisions.doubted[day] = Doubt(DoubtReason.EMPTIED, held, missing)
        elif not many_missing:
            decisions.kept[day] = stored.unreadable
        elif rules.emptied is Emptied.KEEP:
            decisions.keep(stored)
        else:
            decisions.doubted[day] = Doubt(DoubtReason.DELETIONS, held, missing)
    return decisions


def refuse_mass_moves(
    collection: Collection,
    rules: Rules,
    moves: Counter[tuple[date | None, date]],
    announced: dict[date, int],
) -> None:
    """Raise MovedRows if many rows of a requested day come from or go to another day.

    `moves` counts rows by former and new day; `announced` maps requested days to received rows.
    """
    moved: Counter[date | None] = Counter()
    for (was, day), rows in moves.items():
        moved[was] += rows
        moved[day] += rows
    for day, received in announced.items():
        rows, of = moved[day], max(received, moved[day])
        if rules.too_many(rows, of):
            raise MovedRows(
                f"{collection.name}, {day}: {rows} of {of} rows have ids that the table contains "
                "on other days. If the id does not identify a row, set "
                f"collections.{collection.name}.id_paths in MAGNETIS_CONFIG to the members that "
                "do. If the times of many rows have changed, set MAGNETIS_DOUBTED_SHARE=1 for one "
                "load to accept them. The transaction was rolled back."
            )
