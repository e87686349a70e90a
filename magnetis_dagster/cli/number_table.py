"""The table of names and numbers, and the bars, that several reports print."""

from rich import box
from rich.console import JustifyMethod
from rich.table import Table


def number_table(
    *headings: str, title: str | None = None, caption_justify: JustifyMethod = "center"
) -> Table:
    """Return an empty table: names under the first heading, numbers under the others."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify=caption_justify,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left")
    return table


def bar_width(calls: int, limit: int, whole: int) -> int:
    """Return the width of a bar for this many calls; one call already shows."""
    return min(whole, max(round(calls / limit * whole), 1 if calls else 0))
