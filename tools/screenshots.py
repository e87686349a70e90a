"""Takes the pictures of docs/images again, in about five minutes: `make screenshots`, or `make screenshots ARGS=calls.png` for one.

It starts `magnetis dev` on a slow sandbox, both its own, in a folder that is removed afterwards: no picture can show real rows.
A backfill of the year before the loaded days is photographed in progress; the other pages once it is done.
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
SETTLE_MILLISECONDS = 4000
"""The graph is laid out in the browser and moves into place; no element tells when it is done."""

WIDTH, HEIGHT = 1440, 900
DAYS, LOADED = 365, 30
"""Days of history, and those of them that are there before the backfill."""
SLOW = SandboxOptions(calls_per_day=240, latency=0.5, daily_quota=None)
"""The visits of a year take several windows, and longer than the 30 s after which Dagster counts a backfill's days again."""
PATIENCE_SECONDS = 600
BACKFILL_PICTURE, CHANGES = "backfill-in-progress.png", "settings-changes.png"
LOOKS = 2
"""Runs of the sensor of alerts: of its first look, and of the one that sees the edits."""

GROUPS = ("activity", "operations")
GRAPH = "/asset-groups~{}/?expanded={}".format(
    quote(" or ".join(f'group:"{name}"' for name in GROUPS), safe=""),
    quote(",".join(f"global@global:{name}" for name in GROUPS), safe=""),
)
PAGES = {
    # the height that these two groups need
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
          ... on AssetPartitionsStatusCounts { assetKey { path } numPartitionsMaterialized numPartitionsInProgress }
        }
      }
    }
  }
}
"""


@contextmanager
def magnetis_dev(home: Path, api: SandboxServer, first: date) -> Iterator[str]:
    """Run `magnetis dev` on the sandbox, and give the address of its UI once it has loaded the last days."""
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
    command = [
        sys.executable,
        "-m",
        "magnetis_dagster.cli",
        "dev",
        "--load",
        str(LOADED),
        "--port",
        str(port),
    ]
    with output.open("wb") as sink:
        # started in a folder without .env
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
        process.wait(PATIENCE_SECONDS)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {PATIENCE_SECONDS} s for {what}")
        time.sleep(0.5)


def photograph(page: Page, address: str, name: str, height: int = HEIGHT) -> None:
    page.set_viewport_size(ViewportSize(width=WIDTH, height=height))
    page.goto(address, wait_until="load")
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.screenshot(path=IMAGES / name)
    print(f"docs/images/{name}", flush=True)


def photograph_backfill(page: Page, ui: str, first: date, last: date) -> None:
    """Launch a backfill of every events collection, photograph it while the last one is under way, and wait for its end."""
    events = [collection.name for collection in load_catalogue().enabled if collection.is_events]
    with DagsterApi(ui) as api:
        if not api.loaded():
            raise SystemExit("Dagster has not loaded the code location")
        backfill = api.launch_backfill(
            {name: [(first, last)] for name in events}, title="", description="", tags={}
        )

        def ask() -> dict[str, Any]:
            answer: dict[str, Any] = api.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]
            return answer

        wait_until(lambda: _days(ask(), "Materialized") > 0, "the first days of visits")
        if not _days(ask(), "InProgress"):
            raise SystemExit("the visits were read too fast, or failed, before a picture was taken")
        photograph(page, api.backfill_page(backfill), BACKFILL_PICTURE, 600)
        wait_until(lambda: ask()["status"].startswith("COMPLETED"), "the end of the backfill")
        if (status := ask()["status"]) != "COMPLETED_SUCCESS":
            raise SystemExit(f"the backfill ended as {status}")


def photograph_changes(page: Page, ui: str, sandbox: SandboxServer) -> None:
    """Edit alerts in the sandbox, wait until the sensor has had them loaded, and photograph the table of what changed."""
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
        wait_until(lambda: len(_sensor_runs(api)) >= LOOKS, "the sensor's run")
    page.set_viewport_size(ViewportSize(width=WIDTH, height=HEIGHT))
    page.goto(f"{ui}/assets/magnetis/email_alerts?view=events", wait_until="load")
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.get_by_text("settings changed").first.scroll_into_view_if_needed()
    page.screenshot(path=IMAGES / CHANGES)
    print(f"docs/images/{CHANGES}", flush=True)


def _sensor_runs(api: DagsterApi) -> list[dict[str, Any]]:
    found = api.ask(
        'query { runsOrError(filter: {statuses: [SUCCESS], tags: [{key: "dagster/sensor_name", value: "alert_settings_sensor"}]}) '
        "{ ... on Runs { results { id } } } }"
    )["runsOrError"]["results"]
    return list(found)


def _days(backfill: dict[str, Any], state: str) -> int:
    """Return how many days of visits, the last collection to be read, the backfill's page shows in that state."""
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
