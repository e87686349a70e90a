"""Find or install a Chromium, and print its path.

    .venv/bin/python tools/browser.py [--find]

`make browser`, the end-to-end tests and the screenshots use it. If a Chromium is on the PATH,
nothing is downloaded. `--find` never installs one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

ARGUMENTS = (
    "--no-sandbox",  # Chromium cannot use its sandbox as root, and CI machines run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Options of a headless Chromium, which then requests only the page under test."""

HELP = """No Chromium was found, and none could be installed. Install one with one of these:
  - Debian, Ubuntu:  apt-get install chromium
  - macOS:           brew install --cask google-chrome, and put it on the PATH
  - elsewhere:       .venv/bin/playwright install --with-deps chromium"""


def find() -> str | None:
    """Return the path of a Chromium on the PATH or of Playwright's own, or None."""
    on_path = next((path for name in NAMES if (path := shutil.which(name))), None)
    return on_path or _playwrights()


def install() -> str | None:
    """Install Playwright's Chromium or, as root on Debian, the system's; return its path."""
    attempts = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = ["chromium", "fonts-liberation"]
        attempts += [
            ["apt-get", "update"],
            ["apt-get", "install", "--yes", "--no-install-recommends", *packages],
        ]
    for command in attempts:
        print(f"- {' '.join(command)}", file=sys.stderr)
        # A slow mirror takes minutes; a hanging download must not use up the time of CI.
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
        if result.returncode:
            lines = (result.stderr or result.stdout).strip().splitlines() or ["no reason given"]
            reason = next((line for line in lines if "rror" in line), lines[-1])
            print(f"  failed: {reason}", file=sys.stderr)
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
