"""Finds PgBouncer, or installs it, and prints its path: `make pgbouncer`, the tests of connection poolers.

Nothing is installed if one is on the PATH already.
"""

import os
import shutil
import subprocess
import sys

HELP = """PgBouncer was not found, and could not be installed. One of these helps:
  - Debian, Ubuntu:  apt-get install pgbouncer
  - macOS:           brew install pgbouncer"""


def find() -> str | None:
    """Return the path of PgBouncer, or None."""
    return shutil.which(
        "pgbouncer",
        path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin",
    )


def install() -> str | None:
    """Return the path of PgBouncer after trying the system's packages, for root on Debian; its service does not run then."""
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
