"""Typical use of `magnetis dev` with a key; then a search for leaked secrets.

The tests of this module share it and run in order.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psutil
import psycopg
import pytest
from harness import Dev, Start
from paths import ROOT
from playwright.sync_api import Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from sandbox_rows import expected_rows

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.dagster_support.webserver_client import ENDED, DagsterApi, asset_key
from magnetis_dagster.sandbox import (
    PERSONAL_MARKERS,
    Answer,
    Request,
    SandboxOptions,
    SandboxServer,
)

KEY = "e2e-0f9d1c7ab35e4c21"
LOCATION = "magnetis_dagster.definitions"
TODAY = datetime.now(ZoneInfo("Europe/Paris")).date()


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxOptions(keys=(KEY,), accounts=3, calls_per_day=30)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def environment(sandbox: SandboxServer) -> dict[str, str]:
    return {
        "MAGNETIS_API_KEY": KEY,
        "MAGNETIS_API_URL": sandbox.url,
        "MAGNETIS_SETTINGS_INTERVAL_SECONDS": "10",
    }


@pytest.fixture(scope="module")
def dev(module_start: Start, environment: dict[str, str]) -> Dev:
    dev = module_start("--load", "2", environment=environment)
    dev.wait_for("Serving until Ctrl-C.")
    return dev


@pytest.fixture(scope="module")
def api(dev: Dev) -> Iterator[DagsterApi]:
    with DagsterApi(dev.ui) as api:
        assert api.loaded()
        yield api


@pytest.fixture(scope="module")
def page(dev: Dev) -> Iterator[Page]:
    chromium = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "browser.py"), "--find"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert chromium.returncode == 0, f"{chromium.stderr}\n`make browser` finds or installs one."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.stdout.strip(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1440, "height": 1500}, base_url=dev.ui)
        page.set_default_timeout(90_000)
        expect.set_options(timeout=90_000)
        # Dagster asks for an e-mail address once per instance
        page.add_locator_handler(page.get_by_text("Skip", exact=True), lambda skip: skip.click())
        yield page
        browser.close()


def ids(dev: Dev, collection: str, day: date) -> list[str]:
    rows = dev.query(
        f"SELECT id FROM magnetis.{collection} WHERE day = DATE '{day}' AND deleted_at IS NULL"
    )
    return sorted(str(row[0]) for row in rows)


def expected_ids(sandbox: SandboxServer, collection: str, day: date) -> list[str]:
    return sorted(str(row["id"]) for row in expected_rows(sandbox.world, collection, day, day))


def test_the_load_contains_the_rows_of_the_api(
    dev: Dev, sandbox: SandboxServer, catalogue: Catalogue
) -> None:
    for collection in catalogue.enabled:
        if collection.is_events:
            for day in (ago(1), ago(2)):
                assert ids(dev, collection.name, day) == expected_ids(sandbox, collection.name, day)
            assert ids(dev, collection.name, ago(3)) == []
        else:
            expected = sorted(
                str(row["id"]) for row in expected_rows(sandbox.world, collection.name)
            )
            assert (
                sorted(
                    str(row[0]) for row in dev.query(f"SELECT id FROM magnetis.{collection.name}")
                )
                == expected
            )
            assert expected
    assert sum(len(ids(dev, "calls", ago(day))) for day in (1, 2)) > 0


def test_the_output_describes_the_load(dev: Dev, catalogue: Catalogue) -> None:
    assert "MAGNETIS_API_KEY is set: using http://127.0.0.1:" in dev.output
    assert "This load costs at least 18 API calls" in dev.output
    assert re.search(r"\b[1-4],\d{3} of 5,000 calls a day are available to it now", dev.output)
    for name in catalogue.collections:
        assert f"│ {name} " in dev.output
    spent = dev.query("SELECT count(*) FROM magnetis_ops.api_calls WHERE lane <> 'settings'")[0][0]
    total = next(line for line in dev.output.splitlines() if line.startswith("│ total"))
    assert total.split("│")[5].strip() == str(spent)
    assert f"Dagster UI  {dev.ui}" in dev.output
    assert dev.database_url in dev.output


def test_requests_of_another_site_are_refused(dev: Dev) -> None:
    report = f"{dev.ui}/report_asset_materialization/magnetis/calls?partition={ago(400)}"
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{dev.ui}/server_info").status_code == 200
        assert (
            client.get(f"{dev.ui}/server_info", headers={"Host": "evil.example"}).status_code == 403
        )
        assert client.get(f"{dev.ui}/graphql", params={"query": "{version}"}).status_code == 405
        assert client.post(report, headers={"Origin": "https://evil.example"}).status_code == 403
        assert client.post(report).status_code == 415
    listening = {
        connection.laddr.port
        for pid in dev.processes
        if psutil.pid_exists(pid) and psutil.Process(pid).name() != "postgres"  # has its own tests
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {dev.port}, (
        "no other port is open, such as a code server's or an unguarded webserver's"
    )


def test_a_run_launched_over_graphql(dev: Dev, api: DagsterApi, sandbox: SandboxServer) -> None:
    assert ids(dev, "calls", ago(5)) == []
    run = api.launch(["calls"], ago(5), ago(5), {})
    news = []

    def has_ended() -> bool:
        news.append(api.news(run))
        return news[-1].status in ENDED

    dev.wait_until(has_ended, "the run ends")
    assert news[-1].status == "SUCCESS"
    assert [rows for each in news for _, rows in each.days] == [
        len(expected_ids(sandbox, "calls", ago(5)))
    ]
    assert ids(dev, "calls", ago(5)) == expected_ids(sandbox, "calls", ago(5))


def test_a_small_backfill_over_graphql(dev: Dev, api: DagsterApi, sandbox: SandboxServer) -> None:
    days = [ago(8), ago(7)]
    launched = api.ask(
        "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) "
        "{ __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message } } }",
        p={
            "assetSelection": [asset_key("visits"), asset_key("leads")],
            "partitionNames": [day.isoformat() for day in days],
        },
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def status() -> str:
        backfill = api.ask(
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) "
            "{ ... on PartitionBackfill { status } } }",
            id=launched["backfillId"],
        )["partitionBackfillOrError"]
        return str(backfill["status"])

    dev.wait_until(lambda: status() != "REQUESTED", "the backfill ends")
    assert status() == "COMPLETED_SUCCESS"
    for collection in ("visits", "leads"):
        for day in days:
            assert ids(dev, collection, day) == expected_ids(sandbox, collection, day)
    assert ids(dev, "visits", ago(7))


def test_a_planned_backfill_is_launched_and_costs_its_forecast(
    dev: Dev, api: DagsterApi, sandbox: SandboxServer, environment: dict[str, str]
) -> None:
    def plan(*arguments: str) -> dict[str, Any]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAGNETIS_", "DAGSTER_"))
        }
        ended = subprocess.run(
            [sys.executable, "-m", "magnetis_dagster.cli", "plan", *arguments, "--json"],
            env={
                **clean,
                **environment,
                "MAGNETIS_HOME": str(dev.home),
                "MAGNETIS_DAGSTER_URL": dev.ui,
            },
            cwd=dev.home.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    # the fifth day of calls is loaded already
    days = ("--from", str(ago(30)), "--to", str(ago(4)))
    planned = plan("calls", "conversions", *days, "--missing", "--launch")
    backfill = planned["launched"]["backfill"]
    assert planned["launched"]["page"] == f"{dev.ui}/runs/b/{backfill}"
    assert [
        (line["name"], line["days"], len(line["ranges"])) for line in planned["collections"]
    ] == [
        ("calls", 26, 2),
        ("conversions", 27, 1),
    ]

    def query_backfill() -> dict[str, Any]:
        query = (
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) "
            "{ ... on PartitionBackfill { status title } } }"
        )
        status: dict[str, Any] = api.ask(query, id=backfill)["partitionBackfillOrError"]
        return status

    dev.wait_until(lambda: query_backfill()["status"] != "REQUESTED", "the planned backfill ends")
    assert query_backfill()["status"] == "COMPLETED_SUCCESS"
    assert query_backfill()["title"].startswith(f"forecast: {planned['calls']} calls, done about ")
    report = plan("--report", backfill)
    for line in report["collections"]:
        assert line["days_done"] == line["days"]
        assert abs(line["calls"] - line["spent"]) <= max(2, 0.05 * line["spent"]), report
        assert line["error_percent"] is not None
    assert report["total"]["calls"] == planned["calls"]
    assert ids(dev, "calls", ago(6)) == expected_ids(sandbox, "calls", ago(6)) != []
    left = plan("calls", "conversions", *days, "--missing")
    assert (left["calls"], left["spent"]) == (0, 0), (
        "no day is missing, and the plan spends no API call"
    )


def sensor_runs(api: DagsterApi) -> list[dict[str, Any]]:
    found = api.ask(
        "query { runsOrError(filter: "
        '{tags: [{key: "dagster/sensor_name", value: "alert_settings_sensor"}]}) '
        "{ ... on Runs { results { status assetSelection { path } } } } }"
    )["runsOrError"]["results"]
    return list(found)


def changes(dev: Dev, kind: str) -> list[tuple[object, ...]]:
    return dev.query(
        "SELECT setting_id, changes FROM magnetis.settings_changes "
        f"WHERE kind = '{kind}' ORDER BY changed_at"
    )


def test_an_edited_alert_is_detected_loaded_once_and_recorded(
    dev: Dev, api: DagsterApi, sandbox: SandboxServer
) -> None:
    loaded = (
        "SELECT count(*) FROM magnetis_ops.days WHERE collection IN ('email_alerts', 'sms_alerts')"
    )
    dev.wait_until(lambda: dev.query(loaded) == [(2,)], "the first snapshots are loaded")
    assert changes(dev, "changed") == []
    by_others = "SELECT count(*) FROM magnetis_ops.api_calls WHERE lane <> 'settings'"
    first, spent = len(sensor_runs(api)), dev.query(by_others)

    number = str(dev.query("SELECT id FROM magnetis.email_alerts ORDER BY id LIMIT 1")[0][0])
    before = sandbox.world.edit("email_alerts", number)
    sandbox.world.edit("email_alerts", number, title="A test")
    dev.wait_until(lambda: bool(changes(dev, "changed")), "the edit is detected and loaded")
    assert changes(dev, "changed") == [
        (number, {"title": {"old": before["title"], "new": "A test"}})
    ]
    sandbox.world.delete("email_alerts", number)
    dev.wait_until(lambda: bool(changes(dev, "removed")), "the deletion is detected and loaded")

    requests = sandbox.received
    dev.wait_until(lambda: sandbox.received >= requests + 6, "two more ticks of each sensor")
    found = sensor_runs(api)[: len(sensor_runs(api)) - first]
    assert [run["status"] for run in found] == ["SUCCESS"] * 2
    assert [[key["path"][-1] for key in run["assetSelection"]] for run in found] == [
        ["email_alerts"]
    ] * 2
    assert len(changes(dev, "changed")) == len(changes(dev, "removed")) == 1
    assert dev.query(by_others) == spent, "the runs spent no API call"


def test_runs_survive_a_reload_and_can_be_canceled_afterwards(
    dev: Dev, api: DagsterApi, sandbox: SandboxServer
) -> None:
    received, release = threading.Event(), threading.Event()

    def hold(request: Request) -> Answer | None:
        if request.path == "/calls":
            received.set()
            release.wait(120)
        return None

    def checks(run: str) -> int:
        """Return how often run monitoring has checked the run's health."""
        return (
            (dev.home / "logs" / "dagster.log")
            .read_text(errors="replace")
            .count(f"Checking run {run}")
        )

    sandbox.intercept(hold)
    try:
        for day, end in ((ago(41), "SUCCESS"), (ago(42), "CANCELED")):
            received.clear()
            release.clear()
            run = api.launch(["calls"], day, day, {})
            dev.wait_until(received.is_set, "the run waits for a response")
            api.ask(
                "mutation { reloadRepositoryLocation("
                f'repositoryLocationName: "{LOCATION}") {{ __typename }} }}'
            )
            before = checks(run)
            dev.wait_until(
                lambda run=run, before=before: checks(run) >= before + 2,
                "its health was checked twice",
            )
            assert api.news(run).status == "STARTED"
            if end == "CANCELED":
                api.ask(
                    "mutation($run: String!) { terminateRun(runId: $run) { __typename } }", run=run
                )
                dev.wait_until(
                    lambda run=run: api.news(run).status == "CANCELED", "it is canceled", 60
                )
            release.set()
            dev.wait_until(lambda run=run, end=end: api.news(run).status == end, f"it ends: {end}")
            assert dev.query(f"SELECT count(*) FROM dagster.run_tags WHERE value = '{run}'") == [
                (0,)
            ], "no retry"
    finally:
        release.set()
        sandbox.intercept(lambda _request: None)
    assert ids(dev, "calls", ago(41)) == expected_ids(sandbox, "calls", ago(41))
    assert ids(dev, "calls", ago(42)) == []


