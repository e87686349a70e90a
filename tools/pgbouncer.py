"""Find or install PgBouncer, and print its path.

    .venv/bin/python tools/pgbouncer.py

`make pgbouncer` and the tests of connection poolers use it. If one is on the PATH, nothing is
installed.
"""

import os
import shutil
import subprocess
import sys

HELP = """PgBouncer was not found, and could not be installed. Install it with one of these:
  - Debian, Ubuntu:  apt-get install pgbouncer
  - macOS:           brew install pgbouncer"""


def find() -> str | None:
    """Return the path of PgBouncer, or None."""
    folders = (os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")
    return shutil.which("pgbouncer", path=os.pathsep.join(folders))


def install() -> str | None:
    """Install the system's package as root on Debian, stop its service, and return the path."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "--yes", "--no-install-recommends", "pgbouncer"],
            ["service", "pgbouncer", "stop"],
        ):
            print(f"- {' '.join(command)}", file=sys.stderr)
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(command, capture_output=True, timeout=600, check=False, env=environment)
    return find()


if __name__ == "__main__":
    print(find() or install() or HELP)
