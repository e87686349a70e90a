"""The cursor of the repair sensor: the number of requests for each missing day, as ranges."""

import json
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Self

import dagster as dg

from magnetis_dagster.connections import Connection
from magnetis_dagster.dates import contiguous_ranges, days_between
from magnetis_dagster.settings import Settings

REPAIR_SENSOR = "repair_sensor"


class Attempts:
    """The number of attempts by collection and day; days without an attempt are not stored."""

    def __init__(self, counts: dict[str, dict[date, int]]) -> None:
        self._counts = counts

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        """Return the parsed cursor; no attempts if it is empty or invalid."""
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
            collection: [(str(first), str(last), n) for first, last, n in contiguous_ranges(days)]
            for collection, days in sorted(self._counts.items())
            if days
        }
        return json.dumps(content, separators=(",", ":"))

    def count(self, collection: str, day: date) -> int:
        """Return how often the day was requested since it was last green."""
        return self._counts.get(collection, {}).get(day, 0)

    def add(self, collection: str, days: Iterable[date]) -> None:
        """Count one more attempt at each of the days."""
        known = self._counts.setdefault(collection, {})
        for day in days:
            known[day] = known.get(day, 0) + 1

    def keep_only(self, missing: Mapping[str, Iterable[date]]) -> "Attempts":
        """Return the attempts at missing days only, without green days and removed collections."""
        return Attempts(
            {
                collection: {day: number for day in days if (number := self.count(collection, day))}
                for collection, days in missing.items()
            }
        )


def stored_attempts(instance: dg.DagsterInstance, connection: Connection) -> Attempts:
    """Return the attempts in the cursor of the connection's repair sensor."""
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.scheduler.instigation import SensorInstigatorData

    name = connection.scoped(REPAIR_SENSOR)
    # without DAGSTER_HOME, the instance exists for one command only and has no sensors
    if instance.schedule_storage:
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            data = state.instigator_data
            if state.instigator_name == name and isinstance(data, SensorInstigatorData):
                return Attempts.parse(data.cursor)
    return Attempts({})


def given_up_days(
    collection: str, missing: Iterable[date], attempts: Attempts, settings: Settings
) -> list[date]:
    """Return the missing days that the repair sensor does not request any more."""
    return [day for day in missing if attempts.count(collection, day) >= settings.repair_attempts]
