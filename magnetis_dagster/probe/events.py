"""Decide whether the rows of a snapshot collection look like events."""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

from magnetis_dagster.catalog.conversions import as_text
from magnetis_dagster.catalog.names import fold
from magnetis_dagster.probe.rows import Name, Sample, mostly_phones

RECENT = timedelta(days=92)
FEWEST_ROWS = 3
"""Rows that a member needs to be taken for different in every row."""

_STATE_TIMES = re.compile("creat|updat|modif|chang|expir|renew|valid|last|next|until|delet|disabl")
"""Names of times that settings have too."""


def event_members(sample: Sample, today: date) -> list[str]:
    """Return the members by which a snapshot collection looks like events.

    These are recent times that differ by row. A call or a phone number that differs by row counts
    too, together with a recent time of creation.
    """
    if sample.collection.is_events or len(sample) < FEWEST_ROWS:
        return []
    times = [name for name in _own_times(sample) if _recent(sample, name, today)]
    contacts = [name for name in _contacts(sample) if _differs(map(as_text, sample.members[name]))]
    if contacts and not times:
        times = [
            name
            for name in sample.nameable
            if fold(name[-1]).startswith("creat") and _recent(sample, name, today)
        ]
    return [".".join(name) for name in (*times, *contacts)] if times else []


def may_be_events(sample: Sample) -> bool:
    """Return whether the members of the first row justify a request for more rows."""
    return any(sample.moments(sample.members[name])[0] for name in _own_times(sample)) or bool(
        _contacts(sample)
    )


def is_recent(sample: Sample, today: date) -> bool:
    """Return whether the first row is recent: then the newest rows come first."""
    return any(
        _near(moment, today)
        for values in sample.members.values()
        for moment in sample.moments(values[:1])
    )


def _own_times(sample: Sample) -> list[Name]:
    volatile = {fold(path) for path in sample.collection.volatile}
    return [
        name
        for name in sample.nameable
        if not _STATE_TIMES.search(fold(name[-1])) and fold(".".join(name)) not in volatile
    ]


def _contacts(sample: Sample) -> list[Name]:
    """Return undeclared members that name a call or a phone number."""
    return [
        name
        for name, values in sample.nameable.items()
        if not sample.is_declared(name)
        and (fold(".".join(name)) in {"call", "callid"} or mostly_phones(values))
    ]


def _recent(sample: Sample, name: Name, today: date) -> bool:
    moments = [moment for moment in sample.moments(sample.members[name]) if moment]
    recent = [moment for moment in moments if _near(moment, today)]
    return len(moments) * 2 > len(sample) and len(recent) * 2 > len(moments) and _differs(moments)


def _near(moment: datetime | None, today: date) -> bool:
    return moment is not None and abs(moment - datetime.combine(today, time(12), UTC)) <= RECENT


def _differs(values: Iterable[object]) -> bool:
    counts = Counter(value for value in values if value is not None)
    return len(counts) >= max(FEWEST_ROWS, 0.8 * sum(counts.values()))
