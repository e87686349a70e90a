"""Takes the pictures of docs/images from a running UI: `make run` in one terminal, `make screenshots` in another.

`python tools/screenshots.py [URL]`; the UI is at http://127.0.0.1:3000 unless said otherwise. The data is the sandbox's: never take
pictures of a real key's rows.
"""

import sys
import urllib.error
import urllib.request
from pathlib import Path

from browser import ARGUMENTS, find
from playwright.sync_api import Page, ViewportSize, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SETTLE_MILLISECONDS = 4000
"""The graph is laid out in the browser and moves into place; no element tells when it is done."""

PAGES = {
    "asset-graph.png": "/asset-groups",
    "calls.png": "/assets/magnetis/calls",
    "calls-partitions.png": "/assets/magnetis/calls?view=partitions",
    "runs.png": "/runs",
}


def _close_welcome(page: Page) -> None:
    # Dagster asks for an e-mail address once per instance, unless dagster.yaml switches that off
    if page.get_by_text("Skip", exact=True).count():
        page.get_by_text("Skip", exact=True).click()
        page.wait_for_timeout(SETTLE_MILLISECONDS)


def main() -> int:
    url = (sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000").rstrip("/")
    path = find()
    if path is None:
        print("No Chromium: `make browser` finds or installs one.", file=sys.stderr)
        return 1
    try:
        urllib.request.urlopen(f"{url}/server_info", timeout=10).close()  # noqa: S310 - the person's own address
    except (OSError, ValueError):
        print(f"No Dagster UI at {url}: start it with `make run`, or say where it is.", file=sys.stderr)
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        page = browser.new_page(viewport=ViewportSize(width=1440, height=900))
        for name, address in PAGES.items():
            page.goto(url + address, wait_until="load")
            page.wait_for_timeout(SETTLE_MILLISECONDS)
            _close_welcome(page)
            if name == "asset-graph.png":
                page.keyboard.press("Alt+KeyE")  # Dagster's key for "expand all groups"
                page.wait_for_timeout(SETTLE_MILLISECONDS)
            page.screenshot(path=IMAGES / name)
            print(f"docs/images/{name}")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
