"""Format the quota report for the terminal. No SQL.

Today by lane, a chart of the last 30 days, and the API calls by route, collection and run.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from magnetis_dagster.cli.number_table import bar_width, number_table
from magnetis_dagster.quota.report import (
    CallCounts,
    DayCounts,
    LaneToday,
    QuotaReport,
    RunCounts,
    Today,
)
from magnetis_dagster.quota.rules import BACKFILL

BAR = 30
"""Width of a bar that stands for the whole limit."""
CHART = 5
"""Height of the chart in lines; each line has eight steps."""
SHOWN = 5
"""Collections and runs of today that are shown; --json has all of them."""

_COUNTS = ("calls", "ok", "over_quota", "failed", "rows")
_STEPS = " ▁▂▃▄▅▆▇█"
_PLAIN_STEPS = " ..::||##"
"""For terminals that can show only ASCII."""


def format_quota(
    report: QuotaReport, *, key_name: str = "", ascii_only: bool = False
) -> RenderableType:
    """Return the report for a console; `key_name` follows the fingerprint."""
    parts: list[RenderableType] = [
        *_headline(report.today, key_name),
        _lanes(report.today, ascii_only=ascii_only),
        Text(),
        *_chart(report.days, ascii_only=ascii_only),
    ]
    for title, first, tallies in (
        ("By route, last 30 days", "route", report.routes),
        ("Top collections today", "collection", report.collections[:SHOWN]),
        ("Top runs today", "run", report.runs[:SHOWN]),
    ):
        if tallies:
            parts += [Text(), _tallies(title, first, tallies)]
    if report.other_keys:
        keys = "key has" if report.other_keys == 1 else "keys have"
        parts += [Text(), Text(f"{report.other_keys} other {keys} called into this database.")]
    return Group(*parts)


def _headline(today: Today, key_name: str) -> list[Text]:
    period = "any 24 hours"
    if today.ends_at is not None:
        period = f"{today.day}, ends {_moment(today.ends_at, today)}"
    key = f"{today.key_fingerprint} ({key_name})" if key_name else today.key_fingerprint
    used = f"{today.used:,} of {today.limit:,} calls used ({today.used / today.limit:.0%})"
    lines = [
        Text(f"Quota of key {key}: {period}", style="bold"),
        Text(f"{used}, {today.remaining:,} left"),
    ]
    if today.used_elsewhere:
        reason = "the API's answers say that others call with this key"
        lines.append(Text(f"{today.used_elsewhere:,} of them elsewhere: {reason}"))
    cause = "the API refused the key" if today.key_refused else "the API answered 429"
    if today.closed_until:
        closed_until = _moment(today.closed_until, today)
        lines.append(Text(f"Closed until {closed_until}: {cause}", style="red"))
    if today.trial:
        earlier = f"{cause[0].upper()}{cause[1:]} before"
        lines.append(
            Text(f"{earlier}: the next call is a trial, and the others wait for it", style="yellow")
        )
    if today.closed_signal:
        lines.append(Text(f"Signal: {today.closed_signal}"))
    if today.closed_until:
        lines.append(Text("magnetis quota --reopen spends one call on a trial now."))
    return [*lines, Text()]


def _lanes(today: Today, *, ascii_only: bool) -> Table:
    used_mark, kept_mark = ("#", "=") if ascii_only else ("█", "░")
    legend = [f"{used_mark} used  {kept_mark} kept from backfill at this hour"]
    table = number_table("lane", "used", caption_justify="left")
    table.add_column(f"of {today.limit:,}", width=BAR)
    table.add_column("kept", justify="right")
    table.add_column("may use", justify="right")
    table.add_column("next call")
    for lane in today.lanes:
        table.add_row(
            lane.lane,
            f"{lane.used:,}",
            _bar(lane, today.limit, used_mark, kept_mark),
            "" if lane.lane == BACKFILL else f"{lane.kept:,}",
            f"{lane.remaining:,}",
            "now" if lane.calls_again_at is None else _moment(lane.calls_again_at, today),
        )
        if lane.reason:
            legend.append(f"{lane.lane} waits: {lane.reason}")
    if today.used_elsewhere:
        table.add_row(
            "elsewhere",
            f"{today.used_elsewhere:,}",
            Text(used_mark * bar_width(today.used_elsewhere, today.limit, BAR), "red"),
        )
    table.caption = Text("\n".join(legend))
    return table


def _bar(lane: LaneToday, limit: int, used_mark: str, kept_mark: str) -> Text:
    used = bar_width(lane.used, limit, BAR)
    kept = min(BAR - used, bar_width(lane.kept, limit, BAR))
    return Text.assemble((used_mark * used, "cyan"), (kept_mark * kept, "green"))


def _chart(days: Sequence[DayCounts], *, ascii_only: bool) -> Iterable[Text]:
    """Yield the lines of the chart: two columns per day, calls elsewhere included."""
    steps = _PLAIN_STEPS if ascii_only else _STEPS
    heights = [day.calls + day.used_elsewhere for day in days]
    top = max(heights)
    calls, ok, over_quota, failed, rows = (
        sum(getattr(day, name) for day in days) for name in _COUNTS
    )
    yield Text(
        f"Last {len(days)} days: {calls:,} calls, {ok:,} ok, {over_quota:,} answered 429, "
        f"{failed:,} failed, {rows:,} rows",
        style="bold",
    )
    if not top:
        yield Text("No call yet.")
        return
    margin = len(f"{top:,}")
    for line in range(CHART - 1, -1, -1):
        label = f"{top:,}" if line == CHART - 1 else "0" if line == 0 else ""
        cells = "".join(steps[_step(height, top, line)] * 2 for height in heights)
        yield Text.assemble(f"{label:>{margin}} ", (cells.rstrip(), "cyan"))
    closed = any(day.over_quota for day in days)
    if closed:
        marks = "".join("! " if day.over_quota else "  " for day in days)
        yield Text.assemble(" " * (margin + 1), (marks.rstrip(), "red"))
    first, last = (f"{date.fromisoformat(day.name):%m-%d}" for day in (days[0], days[-1]))
    legend = "! a 429 on that day" if closed else ""
    yield Text(f"{'':{margin}} {first}{legend:^{2 * len(days) - 10}}{last}")


def _step(height: int, top: int, line: int) -> int:
    steps = -(-height * CHART * 8 // top)  # rounded up: one call already shows
    return min(8, max(0, steps - 8 * line))


def _tallies(title: str, first: str, tallies: Sequence[CallCounts]) -> Table:
    table = number_table(first, "calls", "ok", "429", "failed", "rows", title=title)
    runs = isinstance(tallies[0], RunCounts)
    if runs:
        table.add_column("lane")
    for tally in tallies:
        # Dagster's UI shows the first eight characters of a run id
        name = tally.name[:8] if runs and len(tally.name) == 36 else tally.name
        cells = [name, *(f"{getattr(tally, count):,}" for count in _COUNTS)]
        lane = [tally.lane] if isinstance(tally, RunCounts) else []
        table.add_row(*map(Text, cells), *lane)
    return table


def _moment(moment: datetime, today: Today) -> str:
    day = "" if moment.date() == today.at.date() else f"{moment:%Y-%m-%d} "
    return f"{day}{moment:%H:%M %Z}"
