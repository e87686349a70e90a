"""Take the screenshots of docs/images, in about five minutes.

    make screenshots
    make screenshots ARGS=calls.png     only one

Starts `magnetis dev` with a slow sandbox, in a temporary folder, so no picture can show real rows.
A backfill of the year before the loaded days is photographed in progress, the other pages after it.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from browser import ARGUMENTS, find
from playwright.sync_api import Page, ViewportSize, sync_playwright

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.dev.home import free_port
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer
from magnetis_dagster.settings import Settings

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LAYOUT_MILLISECONDS = 4000
"""The browser computes and animates the layout of the graph; no element shows when it ends."""

WIDTH, HEIGHT = 1440, 900
DAYS, LOADED = 365, 30
"""Days of history, and the number of them that are loaded before the backfill."""
SLOW = SandboxOptions(calls_per_day=240, latency=0.5, daily_quota=None)
"""The visits of a year take several windows, and more than 30 s.

Dagster updates the days of a backfill every 30 s.
"""
TIMEOUT_SECONDS = 600
BACKFILL_PICTURE, CHANGES = "backfill-in-progress.png", "settings-changes.png"
SENSOR_RUNS = 2
"""Runs of the alert sensor: one of its first tick, and one for the edits."""

GROUPS = ("activity", "operations")
GRAPH = "/asset-groups~{}/?expanded={}".format(
    quote(" or ".join(f'group:"{name}"' for name in GROUPS), safe=""),
    quote(",".join(f"global@global:{name}" for name in GROUPS), safe=""),
)
PAGES = {
    # 1300: the height of these two groups
    "asset-graph.png": (GRAPH, 1300),
    "calls.png": ("/assets/magnetis/calls", HEIGHT),
    "calls-partitions.png": ("/assets/magnetis/calls?view=partitions", HEIGHT),
    "runs.png": ("/runs", HEIGHT),
}
BACKFILL = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill {
      status
      assetBackfillData {
        assetBackfillStatuses {
          ... on AssetPartitionsStatusCounts {
            assetKey { path } numPartitionsMaterialized numPartitionsInProgress
          }
        }
      }
    }
  }
}
"""


@contextmanager
def magnetis_dev(home: Path, api: SandboxServer, first: date) -> Iterator[str]:
    """Run `magnetis dev` on the sandbox; yield the address of its UI after the first load."""
    port, output = free_port(), home / "dev.out"
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAGNETIS_", "DAGSTER_"))
    }
    own = {
        "MAGNETIS_API_URL": api.url,
        "MAGNETIS_API_KEY": api.key,
        "MAGNETIS_HOME": str(home / "magnetis"),
        "MAGNETIS_START_DATE": str(first),
        "MAGNETIS_SETTINGS_INTERVAL_SECONDS": "10",
    }
    command = [sys.executable, "-m", "magnetis_dagster.cli", "dev"]
    command += ["--load", str(LOADED), "--port", str(port)]
    with output.open("wb") as sink:
        # The working directory has no .env.
        process = subprocess.Popen(
            command,
            env=clean | own,
            cwd=home,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )

    def serves() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"magnetis dev ended with {process.returncode}:\n{output.read_text()}")
        return "Serving until Ctrl-C." in output.read_text()

    try:
        wait_until(serves, "magnetis dev to serve")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT_SECONDS)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {TIMEOUT_SECONDS} s for {what}")
        time.sleep(0.5)


def photograph(page: Page, address: str, name: str, height: int = HEIGHT) -> None:
    page.set_viewport_size(ViewportSize(width=WIDTH, height=height))
    page.goto(address, wait_until="load")
    page.wait_for_timeout(LAYOUT_MILLISECONDS)
    page.screenshot(path=IMAGES / name)
    print(f"docs/images/{name}", flush=True)


