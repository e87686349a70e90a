"""The programs in examples/ that need other packages: `make test-examples`.

Not part of `make test`, because the first run installs dbt, dlt and polars.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from calls_of_two_days import FIRST
from paths import ROOT

from magnetis_dagster.cli.app import app

pytestmark = pytest.mark.timeout(600)

EXAMPLES = ROOT / "examples"
COPY = """
import duckdb, json
with duckdb.connect("copy.duckdb") as copy:
    print(json.dumps(copy.sql("SELECT id, status FROM magnetis.calls ORDER BY id").fetchall()))
"""


def run(*command: object, cwd: Path, environment: Mapping[str, str]) -> str:
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), "NO_COLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, f"{command}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout + ended.stderr


def test_polars_summarizes_a_day(programs: Path, database_url: str, tmp_path: Path) -> None:
    program = (
        "import os, polars_calls; "
        f"print(polars_calls.calls_per_account(os.environ['MAGNETIS_DATABASE_URL'], '{FIRST}')"
        ".write_json())"
    )
    environment = {"MAGNETIS_DATABASE_URL": database_url, "PYTHONPATH": str(EXAMPLES)}
    printed = run(programs / "python", "-c", program, cwd=tmp_path, environment=environment)
    assert json.loads(printed) == [
        {"account_id": "a", "calls": 3, "missed": 2, "mean_seconds": 60.0},
        {"account_id": "b", "calls": 1, "missed": 1, "mean_seconds": None},
    ]
    script = (programs / "python", EXAMPLES / "polars_calls.py", FIRST)
    assert "mean_seconds" in run(*script, cwd=tmp_path, environment=environment)


def test_dlt_copies_what_changed_and_removes_what_was_deleted(
    programs: Path, database_url: str, tmp_path: Path
) -> None:
    environment = {
        "DLT_DATA_DIR": str(tmp_path / "dlt"),
        "MAGNETIS_DATABASE_URL": database_url,
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }

    def copied() -> dict[str, str]:
        run(programs / "python", EXAMPLES / "dlt_calls.py", cwd=tmp_path, environment=environment)
        printed = run(programs / "python", "-c", COPY, cwd=tmp_path, environment=environment)
        return dict(json.loads(printed))

    first = copied()
    assert first == {
        "1": "missed",
        "2": "missed",
        "3": "completed",
        "4": "missed",
        "6": "completed",
    }
    with psycopg.connect(database_url) as connection:
        # reads that began before those of the first copy, and are committed after it
        connection.execute(
            "UPDATE magnetis.calls SET status = 'completed', "
            "last_seen_at = now() - interval '1 hour' WHERE id = '1'"
        )
        connection.execute(
            "UPDATE magnetis.calls SET last_seen_at = now() - interval '2 hours', "
            "deleted_at = now() - interval '1 hour' WHERE id = '2'"
        )
    changed = {**first, "1": "completed"}
    del changed["2"]
    assert copied() == changed
    assert copied() == changed, "a run without changes changes nothing"


def test_dbt_builds_a_model_on_the_generated_sources(
    programs: Path, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(EXAMPLES / "dbt", project, ignore=shutil.ignore_patterns("target", "logs"))
    app(["dbt-sources"], standalone_mode=False)
    (project / "models" / "sources.yml").write_text(capsys.readouterr().out, encoding="utf-8")
    parts = urlsplit(database_url)
    environment = {
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "PGDATABASE": parts.path.removeprefix("/"),
        "PGHOST": parse_qs(parts.query)["host"][0],
        "PGUSER": str(parts.username),
    }

    def dbt(*arguments: str) -> str:
        options = ("--profiles-dir", ".", "--no-use-colors")
        return run(programs / "dbt", *arguments, *options, cwd=project, environment=environment)

    built = dbt("build")
    assert "deprecat" not in built.lower()
    assert "PASS=3" in built, built
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT day::text, account_id, calls, missed, duration_seconds::int "
            "FROM acme.calls_by_day ORDER BY 1, 2"
        ).fetchall()
    assert rows == [
        ("2025-03-04", "a", 3, 2, 60),
        ("2025-03-04", "b", 1, 1, None),
        ("2025-03-05", "b", 1, 0, 60),
    ]
    fresh = dbt("source", "freshness", "--select", "source:magnetis.calls")
    assert "PASS" in fresh
