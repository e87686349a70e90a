"""Print the progress of `magnetis dev` and its final summary.

Progress is a spinner or bars on a terminal, and lines elsewhere.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from magnetis_dagster.warehouse.summary import SummaryLine

LINE_SECONDS = 10.0
"""Minimum time between two lines of load progress outside a terminal."""
QUIET_SECONDS = 4.0
"""Outside a terminal, name the current step after this many seconds without output."""


class Steps:
    """Displays the current step: a spinner on a terminal, elsewhere lines.

    Leave its `with` block before another live display of rich starts.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("") if console.is_terminal else None
        self._step, self._began, self._last = "", time.monotonic(), time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Self:
        """Start the display."""
        if self._status:
            self._status.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop the display."""
        self._ended.set()
        if self._status:
            self._status.stop()
        else:
            self._thread.join()

    def begin(self, step: str) -> None:
        """Display another step, such as `Starting Dagster`."""
        self._step, self._began = step, time.monotonic()
        if self._status:
            self._status.update(f"{escape(step)} ...")

    def restart_timer(self) -> None:
        """Restart the quiet period, because other code printed a line."""
        self._last = time.monotonic()

    def _repeat(self) -> None:
        while not self._ended.wait(0.5):
            now = time.monotonic()
            if self._step and now - self._last >= QUIET_SECONDS:
                self._last = now
                self._console.print(
                    f"  {escape(self._step)}: {now - self._began:.0f} s",
                    highlight=False,
                    soft_wrap=True,
                )


class LoadProgress:
    """Displays days and rows loaded per collection."""

    def __init__(self, console: Console, printed: Callable[[], None] = lambda: None) -> None:
        self._console = console
        self._printed = printed
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("days"),
            TextColumn("{task.fields[rows]:>10,} rows"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop updating the bars."""
        self._bars.stop()

    def expect(self, collection: str, days: int) -> None:
        """Add a bar for the collection."""
        self._tasks[collection] = self._bars.add_task(collection, total=days, rows=0)

    def add_day(self, collection: str, rows: int) -> None:
        """Advance a bar by one day."""
        task = self._bars.tasks[self._tasks[collection]]
        self._bars.update(task.id, advance=1, rows=task.fields["rows"] + rows)
        due = time.monotonic() - self._last_line > LINE_SECONDS
        if not self._console.is_terminal and (due or task.finished):
            self._last_line = time.monotonic()
            self.log(
                f"{collection}: {task.completed:.0f} of {task.total:.0f} days, "
                f"{task.fields['rows']:,} rows"
            )

    def log(self, line: str) -> None:
        """Print a line, above the bars if they are shown."""
        self._console.print(escape(line), highlight=False, soft_wrap=True)
        self._printed()


def print_summary(console: Console, title: str, lines: Sequence[SummaryLine]) -> None:
    """Print a table with one line per collection, and a total."""
    table = Table(title=title, title_justify="left", show_footer=True)
    table.add_column("collection", footer="total")
    table.add_column("group")
    numbers = (
        ("days", "days", ","),
        ("rows", "rows", ","),
        ("API calls", "api_calls", ","),
        ("seconds", "seconds", ",.1f"),
    )
    for heading, name, form in numbers:
        total = sum(getattr(line, name) for line in lines)
        table.add_column(heading, footer=format(total, form), justify="right")
    for line in lines:
        cells = (format(getattr(line, name), form) for _, name, form in numbers)
        table.add_row(line.collection, line.family, *cells)
    console.print(table)