def test_the_browser_shows_every_asset_in_its_group(page: Page, catalogue: Catalogue) -> None:
    page.goto("/asset-groups")
    rows = page.locator("[data-index]")
    expect(rows.filter(has=page.get_by_title("content", exact=True))).to_be_visible()
    groups = rows.count()
    for family in catalogue.families:
        row = rows.filter(has=page.get_by_title(family, exact=True)).filter(
            has=page.get_by_label("asset_group")
        )
        row.get_by_label("arrow_drop_down").click()
    expect(rows).to_have_count(groups + len(catalogue.enabled))
    shown: dict[str, set[str]] = {}
    for row in rows.all():
        name = row.locator("[title]").first.get_attribute("title") or ""
        if row.get_by_label("asset_group").count():
            family = shown.setdefault(name, set())
        else:
            family.add(name.rpartition("/")[2].strip())
    expected: dict[str, set[str]] = {}
    for collection in catalogue.enabled:
        expected.setdefault(collection.family, set()).add(collection.name)
    assert {family: names for family, names in shown.items() if family in expected} == expected


def test_a_person_materializes_a_day_by_clicking(
    page: Page, dev: Dev, sandbox: SandboxServer
) -> None:
    day = ago(10)
    assert ids(dev, "emails", day) == []
    page.goto("/assets/magnetis/emails?view=partitions")
    dialog = page.get_by_role("dialog")
    partitions = dialog.locator("input[type=text]").first
    while not partitions.is_visible():  # the page ignores clicks until it is loaded
        page.get_by_role("button", name="Materialize…").click()
        with suppress(PlaywrightTimeout):
            partitions.wait_for(timeout=15_000)
    partitions.fill(day.isoformat())
    partitions.press("Enter")
    dialog.get_by_role("button", name="Launch 1 run").click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    dev.wait_until(
        lambda: ids(dev, "emails", day) == expected_ids(sandbox, "emails", day) != [],
        f"emails of {day} are loaded",
    )
    page.goto(f"/assets/magnetis/emails?view=partitions&partition={day}")
    expect(page.get_by_text("announced rows")).to_be_visible()


