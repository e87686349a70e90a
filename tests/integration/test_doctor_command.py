"""`magnetis doctor` as a process, against real databases."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine
from test_cli import magnetis

from magnetis_dagster.dev.home import project_files
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer

KEY = "doctor-key-31c8"


def doctor(code: int, **environment: str) -> dict[str, dict[str, Any]]:
    ended = magnetis("doctor", "--json", MAGNETIS_API_KEY=KEY, **environment)
    assert (ended.returncode, ended.stderr) == (code, ""), ended.stdout
    assert KEY not in ended.stdout
    return {each["name"]: each for each in json.loads(ended.stdout)}


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes(project_files()[0].read_bytes())
    return {
        "MAGNETIS_DATABASE_URL": database_url,
        "MAGNETIS_HOME": str(tmp_path / "home"),
        "DAGSTER_HOME": str(home),
        "MAGNETIS_API_URL": "http://127.0.0.1:9",  # nobody listens
    }


def test_nothing_is_missing(environment: dict[str, str]) -> None:
    with SandboxServer(SandboxOptions(accounts=1)) as sandbox:
        environment["MAGNETIS_API_URL"] = sandbox.url
        findings = doctor(0, **environment)
        words = magnetis("doctor", MAGNETIS_API_KEY=KEY, **environment, COLUMNS="80")
        assert sandbox.received == 0
    gaps = {name: each for name, each in findings.items() if each["status"] != "ok"}
    assert set(gaps) <= {"disk of data directory"}, gaps
    assert {"clock", "rights", "tables", "time zones", "run monitoring", "key of magnetis"} <= set(
        findings
    )
    assert findings["database"]["text"].startswith("PostgreSQL ")
    assert words.returncode == 0
    assert max(map(len, words.stdout.splitlines())) <= 80
    assert "0 errors" in words.stdout


def test_gaps_have_a_cost_and_a_remedy(
    environment: dict[str, str], engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "dagster_home/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with psycopg.connect(environment["MAGNETIS_DATABASE_URL"]) as session:
        session.execute("DROP TABLE magnetis.audio_files_history")
        session.execute("ALTER TABLE magnetis.calls DROP COLUMN duration_seconds CASCADE")
    findings = doctor(1, **environment)
    assert findings["run monitoring"]["status"] == "error"
    assert findings["API http://127.0.0.1:9"]["status"] == "error"
    assert findings["tables"]["status"] == "warning"
    assert "magnetis.audio_files_history" in findings["tables"]["text"]
    assert "magnetis.calls.duration_seconds" in findings["tables"]["text"]
    for each in findings.values():
        assert bool(each["cost"]) == (each["status"] != "ok")
    words = magnetis("doctor", MAGNETIS_API_KEY=KEY, **environment, COLUMNS="80")
    assert words.returncode == 1
    assert "run monitoring: A run whose worker was killed" in " ".join(words.stdout.split())


def test_an_unreachable_database_is_one_error_without_the_password(
    environment: dict[str, str],
) -> None:
    environment["MAGNETIS_DATABASE_URL"] = "postgresql://me:hush@127.0.0.1:9/none"
    findings = doctor(1, **environment)
    assert findings["database"]["status"] == "error"
    assert "cannot be reached" in findings["database"]["text"]
    assert "hush" not in str(findings)


def test_an_empty_database_is_a_warning(
    environment: dict[str, str], empty_database_url: str
) -> None:
    environment["MAGNETIS_DATABASE_URL"] = empty_database_url
    with SandboxServer(SandboxOptions(accounts=1)) as sandbox:
        findings = doctor(0, **environment | {"MAGNETIS_API_URL": sandbox.url})
    assert findings["tables"]["status"] == "warning"
    assert findings["rights"]["status"] == "ok"
    with psycopg.connect(empty_database_url) as session:
        schemas = session.execute("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^magnetis'")
        assert schemas.fetchone() == (0,), "the command creates nothing"


def test_without_a_database_nothing_is_created(tmp_path: Path) -> None:
    ended = magnetis(
        "doctor",
        "--json",
        MAGNETIS_HOME=str(tmp_path / "home"),
        MAGNETIS_API_URL="http://127.0.0.1:9",
    )
    findings = {each["name"]: each for each in json.loads(ended.stdout)}
    assert findings["embedded database"]["status"] == "warning"
    assert findings["key of magnetis"]["status"] == "warning"
    assert not (tmp_path / "home").exists()


def test_settings_that_cannot_be_read_are_an_error(environment: dict[str, str]) -> None:
    findings = doctor(1, **environment, MAGNETIS_TIMEZONE="Europe/Pariss")
    assert findings["settings"]["status"] == "error"
    assert "MAGNETIS_TIMEZONE" in findings["settings"]["text"]
