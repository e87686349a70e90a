"""Output of `magnetis dev`: progress as a spinner or bars on a terminal and as lines elsewhere, and the table at the end."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
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
"""Between two lines of progress if there is no terminal."""


QUIET_SECONDS = 4.0
"""If there is no terminal: seconds without a line until one names the running step."""


class Steps:
    """The step that is running: a spinner on a terminal; elsewhere a line after every QUIET_SECONDS without one.

    A `with` block of it must end before another live display of rich begins.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("") if console.is_terminal else None
        self._step, self._began, self._last = "", time.monotonic(), time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Self:
        """Begin to show steps."""
        if self._status:
            self._status.start()
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing steps."""
        self._ended.set()
        if self._status:
            self._status.stop()
        else:
            self._thread.join()

    def begin(self, step: str) -> None:
        """Show another step, such as `Starting Dagster`."""
        self._step, self._began = step, time.monotonic()
        if self._status:
            self._status.update(f"{escape(step)} ...")

    def printed(self) -> None:
        """Record that another part printed a line."""
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
    """Days loaded of the days requested, and rows, by collection; a `dev.load.Watcher`."""

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
        self._asked: dict[str, int] = {}
        self._days: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bars as they are."""
        self._bars.stop()

    def asked(self, collection: str, days: int) -> None:
        """Open a bar."""
        self._asked[collection], self._days[collection], self._rows[collection] = days, 0, 0
        self._tasks[collection] = self._bars.add_task(collection, total=days, rows=0)

    def done(self, collection: str, rows: int) -> None:
        """Move a bar by one day."""
        self._days[collection] = self._days.get(collection, 0) + 1
        self._rows[collection] = self._rows.get(collection, 0) + rows
        if collection in self._tasks:
            self._bars.update(
                self._tasks[collection],
                completed=self._days[collection],
                rows=self._rows[collection],
            )
        finished = self._days[collection] == self._asked.get(collection)
        if not self._console.is_terminal and (
            finished or time.monotonic() - self._told > LINE_SECONDS
        ):
            self._told = time.monotonic()
            self.note(
                f"{collection}: {self._days[collection]} of {self._asked.get(collection, 0)} days, {self._rows[collection]:,} rows"
            )

    def note(self, line: str) -> None:
        """Print a line, above the bars if there are any."""
        self._console.print(escape(line), highlight=False, soft_wrap=True)
        self._printed()


def print_summary(console: Console, title: str, lines: Sequence[SummaryLine]) -> None:
    """Print a line per collection and a total."""
    table = Table(title=title, title_justify="left", show_footer=True)
    table.add_column("collection", footer="total")
    table.add_column("group")
    for heading, footer in (
        ("days", f"{sum(line.days for line in lines):,}"),
        ("rows", f"{sum(line.rows for line in lines):,}"),
        ("API calls", f"{sum(line.api_calls for line in lines):,}"),
        ("seconds", f"{sum(line.seconds for line in lines):,.1f}"),
    ):
        table.add_column(heading, footer=footer, justify="right")
    for line in lines:
        table.add_row(
            line.collection,
            line.family,
            f"{line.days:,}",
            f"{line.rows:,}",
            f"{line.api_calls:,}",
            f"{line.seconds:,.1f}",
        )
    console.print(table)
