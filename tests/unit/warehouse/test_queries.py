"""The SQL files: every statement has a name and a description, and the golden files are current."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from magnetis_dagster.warehouse.queries import FOLDER, Queries

FILES = sorted(FOLDER.glob("*.sql"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_statement_has_a_name_of_its_own_and_a_description(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    headers = [number for number, line in enumerate(lines) if line.startswith("-- name:")]
    names = [lines[number].removeprefix("-- name: ") for number in headers]
    assert Queries(file.stem).names() == names, "a block without a description has no name"
    assert len(set(names)) == len(names)
    for number in headers:
        assert re.fullmatch(r"-- [A-Z].{10,90}\.", lines[number + 1]), names
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_statement_is_used(file: Path) -> None:
    modules = [path.read_text(encoding="utf-8") for path in FOLDER.parent.glob("*.py")]
    for name in Queries(file.stem).names():
        assert any(f'"{name}"' in module for module in modules), name


def test_comments_are_not_part_of_a_statement() -> None:
    for file in FILES:
        for name in Queries(file.stem).names():
            assert "-- " not in Queries(file.stem).sql(name)


def test_a_statement_is_a_text_with_named_values() -> None:
    statement = Queries("reconcile").fill(table="magnetis.calls", days="")["difference_of_snapshot"]
    assert "FROM magnetis.calls\n" in statement.text
    assert "WHERE connection = :connection AND deleted_at IS NULL" in statement.text
    assert set(statement.compile().params) == {"connection", "collection"}


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="nope"):
        Queries("bookkeeping")["nope"]


def test_the_golden_files_are_the_rendered_statements() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "merge_sql.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
