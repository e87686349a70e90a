"""The UI after the first start: green assets, jobs, lineage and numbers."""

from collections import Counter
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from harness import Dev, Start

from magnetis_dagster.dagster_support.webserver_client import ENDED, DagsterApi

SNAPSHOT_GROUPS = {"organization", "numbers", "settings", "content"}

pytestmark = pytest.mark.timeout(600)

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


def test_after_the_first_start_assets_are_green_with_jobs_and_numbers(start: Start) -> None:
    dev = start("--load", "2")
    dev.wait_for("Serving until Ctrl-C.", 500)
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
