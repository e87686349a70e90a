"""Launch a plan with a fake client; test_dagster_api uses a real webserver."""

from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any, cast

import pytest
from sqlalchemy import Engine

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.connections import Connection
from magnetis_dagster.dagster_support.webserver_client import DagsterApi, DagsterUnavailable
from magnetis_dagster.dev.backfill import PLANNED_TAG, NothingToLaunch, launch_plan, open_dagster
from magnetis_dagster.planning.plan import Plan, PlanLine, PricedRange
from magnetis_dagster.quota.forecast import Forecast
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.forecasts import UnknownBackfill, report


def june(day: int) -> date:
    return date(2025, 6, day)


class Webserver:
    """Records the backfills that it launches."""

    def __init__(self) -> None:
        self.launched: list[dict[str, Any]] = []

    def launch_backfill(self, ranges: Any, **options: Any) -> str:
        self.launched.append({"ranges": ranges, **options})
        return "abcdefgh"

    def backfill_page(self, backfill: str, *, ui_url: str | None = None) -> str:
        return f"{ui_url or 'http://127.0.0.1:3000'}/runs/b/{backfill}"


def plan(*lines: PlanLine) -> Plan:
    return Plan(
        first=june(1),
        last=june(10),
        missing=True,
        lines=lines,
        spent=2,
        at=datetime(2025, 6, 12, 12, tzinfo=UTC),
        limit=5000,
        lanes=(),
        seconds_per_call=0.1,
        backfill_today=4000,
        backfill_whole_day=5000,
        forecast=Forecast(((june(12), 5),), datetime(2025, 6, 12, 15, 40, tzinfo=UTC)),
    )


CALLS = PlanLine(
    "calls", 4, (PricedRange(june(1), june(3), 600, 3), PricedRange(june(9), june(9), 250, 1))
)
VISITS = PlanLine("visits", 1, (PricedRange(june(5), june(5), 10, 1),))
DONE = PlanLine("leads", 0, ())


def test_exactly_the_priced_days_are_launched_and_recorded(engine: Engine) -> None:
    webserver = Webserver()
    launched = launch_plan(plan(CALLS, VISITS, DONE), cast("DagsterApi", webserver), engine)
    assert launched == {
        "backfill": "abcdefgh",
        "page": "http://127.0.0.1:3000/runs/b/abcdefgh",
    }
    [request] = webserver.launched
    assert request["ranges"] == {
        "calls": [(june(1), june(3)), (june(9), june(9))],
        "visits": [(june(5), june(5))],
    }
    assert request["title"] == "forecast: 5 calls, done about today 15:40"
    assert "calls: 4 days, 850 rows, 4 calls" in request["description"]
    assert request["tags"] == {PLANNED_TAG: "5"}

    elsewhere = launch_plan(
        plan(CALLS), cast("DagsterApi", webserver), engine, ui_url="https://dagster.example.com"
    )
    assert elsewhere["page"] == "https://dagster.example.com/runs/b/abcdefgh"
    assert [
        (line.collection, line.days, line.rows, line.calls) for line in report(engine, "abcdefgh")
    ] == [
        ("calls", 4, 850, 4),
        ("visits", 1, 10, 1),
    ]


def test_the_forecast_belongs_to_the_connection(engine: Engine) -> None:
    webserver = Webserver()
    nord = Connection("nord", Settings.load(), load_catalogue())
    launch_plan(plan(CALLS), cast("DagsterApi", webserver), engine, connection=nord)
    [request] = webserver.launched
    assert request["title"].startswith("nord: forecast: 4 calls")
    assert [line.collection for line in report(engine, "abcdefgh", connection_name="nord")] == [
        "calls"
    ]
    with pytest.raises(UnknownBackfill):
        report(engine, "abcdefgh")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((DONE,), "no day between 2025-06-01 and 2025-06-10 is missing"),
        ((CALLS, PlanLine("emails", 4, (), "emails: no price")), "Exclude them: emails"),
    ],
)
def test_a_plan_without_a_price_or_days_is_not_launched(
    engine: Engine, lines: tuple[PlanLine, ...], words: str
) -> None:
    webserver = Webserver()
    with pytest.raises(NothingToLaunch, match=words):
        launch_plan(plan(*lines), cast("DagsterApi", webserver), engine)
    assert webserver.launched == []


def test_the_error_without_a_webserver_names_the_remedy() -> None:
    with (
        pytest.raises(
            DagsterUnavailable, match=r"answers at http://127.0.0.1:9\. Start `magnetis dev`"
        ),
        open_dagster("http://127.0.0.1:9"),
    ):
        pass


def test_a_title_has_at_most_100_characters() -> None:
    lines = PlanLine("calls", 9999, (PricedRange(june(1), june(3), 10**12, 10**10),))
    webserver = Webserver()
    longest = Connection("n" * 30, Settings.load(), load_catalogue())
    with suppress(Exception):
        launch_plan(
            plan(lines), cast("DagsterApi", webserver), cast("Engine", None), connection=longest
        )
    assert len(webserver.launched[0]["title"]) <= 100
