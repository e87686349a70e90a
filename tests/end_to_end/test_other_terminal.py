"""What commands in another terminal find while `magnetis dev` serves with the sandbox, and after it has ended."""

import json
import os
import signal
import stat
import subprocess
import sys

import psycopg
import pytest
from harness import Dev, Start

pytestmark = pytest.mark.timeout(600)


def beside(dev: Dev, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command where `dev` was started, with no export but its folder."""
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


def test_every_command_finds_the_sandbox_without_exports(start: Start) -> None:
    dev = start("--load", "0")
    dev.wait_for("Serving until Ctrl-C.")

    planned = beside(dev, "plan", "calls", "--json")
    assert planned.returncode == 0, planned.stderr
    probed = beside(dev, "probe", "--json")
    assert probed.returncode == 0, probed.stderr
    spent = 1 + json.loads(probed.stdout)["calls"]
    quota = json.loads(beside(dev, "quota", "--json").stdout)["today"]["used"]
    assert quota >= spent
    url = beside(dev, "db-url").stdout.strip()
    with psycopg.connect(url) as connection:
        manual = connection.execute(
            "SELECT count(*) FROM magnetis_ops.api_calls WHERE lane = 'manual'"
        ).fetchone()
    assert manual == (spent,), "the same database as that of the running one"
    assert beside(dev, "migrate").stdout == "Up to date already.\n"
    assert "calls: 0 rows read" in beside(dev, "reparse", "calls").stdout
    assert beside(dev, "settings", "export").returncode in {0, 2}

    bi = beside(dev, "db-url", "--tcp", "--read-only")
    assert bi.returncode == 0, bi.stderr
    with psycopg.connect(bi.stdout.strip()) as connection:
        assert connection.execute("SELECT count(*) FROM calls").fetchone() == (0,)

    # a key that is set wins: another API, the database of real data
    key = {"MAGNETIS_API_KEY": "a-real-key", "MAGNETIS_API_URL": "http://127.0.0.1:9"}
    assert "/magnetis?" in beside(dev, "db-url", **key).stdout
    assert beside(dev, "plan", "calls", **key).returncode == 3

    readable = {
        str(path.relative_to(dev.home)): oct(path.lstat().st_mode)
        for path in dev.home.rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077
    }
    assert readable == {}
    assert dev.end(signal.SIGINT, 60) == 0
    assert dev.left() == []
    ended = beside(dev, "plan", "calls")
    assert ended.returncode == 2
    assert f"no `magnetis dev` with a sandbox runs in {dev.home}" in ended.stderr