def test_no_output_file_or_response_contains_the_key_or_personal_data(
    dev: Dev, api: DagsterApi, catalogue: Catalogue, sandbox: SandboxServer
) -> None:
    """Search all outputs for the key and personal data.

    Covers the output, the files of the home except the data folder, and Dagster's schema and API.
    """
    captured = {"output": dev.output}
    for file in dev.home.rglob("*"):
        if file.is_file() and dev.home / "postgres" not in file.parents:
            captured[str(file.relative_to(dev.home))] = file.read_text(errors="replace")
    captured["postgres log"] = (dev.home / "postgres" / "log").read_text(errors="replace")
    captured |= _dump(dev.database_url, "dagster")
    captured |= {
        name: text
        for name, text in _dump(dev.database_url, "magnetis_ops").items()
        if name != "magnetis_ops.quarantine"
    }
    for collection in catalogue.enabled:
        captured[f"UI {collection.name}"] = json.dumps(
            api.ask(_ASSET, key=asset_key(collection.name))
        )
    runs = api.ask(
        "{ runsOrError { ... on Runs { results { runId tags { key value } runConfigYaml } } } }"
    )
    captured["UI runs"] = json.dumps(runs)
    for run in runs["runsOrError"]["results"]:
        captured[f"UI log {run['runId']}"] = json.dumps(api.ask(_LOG, run=run["runId"]))

    assert len(captured) > 60, "the search must cover many texts"
    assert any("Logs captured" in text or "LOGS_CAPTURED" in text for text in captured.values())
    calls = dev.query("SELECT caller_number FROM magnetis.calls WHERE caller_number IS NOT NULL")
    assert calls, "the tables contain personal data"
    assert any(marker in str(calls) for marker in PERSONAL_MARKERS), (
        "personal data must contain the markers"
    )
    forbidden = [KEY, *PERSONAL_MARKERS, *{str(number) for (number,) in calls}]
    found = {
        (source, secret)
        for source, text in captured.items()
        for secret in forbidden
        if secret in text
    }
    assert not found


