"""Dagster's storage keeps its database sessions and survives a server that ends them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from paths import ROOT

SESSIONS = (
    "FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def server(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def backends(server: psycopg.Connection) -> set[int]:
    """Return the sessions that stay open; a closed one may be listed for a moment longer."""
    end = time.monotonic() + 5
    while (
        len(found := {pid for (pid,) in server.execute(f"SELECT pid {SESSIONS}")}) > 1
        and time.monotonic() < end
    ):
        time.sleep(0.05)
    return found


def test_processes_that_start_together_create_the_tables_once(
    empty_database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    code = "import dagster; dagster.DagsterInstance.get().get_runs_count(); print('ready')"
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(tmp_path),
        "MAGNETIS_DATABASE_URL": empty_database_url,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [output.splitlines()[-1:] for output in outputs] == [["ready"]] * 4


def report(instance: dg.DagsterInstance, number: int) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("here", partition=str(number)))


def test_events_are_written_in_one_session(
    stored: dg.DagsterInstance, server: psycopg.Connection
) -> None:
    report(stored, 0)
    before = backends(server)
    for number in range(1, 20):
        report(stored, number)
        stored.get_runs_count()
        stored.all_instigator_state()
    assert len(before) == 1
    assert backends(server) == before
    assert stored.get_materialized_partitions(dg.AssetKey("here")) == {
        str(number) for number in range(20)
    }


def test_ended_sessions_are_replaced(
    stored: dg.DagsterInstance, server: psycopg.Connection
) -> None:
    report(stored, 0)
    assert len(backends(server)) == 1
    assert server.execute(f"SELECT count(pg_terminate_backend(pid)) {SESSIONS}").fetchone() == (1,)
    report(stored, 1)
    assert stored.get_materialized_partitions(dg.AssetKey("here")) == {"0", "1"}
    assert stored.get_runs_count() == 0
