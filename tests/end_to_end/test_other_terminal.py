"""Commands in another terminal while `magnetis dev` serves, and afterwards."""

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


def test_every_command_uses_the_sandbox_without_exports(start: Start) -> None:
    dev = start("--load", "0")
    dev.wait_for("Serving until Ctrl-C.")

    planned = run_command(dev, "plan", "calls", "--json")
    assert planned.returncode == 0, planned.stderr
    probed = run_command(dev, "probe", "--json")
    assert probed.returncode == 0, probed.stderr
    spent = 1 + json.loads(probed.stdout)["calls"]
    quota = json.loads(run_command(dev, "quota", "--json").stdout)["today"]["used"]
    assert quota >= spent
    url = run_command(dev, "db-url").stdout.strip()
    with psycopg.connect(url) as connection:
        manual = connection.execute(
            "SELECT count(*) FROM magnetis_ops.api_calls WHERE lane = 'manual'"
        ).fetchone()
    assert manual == (spent,), "the database of the running instance"
    assert run_command(dev, "migrate").stdout == "Up to date already.\n"
    assert "calls: 0 rows read" in run_command(dev, "reparse", "calls").stdout
    assert run_command(dev, "settings", "export").returncode in {0, 2}

    bi = run_command(dev, "db-url", "--tcp", "--read-only")
    assert bi.returncode == 0, bi.stderr
    with psycopg.connect(bi.stdout.strip()) as connection:
        assert connection.execute("SELECT count(*) FROM calls").fetchone() == (0,)

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
    assert dev.end(signal.SIGINT, 60) == 0
    assert dev.remaining() == []
    ended = run_command(dev, "plan", "calls")
    assert ended.returncode == 2
    assert f"no `magnetis dev` with a sandbox runs in {dev.home}" in ended.stderr