def test_ctrl_c_ends_it_without_leftover_processes(dev: Dev) -> None:
    assert dev.end(signal.SIGINT, 60) == 0
    assert len(dev.processes) >= 6, (
        "database, dagster dev, webserver, daemon, code servers and run workers"
    )
    assert dev.remaining() == []


def test_a_second_start_loads_only_missing_days_and_reports_failures(
    module_start: Start, environment: dict[str, str], sandbox: SandboxServer, dev: Dev
) -> None:
    """The first one has ended; now one more day, and an API without leads."""

    def refuse(request: Request) -> Answer | None:
        return Answer(404, b'{"message": "Not Found"}') if "lead" in request.path else None

    before = sandbox.received
    sandbox.intercept(refuse)
    again = module_start(
        "--load",
        "3",
        "--exit",
        environment=environment | {"MAGNETIS_SETTINGS_INTERVAL_SECONDS": "600"},
    )
    assert again.end() == 2, "a missing route is a permanent error"
    sandbox.intercept(lambda _request: None)
    assert "Some days were not loaded:\n  leads: GET /" in again.output
    assert "magnetis probe" in again.output
    assert "Dagster UI" not in again.output, "the UI has stopped by then"
    assert "Traceback" not in again.output
    assert KEY not in again.output
    assert again.remaining() == []
    assert "accounts: " not in again.output, "today's snapshots are loaded already"
    assert "calls: 1 of 1 days" in again.output
    # includes requests of the settings sensors
    assert sandbox.received - before < 18 + 3


