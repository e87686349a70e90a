"""`magnetis dev` without a key, then with one in the same home; and early stops.

The first tests of this module share one start with the sandbox and run in order.
"""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections import Counter
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from harness import Dev, Start

from magnetis_dagster.dagster_support.webserver_client import ENDED, DagsterApi

# a first start with a load may take 4 minutes on a busy machine, and a second start follows
pytestmark = pytest.mark.timeout(600)

REAL = {"MAGNETIS_API_KEY": "a-real-key", "MAGNETIS_API_URL": "http://127.0.0.1:9"}

SNAPSHOT_GROUPS = {"organization", "numbers", "settings", "content"}

ASSETS = """
query {
  assetNodes {
    assetKey { path }
    groupName
    dependencyKeys { path }
    partitionStats { numPartitions numMaterialized numFailed }
    freshnessStatusInfo { freshnessStatus }
    assetMaterializations {
      partition runId metadataEntries { label ... on IntMetadataEntry { intValue } }
    }
    assetObservations(limit: 1) { metadataEntries { label ... on IntMetadataEntry { intValue } } }
    assetChecksOrError {
      ... on AssetChecks { checks { name executionForLatestMaterialization { status } } }
    }
  }
  runsOrError { ... on Runs { results { jobName status } } }
}
"""


def query_assets(api: DagsterApi) -> tuple[dict[str, Any], list[dict[str, str]]]:
    data = api.ask(ASSETS)
    return {node["assetKey"]["path"][-1]: node for node in data["assetNodes"]}, data["runsOrError"][
        "results"
    ]


def not_green(assets: dict[str, Any]) -> dict[str, object]:
    """Return partitions, freshness and checks that the UI does not show as green."""
    found: dict[str, object] = {}
    for name, node in assets.items():
        if (stats := node["partitionStats"]) and stats["numMaterialized"] != stats["numPartitions"]:
            found[name] = stats
        if node["freshnessStatusInfo"] and node["freshnessStatusInfo"]["freshnessStatus"] not in {
            "HEALTHY",
            "UNKNOWN",
        }:
            found[f"{name} freshness"] = node["freshnessStatusInfo"]
        for check in node["assetChecksOrError"].get("checks", []):
            if (last := check["executionForLatestMaterialization"]) and last["status"] not in {
                "SUCCEEDED",
                "IN_PROGRESS",
            }:
                found[f"{name} {check['name']}"] = last["status"]
    return found


def numbers(event: dict[str, Any]) -> dict[str, int]:
    return {
        entry["label"]: entry["intValue"]
        for entry in event["metadataEntries"]
        if "intValue" in entry
    }


def sums(dev: Dev) -> tuple[int, int]:
    """Return the requests in the windows of `calls`, and all API calls in the ledger."""
    with psycopg.connect(dev.database_url.replace("/magnetis?", "/sandbox?")) as connection:
        [[calls]] = connection.execute(
            "SELECT sum(api_calls) FROM magnetis_ops.windows WHERE collection = 'calls'"
        ).fetchall()
        [[used]] = connection.execute(
            "SELECT sum(schedule + settings + manual + backfill) FROM magnetis_ops.quota_days"
        ).fetchall()
    return calls, used


@pytest.fixture(scope="module")
def dev(module_start: Start) -> Dev:
    """Load and exit; then serve the loaded days."""
    first = module_start("--load", "2", "--exit")
    assert first.end(seconds=500) == 0, first.diagnosis
    assert "No MAGNETIS_API_KEY: using the local sandbox at http://127.0.0.1:" in first.output
    assert "calls: 2 of 2 days" in first.output
    assert "Traceback" not in first.output
    assert first.remaining() == []
    dev = module_start("--load", "2")
    dev.wait_for("Serving until Ctrl-C.")
    assert "calls: " not in dev.output, "everything is loaded already"
    return dev


