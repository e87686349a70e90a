"""The quota report for people, with rich: today by lane, a chart of the last 30 days, and where the calls went. No SQL."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from magnetis_dagster.quota.report import DayTally, LaneToday, QuotaReport, RunTally, Tally, Today
from magnetis_dagster.quota.rules import BACKFILL

BAR = 30
"""Columns of a bar: the whole limit."""
CHART = 5
"""Lines of the chart, each of eight steps."""
SHOWN = 5
"""Collections and runs of today that are shown; --json has more."""

_STEPS = " ▁▂▃▄▅▆▇█"
_PLAIN_STEPS = " ..::||##"
"""For terminals that know ASCII only."""


def render(report: QuotaReport, *, whose: str = "", ascii_only: bool = False) -> RenderableType:
    """Return the report for a console; `whose` says more about the key than its fingerprint."""
    parts: list[RenderableType] = [
        *_headline(report.today, whose),
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
        one = report.other_keys == 1
        parts += [
            Text(),
            Text(
                f"{report.other_keys} other {'key has' if one else 'keys have'} called into this database."
            ),
        ]
    return Group(*parts)


def _headline(today: Today, whose: str) -> list[Text]:
    window = (
        "any 24 hours"
        if today.ends_at is None
        else f"{today.day}, ends {_moment(today.ends_at, today)}"
    )
    lines = [
        Text(
            f"Quota of key {today.key_fingerprint}{whose and f' ({whose})'}: {window}", style="bold"
        ),
        Text(
            f"{today.used:,} of {today.limit:,} calls used ({today.used / today.limit:.0%}), {today.remaining:,} left"
        ),
    ]
    if today.used_elsewhere:
        lines.append(
            Text(
                f"{today.used_elsewhere:,} of them elsewhere: the API's answers say that others call with this key"
            )
        )
    why = "the API refused the key" if today.key_refused else "the API answered 429"
    if today.closed_until:
        lines.append(Text(f"Closed until {_moment(today.closed_until, today)}: {why}", style="red"))
    if today.trial:
        lines.append(
            Text(
                f"{why[0].upper()}{why[1:]} before: the next call is a trial, and the others wait for it",
                style="yellow",
            )
        )
    if today.closed_signal:
        lines.append(Text(f"Signal: {today.closed_signal}"))
    if today.closed_until:
        lines.append(Text("magnetis quota --reopen spends one call on a trial now."))
    return [*lines, Text()]


def _lanes(today: Today, *, ascii_only: bool) -> Table:
    used_mark, kept_mark = ("#", "=") if ascii_only else ("█", "░")
    legend = [f"{used_mark} used  {kept_mark} kept from backfill at this hour"]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption_justify="left")
    table.add_column("lane")
    table.add_column("used", justify="right")
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
            Text(used_mark * _width(today.used_elsewhere, today.limit), "red"),
        )
    table.caption = Text("\n".join(legend))
    return table


def _bar(lane: LaneToday, limit: int, used_mark: str, kept_mark: str) -> Text:
    used = _width(lane.used, limit)
    kept = min(BAR - used, _width(lane.kept, limit))
    return Text.assemble((used_mark * used, "cyan"), (kept_mark * kept, "green"))


def _width(calls: int, limit: int) -> int:
    """Return the columns for so many calls; one call is seen already."""
    return min(BAR, max(round(calls / limit * BAR), 1 if calls else 0))


def _chart(days: Sequence[DayTally], *, ascii_only: bool) -> Iterable[Text]:
    """Two columns a day; the highest bar is the highest day, calls elsewhere included."""
    steps = _PLAIN_STEPS if ascii_only else _STEPS
    heights = [day.calls + day.used_elsewhere for day in days]
    top = max(heights)
    yield Text(f"Last {len(days)} days: {_counts(_total(days))}", style="bold")
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
    steps = -(-height * CHART * 8 // top)  # rounded up: one call is seen already
    return min(8, max(0, steps - 8 * line))


def _total(tallies: Sequence[Tally]) -> Tally:
    return Tally(
        name="total",
        calls=sum(tally.calls for tally in tallies),
        ok=sum(tally.ok for tally in tallies),
        over_quota=sum(tally.over_quota for tally in tallies),
        failed=sum(tally.failed for tally in tallies),
        rows=sum(tally.rows for tally in tallies),
    )


def _counts(tally: Tally) -> str:
    return f"{tally.calls:,} calls, {tally.ok:,} ok, {tally.over_quota:,} answered 429, {tally.failed:,} failed, {tally.rows:,} rows"


def _tallies(title: str, first: str, tallies: Sequence[Tally]) -> Table:
    table = numbers(first, "calls", "ok", "429", "failed", "rows", title=title)
    runs = isinstance(tallies[0], RunTally)
    if runs:
        table.add_column("lane")
    for tally in tallies:
        # of a run id, the eight characters that Dagster's UI shows
        name = tally.name[:8] if runs and len(tally.name) == 36 else tally.name
        cells = [
            name,
            *(
                f"{count:,}"
                for count in (tally.calls, tally.ok, tally.over_quota, tally.failed, tally.rows)
            ),
        ]
        table.add_row(
            *(Text(cell) for cell in cells), *([tally.lane] if isinstance(tally, RunTally) else [])
        )
    return table


def numbers(*headings: str, title: str | None = None) -> Table:
    """Return an empty table of names, under the first heading, and numbers."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left")
    return table


def _moment(moment: datetime, today: Today) -> str:
    return (
        f"{moment:%H:%M %Z}" if moment.date() == today.at.date() else f"{moment:%Y-%m-%d %H:%M %Z}"
    )
