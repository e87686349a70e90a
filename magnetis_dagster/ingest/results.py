"""The results that a load returns: one record per window, one per day."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import accumulate, pairwise
from typing import Any, Self

from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.warehouse import Changes, Doubt, MergedDay, WindowFacts, age_days


@dataclass(frozen=True, slots=True)
class DayResult:
    """One complete day.

    Requests, bytes and seconds of the window are divided among its days by their rows. Requests
    and bytes are whole numbers that add up to those of the window.
    """

    day: date
    rows: int
    announced: int
    inserted: int
    changed: int
    deleted: int
    first_read: bool
    """No complete read of the day was recorded before."""
    age_days: int
    """Days from the day's end to the read: 0 in the first night."""
    api_calls: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, day: MergedDay, age_days: int, **costs: Any) -> Self:
        """Return the result of a merged day; `costs` are its shares of the window."""
        return cls(
            day=day.day,
            rows=day.held,
            announced=day.announced,
            inserted=day.inserted,
            changed=day.changed,
            deleted=day.deleted,
            first_read=day.first_read,
            age_days=age_days,
            **costs,
        )

    @property
    def late_rows(self) -> int:
        """Rows that were added, changed or deleted after a complete read of the day."""
        if self.first_read or not self.age_days:
            return 0
        return self.inserted + self.changed + self.deleted


@dataclass(frozen=True, slots=True)
class WindowResult:
    """One committed window."""

    window: Window
    days: list[DayResult]
    announced: int
    received: int
    quarantined: int
    quota_left: int
    rows_held: int
    """Rows in the whole table."""
    padding: int = 0
    api_calls: int = 0
    bytes: int = 0
    seconds: float = 0.0
    misfits: dict[str, int] = field(default_factory=dict)
    """Column to the number of values that do not fit its type."""
    unknown: list[str] = field(default_factory=list)
    """Members that no declaration reads."""
    replaced_characters: int = 0
    witness_calls: int = 0
    """API calls among `api_calls` that only verified the window."""
    skipped: bool = False
    """The resumed run had committed the window already; no request was sent."""
    doubted: dict[date, Doubt] = field(default_factory=dict)
    """Days with an implausible answer; they stay incomplete. See MAGNETIS_EMPTIED_DAYS."""
    changes: Changes | None = field(default=None, repr=False)
    """Changed settings, values as received; None for other collections."""


def day_results(days: Sequence[MergedDay], facts: WindowFacts, seconds: float) -> list[DayResult]:
    """Return the day results; the window's costs are divided by their rows."""
    days = sorted(days, key=lambda day: day.day)
    weights = [day.announced + 1 for day in days]
    shares = zip(_divide(facts.api_calls, weights), _divide(facts.bytes, weights), strict=True)
    return [
        DayResult.of(
            day,
            age_days(day.day, facts.read_on),
            api_calls=api_calls,
            bytes=size,
            seconds=seconds * weight / sum(weights),
        )
        for day, weight, (api_calls, size) in zip(days, weights, shares, strict=True)
    ]


def _divide(total: int, weights: Sequence[int]) -> list[int]:
    """Return whole shares of `total`, proportional to the weights, that add up to it."""
    ends = [total * part // sum(weights) for part in accumulate(weights)]
    return [end - start for start, end in pairwise([0, *ends])]
