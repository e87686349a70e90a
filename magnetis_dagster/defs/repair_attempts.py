"""How often the repair sensor has asked for each missing day: its cursor, written as ranges. What is missing is not known here."""

import json
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Self

from magnetis_dagster.dates import contiguous_ranges, days_between


class Attempts:
    """Attempts made by collection and day; a day that nobody asked for is not in it."""

    def __init__(self, made: dict[str, dict[date, int]]) -> None:
        self._made = made

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        """Return what the cursor says. An empty one, or one that somebody wrote by hand wrongly, says that nothing was tried."""
        try:
            content = json.loads(cursor or "{}")
            return cls(
                {
                    str(collection): {
                        day: int(number)
                        for first, last, number in ranges
                        for day in days_between(date.fromisoformat(first), date.fromisoformat(last))
                    }
                    for collection, ranges in content.items()
                }
            )
        except (ValueError, TypeError, AttributeError):
            return cls({})

    def cursor(self) -> str:
        """Return the text that `parse` reads."""
        content = {
            collection: [
                (str(first), str(last), number) for first, last, number in contiguous_ranges(days)
            ]
            for collection, days in sorted(self._made.items())
            if days
        }
        return json.dumps(content, separators=(",", ":"))

    def made(self, collection: str, day: date) -> int:
        """Return how often the day was asked for since it was last green."""
        return self._made.get(collection, {}).get(day, 0)

    def add(self, collection: str, days: Iterable[date]) -> None:
        """Count one more attempt at each of the days."""
        known = self._made.setdefault(collection, {})
        for day in days:
            known[day] = known.get(day, 0) + 1

    def only(self, missing: Mapping[str, Iterable[date]]) -> "Attempts":
        """Return those at the missing days: days that became green, and collections that are gone, are forgotten."""
        return Attempts(
            {
                collection: {day: number for day in days if (number := self.made(collection, day))}
                for collection, days in missing.items()
            }
        )
