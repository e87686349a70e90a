"""`magnetis plan` as a process: tables, JSON, exit codes, and never the key."""

import json
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from sqlalchemy import Engine, text
from test_cli import magnetis

from magnetis_dagster.sandbox import SandboxOptions, SandboxServer
from magnetis_dagster.warehouse.forecasts import record

KEY = "plan-key-20b7ce"


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxOptions(keys=(KEY,), calls_per_day=60, accounts=3)) as sandbox:
        yield sandbox


@pytest.fixture
def environment(sandbox: SandboxServer, database_url: str) -> dict[str, str]:
    return {
        "MAGNETIS_API_KEY": KEY,
        "MAGNETIS_API_URL": sandbox.url,
        "MAGNETIS_DATABASE_URL": database_url,
        "MAGNETIS_DAILY_QUOTA": "200",
        "COLUMNS": "90",
    }


def test_a_plan_as_a_table_and_as_json(
    sandbox: SandboxServer, environment: dict[str, str], engine: Engine
) -> None:
    words = magnetis(
        "plan", "calls", "leads", "--from", "2024-01-01", "--to", "2025-12-31", **environment
    )
    assert words.returncode == 0, words.stderr
    assert "at most 2" in words.stderr, "the price of the plan was not announced"
    assert "This plan spent 2 API calls, in lane manual." in words.stdout
    assert "quota days, done about " in words.stdout
    assert max(map(len, words.stdout.splitlines())) <= 90
    assert sandbox.received == 2
    plan = json.loads(
        magnetis(
            "plan", "calls", "--from", "2024-01-01", "--to", "2024-12-31", "--json", **environment
        ).stdout
    )
    assert (plan["from"], plan["to"], plan["spent"], plan["launched"]) == (
        "2024-01-01",
        "2024-12-31",
        1,
        None,
    )
    [calls] = plan["collections"]
    held = len(list(sandbox.world.truth("calls", date(2024, 1, 1), date(2024, 12, 31))))
    assert held <= calls["rows"] <= held + 60
    assert calls["calls"] == plan["calls"] == -(-calls["rows"] // 250) + 2
    with engine.connect() as connection:
        assert connection.execute(
            text("SELECT lane, count(*) FROM magnetis_ops.api_calls GROUP BY 1")
        ).all() == [("manual", 3)]
    assert KEY not in words.stdout + words.stderr + json.dumps(plan)


def test_all_from_the_first_day_to_yesterday(
    sandbox: SandboxServer, environment: dict[str, str]
) -> None:
    first = date.today() - timedelta(days=40)  # noqa: DTZ011 - a day more or less
    plan = json.loads(
        magnetis(
            "plan", "--all", "--missing", "--json", **environment, MAGNETIS_START_DATE=str(first)
        ).stdout
    )
    assert [each["name"] for each in plan["collections"]] == [
        "calls",
        "visits",
        "conversions",
        "emails",
        "leads",
    ]
    assert plan["from"] == str(first)
    assert all(39 <= each["days"] <= 41 for each in plan["collections"])
    assert plan["spent"] == sandbox.received == 5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Name the collections to plan"),
        (("faxes",), 2, "No collection faxes"),
        (("accounts",), 2, "snapshot collection"),
        (("calls", "--from", "yesterday"), 2, "--from: expected a day"),
        (("calls", "--from", "2023-12-31"), 2, "MAGNETIS_START_DATE"),
        (("calls", "--to", "2099-01-01"), 2, "has not ended"),
        (("calls", "--launch", "--dagster-url", "http://127.0.0.1:9"), 3, "Start `magnetis dev`"),
        (("--report", "nope"), 2, "No forecast is known for backfill 'nope'"),
        (("calls", "--report", "nope"), 2, "nothing else"),
    ],
)
def test_mistakes_cost_no_api_call(
    sandbox: SandboxServer,
    environment: dict[str, str],
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    ended = magnetis("plan", *arguments, **environment)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sandbox.received == 0


def test_the_report_needs_no_key_and_no_api_call(
    engine: Engine, environment: dict[str, str], sandbox: SandboxServer
) -> None:
    record(
        engine, "abcdefgh", "calls", date(2025, 6, 1), date(2025, 6, 10), 10, 600, 3, planned=True
    )
    del environment["MAGNETIS_API_KEY"]
    report = json.loads(magnetis("plan", "--report", "abcdefgh", "--json", **environment).stdout)
    assert report["backfill"] == "abcdefgh"
    assert (
        report["total"]["calls"],
        report["total"]["spent"],
        report["total"]["error_percent"],
    ) == (3, 0, None)
    assert report["collections"][0]["first_day"] == "2025-06-01"
    words = magnetis("plan", "--report", "abcdefgh", **environment)
    assert words.returncode == 0
    assert "Backfill abcdefgh" in words.stdout
    assert sandbox.received == 0