def photograph_backfill(page: Page, ui: str, first: date, last: date) -> None:
    """Launch a backfill of all events, photograph it in progress, and wait for its end."""
    events = [collection.name for collection in load_catalogue().enabled if collection.is_events]
    with DagsterApi(ui) as api:
        if not api.loaded():
            raise SystemExit("Dagster has not loaded the code location")
        backfill = api.launch_backfill(
            {name: [(first, last)] for name in events}, title="", description="", tags={}
        )

        def state() -> dict[str, Any]:
            response: dict[str, Any] = api.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]
            return response

        wait_until(lambda: _days(state(), "Materialized") > 0, "the first days of visits")
        if not _days(state(), "InProgress"):
            raise SystemExit("the visits ended or failed before the picture was taken")
        photograph(page, api.backfill_page(backfill), BACKFILL_PICTURE, 600)
        wait_until(lambda: state()["status"].startswith("COMPLETED"), "the end of the backfill")
        if (status := state()["status"]) != "COMPLETED_SUCCESS":
            raise SystemExit(f"the backfill ended as {status}")


def photograph_changes(page: Page, ui: str, sandbox: SandboxServer) -> None:
    """Edit alerts in the sandbox, wait for the sensor's run, and photograph its changes."""
    with httpx.Client(base_url=sandbox.url, headers={"x-api-key": sandbox.key}) as client:
        alerts = client.get("/alerts/email").raise_for_status().json()["data"]
    sandbox.world.edit("email_alerts", alerts[0]["id"], enabled=1 - alerts[0]["enabled"])
    sandbox.world.edit(
        "email_alerts",
        alerts[1]["id"],
        recipients=[*alerts[1]["recipients"], "accueil@example.com"],
    )
    sandbox.world.edit("email_alerts", alerts[2]["id"], title=f"{alerts[2]['title']} (siège)")
    sandbox.world.delete("email_alerts", alerts[3]["id"])
    with DagsterApi(ui) as api:
        wait_until(lambda: len(_sensor_runs(api)) >= SENSOR_RUNS, "the sensor's run")
    page.set_viewport_size(ViewportSize(width=WIDTH, height=HEIGHT))
    page.goto(f"{ui}/assets/magnetis/email_alerts?view=events", wait_until="load")
    page.wait_for_timeout(LAYOUT_MILLISECONDS)
    page.get_by_text("settings changed").first.scroll_into_view_if_needed()
    page.screenshot(path=IMAGES / CHANGES)
    print(f"docs/images/{CHANGES}", flush=True)


def _sensor_runs(api: DagsterApi) -> list[dict[str, Any]]:
    runs = api.ask(
        "query { runsOrError(filter: {statuses: [SUCCESS], "
        'tags: [{key: "dagster/sensor_name", value: "alert_settings_sensor"}]}) '
        "{ ... on Runs { results { id } } } }"
    )["runsOrError"]["results"]
    return list(runs)


def _days(backfill: dict[str, Any], state: str) -> int:
    """Return the number of days of visits in that state; visits are loaded last."""
    counts = (backfill["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
    return sum(
        int(count[f"numPartitions{state}"])
        for count in counts
        if count["assetKey"]["path"][-1] == "visits"
    )


def main() -> int:
    path = find()
    if path is None:
        print("No Chromium: `make browser` finds or installs one.", file=sys.stderr)
        return 1
    wanted = set(sys.argv[1:]) or {*PAGES, BACKFILL_PICTURE, CHANGES}
    today = datetime.now(Settings.model_construct().timezone).date()
    first = today - timedelta(days=DAYS)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="magnetis-screenshots-") as folder,
        SandboxServer(SLOW) as api,
        magnetis_dev(Path(folder), api, first) as ui,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        page = browser.new_page()
        if BACKFILL_PICTURE in wanted:
            photograph_backfill(page, ui, first, today - timedelta(days=LOADED + 1))
        for name, (address, height) in PAGES.items():
            if name in wanted:
                photograph(page, ui + address, name, height)
        if CHANGES in wanted:
            photograph_changes(page, ui, api)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
