"""What reading a range of days costs in API calls, told from its announced rows. Pure: no call, no clock, no database.

How a range is cut into windows is decided by `cut.py`; the sizes that it goes by stand here.
"""

from datetime import date, timedelta
from math import ceil

from magnetis_dagster.ingest.window_splitter import Cut
from magnetis_dagster.ingest.windows import PADDING, Window
from magnetis_dagster.ingest.witnesses import rechecked_pages

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
        pages = ceil(rows / PAGE_ROWS)
        # an empty range has one edge to verify
        return pages + len(rechecked_pages(pages)) if rows else min(days, 2)
    a_day = rows / (days + _PADDING_DAYS)
    whole = Window(date.min, date.min + timedelta(days=days - 1))
    cut, spent = Cut(whole, chunk_rows), 0.0
    cut.too_large(whole, rows)
    while window := cut.next():
        received = (len(window.days) + _PADDING_DAYS) * a_day
        # the last page of a window is half full on average
        spent += (
            received / PAGE_ROWS + 0.5 + len(rechecked_pages(round(received / PAGE_ROWS + 0.5)))
        )
        cut.read(window, round(received))
    return 1 + ceil(spent)
