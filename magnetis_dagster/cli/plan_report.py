"""A plan, and what became of it, for people, with rich. No calls, no SQL."""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from magnetis_dagster.cli.quota_report import numbers
from magnetis_dagster.planning.plan import Plan, PlanLine, ends
from magnetis_dagster.quota.rules import BACKFILL
from magnetis_dagster.warehouse.forecasts import ForecastLine, error_percent

BAR = 40
"""Columns of a bar: the whole limit."""
SHOWN_DAYS = 12
"""Lines of the chart; a longer backfill shows its first days and its last."""
SHOWN_RANGES = 3


def render(plan: Plan, *, ascii_only: bool = False) -> RenderableType:
    """Return the plan for a console."""
    which = "days that are not done" if plan.missing else "every day"
    parts: list[RenderableType] = [
        Text(f"Backfill of {plan.first} to {plan.last}, {which}", style="bold"),
        Text(),
        _prices(plan.lines),
        *(Text(problem, style="yellow") for problem in plan.problems),
        Text(),
    ]
    if plan.calls:
        parts += [_lanes(plan), Text(), *_days(plan, ascii_only=ascii_only), Text()]
    return Group(
        *parts, Text(f"This plan spent {_counted(plan.spent, 'API call')}, in lane manual.")
    )


def render_report(work: str, lines: Sequence[ForecastLine]) -> RenderableType:
    """Return forecast against spent for a console."""
    table = numbers(
        "collection", "days done", "of", "rows", "of announced", "calls spent", "forecast", "error"
    )
    for line in lines:
        table.add_row(
            line.collection,
            f"{line.days_done:,}",
            f"{line.days:,}",
            f"{line.rows_done:,}",
            f"{line.rows:,}",
            f"{line.spent:,}",
            f"{line.calls:,}",
            _percent(line.error_percent),
        )
    if len(lines) > 1:
        total = report_total(lines)
        table.add_section()
        table.add_row(
            "total",
            *(
                f"{total[name]:,}"
                for name in ("days_done", "days", "rows_done", "rows", "spent", "calls")
            ),
            _percent(total["error_percent"]),
        )
    return Group(Text(f"Backfill {work}: forecast and spent", style="bold"), Text(), table)


def report_total(lines: Sequence[ForecastLine]) -> dict[str, Any]:
    """Return the sums over all collections; the error is None until every day is done."""
    total: dict[str, Any] = {
        name: sum(getattr(line, name) for line in lines)
        for name in ("days", "days_done", "rows", "rows_done", "calls", "spent")
    }
    done = all(line.days_done >= line.days for line in lines)
    return total | {
        "error_percent": error_percent(total["calls"], total["spent"]) if done else None
    }


def _prices(lines: Sequence[PlanLine]) -> Table:
    table = numbers("collection", "days", "rows announced", "calls needed")
    table.add_column("ranges")
    for line in lines:
        known = line.problem is None
        table.add_row(
            line.collection,
            f"{line.days:,}",
            f"{line.rows:,}" if known else "?",
            f"{line.calls:,}" if known else "?",
            _ranges(line),
        )
    if len(lines) > 1:
        table.add_section()
        sums = (sum(getattr(line, name) for line in lines) for name in ("days", "rows", "calls"))
        table.add_row("total", *(f"{each:,}" for each in sums))
    return table


def _ranges(line: PlanLine) -> str:
    shown = [
        str(each.first) if each.first == each.last else f"{each.first}...{each.last}"
        for each in line.ranges
    ]
    if len(shown) > SHOWN_RANGES:
        shown = [*shown[: SHOWN_RANGES - 1], f"{len(shown) - SHOWN_RANGES + 1} more"]
    return ", ".join(shown) if shown else "" if line.problem else "nothing is missing"


def _lanes(plan: Plan) -> Table:
    table = numbers("lane", "floor now", "used today", "mean a day", "gets today", "a whole day")
    for lane in plan.lanes:
        backfill = lane.lane == BACKFILL
        table.add_row(
            lane.lane,
            "" if backfill else f"{lane.floor:,}",
            f"{lane.used:,}",
            f"{lane.mean_a_day:,.0f}",
            f"{plan.backfill_today:,}" if backfill else "",
            f"{plan.backfill_whole_day:,}" if backfill else "",
        )
    return table


def _days(plan: Plan, *, ascii_only: bool) -> Iterable[Text]:
    days = list(plan.forecast.days)
    used = sum(1 for _, calls in days if calls)
    yield Text(
        f"{_counted(plan.calls, 'call')} over {_counted(used, 'quota day')}, done {ends(plan)} "
        f"({plan.seconds_per_call:.2g} s a call, {plan.limit:,} calls a day)",
        style="bold",
    )
    first, last = (days, []) if len(days) <= SHOWN_DAYS else (days[: SHOWN_DAYS - 2], days[-1:])
    yield from (_bar(day, calls, plan, ascii_only=ascii_only) for day, calls in first)
    if last:
        between = days[len(first) : -1]
        yield Text(
            f"  ...       {sum(calls for _, calls in between):>9,} on {_counted(len(between), 'more day')}"
        )
        yield _bar(*last[0], plan, ascii_only=ascii_only)


def _bar(day: date, calls: int, plan: Plan, *, ascii_only: bool) -> Text:
    width = min(BAR, max(round(calls / plan.limit * BAR), 1 if calls else 0))
    return Text.assemble(f"  {day} {calls:>8,} ", (("#" if ascii_only else "█") * width, "cyan"))


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:+.1f} %"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
