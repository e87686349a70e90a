"""Compare the received rows with the declaration of their collection."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from magnetis_dagster.catalog.names import fold
from magnetis_dagster.probe.report import MOST_NAMES, Finding
from magnetis_dagster.probe.rows import Interval, Name, Sample


def examine(sample: Sample, finding: Finding, first: Sample | None = None) -> None:
    """Record names and numbers of differences between rows and declaration.

    `first` is the row of the first request. It lies at an edge of the window if the route sorts by
    time.
    """
    if not len(sample):
        return
    collection, parsed = sample.collection, sample.parsed
    finding.rows = len(sample)
    ids = [identifier for identifier in parsed.ids if identifier]
    finding.repeated_ids = len(ids) - len(set(ids))
    finding.columns = sample.column_paths()
    finding.misfits = list(parsed.misfits)
    finding.unknown = _shown(
        sample, [name for name in sample.members if not sample.is_declared(name)]
    )
    moments = [name for name, values in sample.members.items() if any(sample.moments(values))]
    finding.times = _shown(sample, moments)
    readable = {fold(".".join(name)) for name in moments}
    finding.time_field = next(
        (path for path in collection.time_fields if fold(path) in readable), None
    )
    timed = [moment for moment in parsed.occurred_at if moment]
    found = {*finding.columns, *([] if None in parsed.ids else ["id"])}
    found |= {"occurred_at"} if len(timed) * 2 > len(sample) else set()
    expected = ["id", *(["occurred_at"] if collection.is_events else []), *collection.columns]
    finding.missing = [name for name in expected if name not in found]
    if first:
        timed += [moment for moment in first.parsed.occurred_at if moment]
    if sample.window and timed:
        _compare_times(timed, sample.window, finding)


def _compare_times(moments: Sequence[datetime], window: Interval, finding: Finding) -> None:
    """Record the row furthest outside the window, else the nearest to an edge."""
    start, end = window
    outside = max(
        (min(moment - start, timedelta(0)) + max(moment - end, timedelta(0)) for moment in moments),
        key=abs,
    )
    finding.outside_seconds = round(outside.total_seconds())
    edge = abs(outside) or min(min(moment - start, end - moment) for moment in moments)
    finding.edge_seconds = round(edge.total_seconds())


def _shown(sample: Sample, names: Sequence[Name]) -> list[str]:
    return sorted(set(map(sample.shown, names)))[:MOST_NAMES]
