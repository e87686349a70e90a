"""The rows that a read of the sandbox must return."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from magnetis_dagster.sandbox import World
from magnetis_dagster.sandbox.day_plans import midnight


def expected_rows(
    world: World, collection: str, first: date | None = None, last: date | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the events of these local days, or all rows of a snapshot.

    Calls include `analysis`, which the catalogue requests.
    """
    if not world.catalogue.collections[collection].is_events:
        yield from map(json.loads, world.snapshot(collection))
        return
    zone, day = world.options.zone, first or world.options.first_day
    last = last or world.options.clock().astimezone(zone).date()
    while day <= last:
        start, end = midnight(day, zone), midnight(day + timedelta(days=1), zone) - 1
        yield from map(json.loads, world.events(collection, start, end)[1])
        day += timedelta(days=1)