_ASSET = """
query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  description
  metadataEntries {
    label description ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString }
    ... on TableSchemaMetadataEntry { schema { columns { name description } } }
  }
  assetMaterializations { metadataEntries {
    label ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr }
  } }
  assetChecksOrError { ... on AssetChecks { checks {
    name
    executionForLatestMaterialization { evaluation {
      description metadataEntries { label ... on TextMetadataEntry { text } }
    } }
  } } }
} } }
"""
_LOG = """
query($run: ID!) { logsForRun(runId: $run, limit: 1000) { ... on EventConnection { events {
  ... on MessageEvent { message } ... on ErrorEvent { error { message stack } } } } } }
"""


def _dump(url: str, schema: str) -> dict[str, str]:
    """Return the content of every table of the schema as text."""
    tables_as_text = {}
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (schema,)
        ).fetchall()
        for (table,) in tables:
            with connection.cursor().copy(
                f"COPY (SELECT * FROM {schema}.{table}) TO STDOUT"
            ) as copy:  # type: ignore[arg-type]
                tables_as_text[f"{schema}.{table}"] = b"".join(
                    bytes(block) for block in copy
                ).decode()
    return tables_as_text


def test_the_project_folder_stays_clean() -> None:
    """`magnetis dev` stores Dagster's state in its home, not in the checkout."""
    assert not list(Path(ROOT).glob("history")), "Dagster wrote into the checkout"
