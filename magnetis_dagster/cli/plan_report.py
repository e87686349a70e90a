"""Format plans and backfill forecasts for the terminal. No requests, no SQL."""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from magnetis_dagster.cli.number_table import bar_width, number_table
from magnetis_dagster.planning.plan import Plan, PlanLine, completion
from magnetis_dagster.quota.rules import BACKFILL
from magnetis_dagster.warehouse.forecasts import ForecastLine, error_percent

BAR = 40
"""Width of a bar that stands for the whole limit."""
SHOWN_DAYS = 12
"""Lines of the chart; a longer backfill shows its first days and its last one."""
SHOWN_RANGES = 3
_COUNTS = ("days_done", "days", "rows_done", "rows", "spent", "calls")


def format_plan(plan: Plan, *, ascii_only: bool = False) -> RenderableType:
    """Return the plan for a console."""
    days = "days that are not complete" if plan.missing else "every day"
    parts: list[RenderableType] = [
        Text(f"Backfill of {plan.first} to {plan.last}, {days}", style="bold"),
        Text(),
        _prices(plan.lines),
        *(Text(each, style="yellow") for each in plan.problems),
        Text(),
    ]
    if plan.calls:
        parts += [_lanes(plan), Text(), *_days(plan, ascii_only=ascii_only), Text()]
    return Group(
        *parts, Text(f"This plan spent {_counted(plan.spent, 'API call')}, in lane manual.")
    )


def format_backfill(backfill_id: str, lines: Sequence[ForecastLine]) -> RenderableType:
    """Return the forecast of a backfill and the API calls spent, for a console."""
    table = number_table(
        "collection", "days done", "of", "rows", "of announced", "calls spent", "forecast", "error"
    )
    for line in lines:
        counts = (f"{getattr(line, name):,}" for name in _COUNTS)
        table.add_row(line.collection, *counts, _percent(line.error_percent))
    if len(lines) > 1:
        total = total_of(lines)
        table.add_section()
        counts = (f"{total[name]:,}" for name in _COUNTS)
        table.add_row("total", *counts, _percent(total["error_percent"]))
    return Group(Text(f"Backfill {backfill_id}: forecast and spent", style="bold"), Text(), table)


def total_of(lines: Sequence[ForecastLine]) -> dict[str, Any]:
    """Return the sums; the error is None until every day is complete."""
    total: dict[str, Any] = {name: sum(getattr(line, name) for line in lines) for name in _COUNTS}
    is_complete = all(line.days_done >= line.days for line in lines)
    error = error_percent(total["calls"], total["spent"]) if is_complete else None
    return total | {"error_percent": error}


def _prices(lines: Sequence[PlanLine]) -> Table:
    table = number_table("collection", "days", "rows announced", "calls needed")
    table.add_column("ranges")
    for line in lines:
        price = ("?", "?") if line.problem else (f"{line.rows:,}", f"{line.calls:,}")
        table.add_row(line.collection, f"{line.days:,}", *price, _ranges(line))
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
    table = number_table(
        "lane", "floor now", "used today", "mean a day", "gets today", "a whole day"
    )
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
    used = _counted(sum(1 for _, calls in days if calls), "quota day")
    yield Text(
        f"{_counted(plan.calls, 'call')} over {used}, done {completion(plan)} "
        f"({plan.seconds_per_call:.2g} s a call, {plan.limit:,} calls a day)",
        style="bold",
    )
    first, last = (days, []) if len(days) <= SHOWN_DAYS else (days[: SHOWN_DAYS - 2], days[-1:])
    yield from (_bar(day, calls, plan, ascii_only=ascii_only) for day, calls in first)
    if last:
        others = days[len(first) : -1]
        calls = sum(calls for _, calls in others)
        yield Text(f"  ...       {calls:>9,} on {_counted(len(others), 'more day')}")
        yield _bar(*last[0], plan, ascii_only=ascii_only)


def _bar(day: date, calls: int, plan: Plan, *, ascii_only: bool) -> Text:
    bar = ("#" if ascii_only else "█") * bar_width(calls, plan.limit, BAR)
    return Text.assemble(f"  {day} {calls:>8,} ", (bar, "cyan"))


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:+.1f} %"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
