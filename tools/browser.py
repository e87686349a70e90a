"""Finds a Chromium, or installs one, and prints its path: `make browser`, the end-to-end tests, the screenshots.

Nothing is downloaded where one is on the PATH already. `python tools/browser.py --find` never installs.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

ARGUMENTS = (
    "--no-sandbox",  # Chromium refuses its sandbox to root, and CI machines run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""What a headless Chromium is started with: it asks nothing of the network but the page under test."""

HELP = """No Chromium was found, and none could be installed. One of these helps:
  - Debian, Ubuntu:  apt-get install chromium
  - macOS:           brew install --cask google-chrome, and put it on the PATH
  - elsewhere:       .venv/bin/playwright install --with-deps chromium"""


def find() -> str | None:
    """Return the path of a Chromium on the PATH or among Playwright's own, or None."""
    on_path = next((path for name in NAMES if (path := shutil.which(name))), None)
    return on_path or _playwrights()


def install() -> str | None:
    """Return the path of a Chromium after trying Playwright's and then, for root on Debian, the system's."""
    attempts = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        attempts += [
            ["apt-get", "update"],
            [
                "apt-get",
                "install",
                "--yes",
                "--no-install-recommends",
                "chromium",
                "fonts-liberation",
            ],
        ]
    for command in attempts:
        print(f"- {' '.join(command)}", file=sys.stderr)
        # Several minutes where the mirror is slow; a hanging download must not hold CI for its whole time.
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            print(
                f"  failed: {next((line for line in lines if 'rror' in line), lines[-1])}",
                file=sys.stderr,
            )
        elif path := find():
            return path
    return None


def _playwrights() -> str | None:
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def main() -> int:
    path = find() or (None if "--find" in sys.argv[1:] else install())
    print(path or HELP, file=sys.stdout if path else sys.stderr)
    return 0 if path else 1


if __name__ == "__main__":
    sys.exit(main())