def test_after_the_first_start_assets_are_green_with_jobs_and_numbers(dev: Dev) -> None:
    with DagsterApi(dev.ui) as api:
        assets, runs = query_assets(api)
        assert not_green(assets) == {}
        assert Counter(node["groupName"] for node in assets.values() if node["partitionStats"]) == {
            "organization": 3,
            "numbers": 3,
            "activity": 3,
            "email_tracking": 2,
            "leads": 1,
            "settings": 3,
            "content": 3,
        }
        parts = {
            name: node["partitionStats"]["numPartitions"]
            for name, node in assets.items()
            if node["partitionStats"]
        }
        assert (parts["calls"], parts["accounts"]) == (2, 1)

        assert {run["jobName"] for run in runs} == {"daily_events", "daily_snapshots"}, (
            "every run has a named job"
        )
        loaded = Counter(
            name for name, node in assets.items() for _ in node["assetMaterializations"]
        )
        assert set(loaded.values()) == {1, 2}, (
            "settings are loaded once, by the load or by a sensor"
        )
        assert loaded["email_alerts"] == loaded["reports"] == 1

        calls = [numbers(event) for event in assets["calls"]["assetMaterializations"]]
        spent, used = sums(dev)
        assert sum(event["API calls"] for event in calls) == spent
        assert numbers(assets["quota"]["assetObservations"][0])["used"] == used

        # a later snapshot: policies use the accounts that now exist
        snapshots = [
            name
            for name, node in assets.items()
            if node["partitionStats"] and node["groupName"] in SNAPSHOT_GROUPS
        ]
        today = datetime.now(ZoneInfo("Europe/Paris")).date()
        run = api.launch(snapshots, today, today, {}, job="daily_snapshots")
        dev.wait_until(lambda: api.news(run).status in ENDED, "the snapshots are loaded again")
        assert not_green(query_assets(api)[0]) == {}

        upstream = {
            name: {key["path"][-1] for key in node["dependencyKeys"]}
            for name, node in assets.items()
        }
        assert upstream["calls"] == {"numbers", "pools", "recipients", "visits"}
        assert upstream["leads"] >= {"calls", "emails", "visits"}
        assert upstream["accounts"] == {"networks", "entities"}


