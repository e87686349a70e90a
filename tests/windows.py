"""Load a window without an API."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from magnetis_dagster.warehouse import Emptied, MergeResult, Rules, Warehouse, WindowFacts

PARIS = ZoneInfo("Europe/Paris")


def load_window(
    warehouse: Warehouse,
    name: str,
    days: Sequence[date],
    *pages: list[Any],
    read_at: datetime,
    announced: int | None = None,
    emptied: Emptied = Emptied.DELETE,
) -> MergeResult:
    """Load pages of rows as one complete window."""
    collection = warehouse.catalogue[name]
    with warehouse.staging(collection) as staging:
        for page in pages:
            staging.add(page)
        received = staging.deduplicate().received
        facts = WindowFacts(
            days=list(days),
            read_at=read_at,
            announced=received if announced is None else announced,
            received=received,
            api_calls=len(pages),
            bytes=0,
            milliseconds=0,
            run_id="test",
            read_on=read_at.astimezone(PARIS).date(),
            rules=Rules(emptied),
        )
        return warehouse.commit(staging, facts)
