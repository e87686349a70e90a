"""What reading a range of days costs in API calls, told from its announced rows. Pure: no call, no clock, no database.

How a range is cut into windows is decided by `ingestion.py`; the sizes that both go by stand here.
"""

from math import ceil

from magnetis_dagster.ingest.windows import PADDING

PAGE_ROWS = 250
"""The API's largest page."""
CHUNK_ROWS = 250 * PAGE_ROWS
"""A window aims at this many rows: its days turn green together soon enough, and the padding's four hours weigh little."""
SLACK = 1.5
"""An announcement up to this many chunks is read as one window: cutting it would cost another announcement."""

NIGHT = 0.25
"""Rows an hour around midnight, where the padding lies, over the day's mean: offices are closed, some lines are not."""
_PADDING_DAYS = 2 * PADDING.total_seconds() / 86_400 * NIGHT


def expected_calls(rows: int, *, chunk_rows: int = CHUNK_ROWS, days: int) -> int:
    """Return the API calls that reading `days` contiguous days costs, for which `rows` rows are announced, padding included.

    Rows are taken to be spread evenly over the days. A range that is read as one window costs its pages, an empty one one call.
    """
    if days < 1:
        return 0
    if days == 1 or rows <= int(chunk_rows * SLACK):
        return max(1, ceil(rows / PAGE_ROWS))
    a_day = rows / (days + _PADDING_DAYS)
    span = max(1, min(days - 1, days * chunk_rows // rows))
    windows, rest = divmod(days, span)
    pages = windows * _pages(span, a_day) + (_pages(rest, a_day) if rest else 0)
    return 1 + ceil(pages)


def _pages(days: int, a_day: float) -> float:
    # the last page of a window is half full on average
    return (days + _PADDING_DAYS) * a_day / PAGE_ROWS + 0.5