def run_command(
    dev: Dev, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in the folder of `dev`, with only MAGNETIS_HOME exported."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAGNETIS_", "DAGSTER_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "magnetis_dagster.cli", *arguments],
        env={**clean, "MAGNETIS_HOME": str(dev.home), **environment},
        cwd=dev.home.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_command_in_another_terminal_uses_the_sandbox_without_exports(dev: Dev) -> None:
    manual = "SELECT count(*) FROM magnetis_ops.api_calls WHERE lane = 'manual'"
    url = run_command(dev, "db-url").stdout.strip()
    with psycopg.connect(url) as connection:
        [[before]] = connection.execute(manual).fetchall()
    planned = run_command(dev, "plan", "calls", "--json")
    assert planned.returncode == 0, planned.stderr
    probed = run_command(dev, "probe", "--json")
    assert probed.returncode == 0, probed.stderr
    spent = 1 + json.loads(probed.stdout)["calls"]
    quota = json.loads(run_command(dev, "quota", "--json").stdout)["today"]["used"]
    assert quota >= spent
    with psycopg.connect(url) as connection:
        assert connection.execute(manual).fetchone() == (before + spent,), "the same database"
        [[calls]] = connection.execute("SELECT count(*) FROM magnetis.calls").fetchall()
    assert run_command(dev, "migrate").stdout == "Up to date already.\n"
    assert f"calls: {calls} rows read" in run_command(dev, "reparse", "calls").stdout
    assert run_command(dev, "settings", "export").returncode in {0, 2}

    bi = run_command(dev, "db-url", "--tcp", "--read-only")
    assert bi.returncode == 0, bi.stderr
    with psycopg.connect(bi.stdout.strip()) as connection:
        assert connection.execute("SELECT count(*) FROM calls").fetchone() == (calls,)

    # an exported key has priority: another API, and the database of real data
    key = {"MAGNETIS_API_KEY": "a-real-key", "MAGNETIS_API_URL": "http://127.0.0.1:9"}
    assert "/magnetis?" in run_command(dev, "db-url", **key).stdout
    assert run_command(dev, "plan", "calls", **key).returncode == 3

    readable = {
        str(path.relative_to(dev.home)): oct(path.lstat().st_mode)
        for path in dev.home.rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077
    }
    assert readable == {}


def test_ctrl_c_ends_the_sandbox_too(dev: Dev) -> None:
    assert re.search(
        r"export MAGNETIS_API_URL=(http://127\.0\.0\.1:\d+) MAGNETIS_API_KEY=sandbox-key\n",
        dev.output,
    ), dev.output
    assert dev.end(signal.SIGINT, 60) == 0
    assert dev.remaining() == []
    ended = run_command(dev, "plan", "calls")
    assert ended.returncode == 2
    assert f"no `magnetis dev` with a sandbox runs in {dev.home}" in ended.stderr


def test_with_a_key_rows_go_to_another_database(dev: Dev, module_start: Start) -> None:
    """The start with a key also stops the leftover processes of a killed one."""
    killed = module_start(environment=REAL)
    killed.wait_until(
        lambda: len(killed.dagster_commands()) >= 3,
        "dagster dev, its code server and its child process run",
    )
    killed.process.kill()
    killed.process.wait()
    assert killed.dagster_commands(), "the test requires leftover processes"

    successor = module_start(environment=REAL)
    successor.wait_for("Stopped ")
    successor.wait_for("Serving until Ctrl-C.")
    assert "With an API key, the start loads nothing" in successor.output
    assert successor.query("SELECT count(*) FROM magnetis.calls") == [(0,)]
    assert successor.query(
        "SELECT count(*) FROM magnetis_ops.api_calls WHERE lane IN ('schedule', 'backfill')"
    ) == [(0,)]
    sandbox_url = f"postgresql://postgres:@/sandbox?host={dev.home / 'postgres'}"
    with psycopg.connect(sandbox_url) as sandbox:
        assert sandbox.execute("SELECT count(*) > 0 FROM magnetis.calls").fetchone() == (True,)

    second = module_start(environment=REAL)
    assert second.end() == 2
    assert f"pid {successor.process.pid}" in second.output
    assert successor.process.poll() is None
    mixed = module_start(
        environment={
            **REAL,
            "MAGNETIS_DATABASE_URL": sandbox_url,
            "MAGNETIS_HOME": f"{dev.home}-2",
        }
    )
    assert mixed.end() == 2, mixed.output
    assert "rows invented by the sandbox" in mixed.output
    assert "a-real-key" not in mixed.output + successor.output
    assert successor.end(signal.SIGTERM, 60) == 0
    assert killed.remaining() + successor.remaining() + mixed.remaining() == []


@pytest.mark.parametrize(
    ("number", "sign"),
    [
        (signal.SIGTERM, "postgres"),
        (signal.SIGINT, "logs/dagster.log"),
        (signal.SIGHUP, "dagster/dagster.yaml"),
    ],
    ids=[
        "SIGTERM while the database starts",
        "SIGINT while Dagster is imported",
        "SIGHUP while the code server starts",
    ],
)
def test_an_early_stop_leaves_no_process(start: Start, number: signal.Signals, sign: str) -> None:
    dev = start(environment=REAL)
    dev.wait_until((dev.home / sign).exists, sign)
    if number == signal.SIGHUP:
        dev.wait_until(
            lambda: len(dev.dagster_commands()) >= 3,
            "dagster dev, its code server and its child process run",
        )
    assert dev.end(number, 60) == 128 + number, dev.output
    assert "Traceback" not in dev.output
    assert dev.remaining() == []
