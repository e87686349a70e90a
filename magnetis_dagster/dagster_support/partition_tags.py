"""The run tags in which Dagster stores the partitions (days) of a run.

Does not import Dagster, since commands use it too.
"""

from collections.abc import Mapping
from datetime import date

from magnetis_dagster.dates import days_between

PARTITION = "dagster/partition"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


def days_tags(first: date, last: date) -> dict[str, str]:
    """Return the tags of one run over the days `first` to `last`, inclusive."""
    if first == last:
        return {PARTITION: first.isoformat()}
    return {RANGE_START: first.isoformat(), RANGE_END: last.isoformat()}


def days_of(tags: Mapping[str, str]) -> list[date]:
    """Return the days of a run with these tags; none for a run without partitions."""
    first = tags.get(RANGE_START) or tags.get(PARTITION)
    if not first:
        return []
    last = tags.get(RANGE_END) or first
    return days_between(date.fromisoformat(first), date.fromisoformat(last))
