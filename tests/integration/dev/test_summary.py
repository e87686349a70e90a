"""The summary of a load, and the output of its progress."""

import io
from datetime import UTC, date, datetime

from rich.console import Console
from sqlalchemy import Engine, exists, insert, literal, select

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.dev.console import LoadProgress, print_summary
from magnetis_dagster.warehouse.schema import api_calls, days, quota_days, windows
from magnetis_dagster.warehouse.summary import SummaryLine, keys_used, summary

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def window(engine: Engine, collection: str, held: dict[int, int], *, run: str, calls: int) -> None:
    """Insert the records of a load. `held`: rows by day of November 2026."""
    zeros = dict.fromkeys(("padding", "quarantined", "inserted", "changed", "deleted", "bytes"), 0)
    rows = sum(held.values())
    with engine.begin() as connection:
        number = connection.execute(
            insert(windows).returning(windows.c.id),
            {
                **zeros,
                "collection": collection,
                "first_day": date(2026, 11, min(held)),
                "last_day": date(2026, 11, max(held)),
                "read_at": NOW,
                "committed_at": NOW,
                "announced": rows,
                "received": rows,
                "held": rows,
                "api_calls": calls,
                "milliseconds": 1500,
                "run_id": run,
            },
        ).scalar_one()
        for day, number_held in held.items():
            connection.execute(
                insert(days),
                {
                    "collection": collection,
                    "day": date(2026, 11, day),
                    "window_id": number,
                    "read_at": NOW,
                    "announced": number_held,
                    "held": number_held,
                    "run_id": run,
                },
            )
        for page in range(calls):
            connection.execute(
                insert(api_calls),
                {
                    "key_fingerprint": "f",
                    "day": NOW.date(),
                    "charged_at": NOW,
                    "collection": collection,
                    "route": f"/{collection}",
                    "page": page + 1,
                    "run_id": run,
                    "lane": "backfill",
                },
            )


def test_days_and_rows_count_the_range_and_costs_count_the_runs(
    engine: Engine, catalogue: Catalogue
) -> None:
    window(engine, "calls", {18: 1000, 21: 10, 22: 20}, run="now", calls=3)
    window(engine, "visits", {22: 5}, run="before", calls=2)
    window(engine, "entities", {22: 7, 23: 8}, run="now", calls=1)
    lines = {
        line.collection: line
        for line in summary(engine, catalogue, date(2026, 11, 20), date(2026, 11, 23), ["now"])
    }
    assert list(lines) == [collection.name for collection in catalogue.enabled]
    assert lines["calls"] == SummaryLine(
        "calls", "activity", days=2, rows=30, api_calls=3, seconds=1.5
    )
    assert lines["visits"] == SummaryLine(
        "visits", "activity", days=1, rows=5, api_calls=0, seconds=0.0
    )
    assert lines["entities"] == SummaryLine(
        "entities", "organization", days=2, rows=8, api_calls=1, seconds=1.5
    )
    assert lines["leads"] == SummaryLine("leads", "leads", days=0, rows=0, api_calls=0, seconds=0.0)


def test_a_key_counts_as_used_if_a_load_received_rows_with_it(engine: Engine) -> None:
    """A refused key, a key without rows, and a key of `probe` or `plan` do not count."""
    assert keys_used(engine) == set()
    called = [
        ("good", 200, 5, "run"),
        ("good", 200, 9, "run"),
        ("typo", 401, None, "run"),
        ("empty", 200, 0, "run"),
    ]
    with engine.begin() as connection:
        called += [
            ("probed", 200, 1, "magnetis probe"),
            ("planned", 200, 1, "magnetis plan"),
            ("by hand", 200, 3, None),
        ]
        for key, status, rows, run in called:
            connection.execute(
                insert(quota_days).from_select(
                    ["key_fingerprint", "day", "daily_quota"],
                    select(literal(key), literal(NOW.date()), literal(5000)).where(
                        ~exists().where(quota_days.c.key_fingerprint == key)
                    ),
                )
            )
            call = {
                "day": NOW.date(),
                "charged_at": NOW,
                "collection": "calls",
                "route": "/calls",
                "page": 1,
                "lane": "manual",
            }
            connection.execute(
                insert(api_calls),
                {**call, "key_fingerprint": key, "status": status, "rows": rows, "run_id": run},
            )
    assert keys_used(engine) == {"good", "by hand"}


def test_progress_is_lines_outside_a_terminal() -> None:
    output = io.StringIO()
    with LoadProgress(Console(file=output, width=100)) as progress:
        progress.expect("calls", 2)
        progress.add_day("calls", 1000)
        assert output.getvalue() == ""
        progress.add_day("calls", 234)
        progress.log("leads: [red] is no markup")
    assert output.getvalue() == "calls: 2 of 2 days, 1,234 rows\nleads: [red] is no markup\n"


def test_progress_is_bars_on_a_terminal() -> None:
    output = io.StringIO()
    with LoadProgress(
        Console(file=output, width=100, force_terminal=True, color_system=None)
    ) as progress:
        progress.expect("calls", 2)
        progress.add_day("calls", 1000)
    assert "calls" in output.getvalue()
    assert "1/2" in output.getvalue()
    assert "1,000 rows" in output.getvalue()


def test_the_summary_table_has_correct_totals() -> None:
    output = io.StringIO()
    lines = [
        SummaryLine("calls", "activity", 2, 1500, 7, 1.25),
        SummaryLine("leads", "leads", 1, 500, 3, 0.75),
    ]
    print_summary(Console(file=output, width=100), "title", lines)
    total = next(line for line in output.getvalue().splitlines() if "total" in line)
    assert total.split() == ["│", "total", "│", "│", "3", "│", "2,000", "│", "10", "│", "2.0", "│"]
