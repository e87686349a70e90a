"""The built wheel without a clone: `magnetis dev` in an empty folder, and another Dagster project.

Needs no network: the wheel is installed beside the packages of this environment.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psycopg
import pytest
from extra_local import BLOCK, modules_of_local
from installed_wheel import Environment, build_wheel, install, run
from paths import ROOT
from protected import PRIVACY_KEY
from sandbox_rows import expected_rows

from magnetis_dagster.database import embedded
from magnetis_dagster.dev.home import free_port
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer

pytestmark = pytest.mark.timeout(600)

DAY = date(2025, 3, 4)
COMPONENT = "magnetis_dagster.MagnetisComponent"
PYPROJECT = """
[project]
name = "acme"
version = "1.0"
requires-python = ">=3.11"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "acme"
"""
DEFINITIONS = """
from pathlib import Path

from dagster import Definitions, definitions, load_from_defs_folder


@definitions
def defs() -> Definitions:
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
OWN_JOB = """
import os
from pathlib import Path

import dagster as dg


@dg.op
def first() -> int:
    return os.getpid()


@dg.op
def second(context: dg.OpExecutionContext, other: int) -> None:
    processes = {os.getpid(), other}
    Path(os.environ["DAGSTER_HOME"], "processes").write_text(str(len(processes)))


@dg.job
def own_job() -> None:
    second(first())
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # outside pytest's folder: if the tests run as root, the database runs as another user
    folder = Path(tempfile.mkdtemp(prefix="magnetis-wheel-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    return build_wheel(folder / "dist")


@pytest.fixture(scope="module")
def environment(wheel: Path, folder: Path) -> Environment:
    return install(wheel, folder / "environment")


def test_the_wheel_contains_the_files_that_the_code_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contained = {name for name in archive.namelist() if name.startswith("magnetis_dagster/")}
    ls = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    files = run(*ls, "magnetis_dagster", cwd=ROOT).stdout.split("\0")
    assert contained == set(filter(None, files))
    assert {"magnetis_dagster/dev/dagster.yaml", "magnetis_dagster/py.typed"} <= contained


def test_the_environment_imports_the_wheel(environment: Environment, folder: Path) -> None:
    program = "import magnetis_dagster; print(magnetis_dagster.__file__)"
    shown = run(environment.python, "-c", program, cwd=folder, env=environment.variables(folder))
    assert Path(shown.stdout.strip()).is_relative_to(environment.packages), shown.stderr


def test_magnetis_dev_works_in_an_empty_folder(environment: Environment, folder: Path) -> None:
    empty, home = folder / "empty", folder / "home"
    empty.mkdir()
    home.mkdir()
    options = ("--load", "1", "--exit", "--port", free_port())
    magnetis = environment.folder / "bin" / "magnetis"
    ended = run(magnetis, "dev", *options, cwd=empty, env=environment.variables(home), seconds=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [path.name for path in empty.iterdir()] == [".magnetis"]
    assert list(home.iterdir()) == []
    url = embedded.start(empty / ".magnetis", database=embedded.SANDBOX_DATABASE, create=False)
    try:
        with psycopg.connect(url) as connection:
            counts = connection.execute(
                "SELECT (SELECT count(*) FROM magnetis.calls), "
                "(SELECT count(*) FROM magnetis.accounts), (SELECT count(*) FROM dagster.runs)"
            ).fetchone()
    finally:
        embedded.stop(empty / ".magnetis")
    assert counts is not None
    assert all(counts), counts


def test_the_core_alone_loads_a_day_and_answers_commands(
    environment: Environment, folder: Path, sandbox: SandboxServer, database: str
) -> None:
    core = folder / "core"
    core.mkdir()
    # Python imports this module when it starts
    (core / "sitecustomize.py").write_text(BLOCK.format(modules_of_local()))
    shutil.copyfile(ROOT / "dagster.yaml", core / "dagster.yaml")
    variables = {
        **environment.variables(core),
        "DAGSTER_HOME": str(core),
        "MAGNETIS_API_KEY": sandbox.key,
        "MAGNETIS_API_URL": sandbox.url,
        "MAGNETIS_DATABASE_URL": database.replace("/magnetis?", "/core?"),
        "MAGNETIS_PRIVACY_KEY": PRIVACY_KEY,
        "MAGNETIS_START_DATE": str(DAY),
        "PYTHONPATH": str(core),
    }
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE DATABASE core")

    def core_runs(*command: object, code: int = 0) -> str:
        ended = run(environment.python, "-m", *command, cwd=core, env=variables)
        assert ended.returncode == code, f"{command}:\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout + ended.stderr

    assert "needs the extra local" in core_runs("magnetis_dagster.cli", "dev", code=2)
    core_runs("magnetis_dagster.cli", "migrate")
    assets = ("-m", "magnetis_dagster.definitions", "--select", 'key:"magnetis/calls"')
    core_runs("dagster", "asset", "materialize", *assets, "--partition", DAY)
    for command in (("plan", "calls", "--to", DAY), ("probe",), ("connections",), ("doctor",)):
        core_runs("magnetis_dagster.cli", *command)
    assert "manual" in core_runs("magnetis_dagster.cli", "quota")
    with psycopg.connect(variables["MAGNETIS_DATABASE_URL"]) as connection:
        loaded = connection.execute("SELECT count(*) FROM magnetis.calls").fetchone()
    assert loaded
    assert loaded[0] == len(list(expected_rows(sandbox.world, "calls", DAY, DAY))) > 0


@dataclass(frozen=True)
class Project:
    """Somebody else's Dagster project, with its own instance and the component of the wheel."""

    folder: Path
    environment: Environment
    variables: Mapping[str, str]
    scaffolded: str
    """Output of the scaffolder."""

    def dg(self, *arguments: str) -> str:
        """Run the command `dg` in the project; return its output."""
        return dg(self.environment, self.folder, self.variables, *arguments)


def dg(environment: Environment, cwd: Path, variables: Mapping[str, str], *arguments: str) -> str:
    command = (environment.python, "-m", "dagster_dg_cli.cli", *arguments)
    ended = run(*command, cwd=cwd, env=variables)
    assert ended.returncode == 0, f"dg {' '.join(arguments)}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxOptions(calls_per_day=40)) as server:
        yield server


@pytest.fixture(scope="module")
def database(folder: Path) -> Iterator[str]:
    home = folder / "database"
    yield embedded.start(home, port=0)
    embedded.stop(home)


@pytest.fixture(scope="module")
def project(
    environment: Environment, folder: Path, sandbox: SandboxServer, database: str
) -> Project:
    root, home = folder / "acme", folder / "acme-home"
    package = root / "src" / "acme"
    for path in (package / "defs", home / "dagster"):
        path.mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / ".venv").symlink_to(environment.folder)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    (package / "defs" / "__init__.py").touch()
    (package / "defs" / "own_job.py").write_text(OWN_JOB)
    environment.add_to_path(root / "src")
    variables = {
        **environment.variables(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "KEY_OF_ACME": sandbox.key,
        "MAGNETIS_API_URL": sandbox.url,
        "MAGNETIS_DATABASE_URL": database,
        "MAGNETIS_PRIVACY_KEY": PRIVACY_KEY,
        "MAGNETIS_START_DATE": "2025-03-01",
    }
    options = (COMPONENT, "magnetis", "--key-env", "KEY_OF_ACME")
    scaffolded = dg(environment, root, variables, "scaffold", "defs", *options)
    return Project(root, environment, variables, scaffolded)


def test_the_scaffolder_writes_a_valid_file_without_the_key(
    project: Project, sandbox: SandboxServer
) -> None:
    written = project.folder / "src" / "acme" / "defs" / "magnetis" / "defs.yaml"
    text = written.read_text(encoding="utf-8")
    assert f"type: {COMPONENT}" in text
    assert "KEY_OF_ACME" in text
    assert sandbox.key not in text
    project.dg("check", "yaml")
    project.dg("check", "defs")


def test_the_component_is_listed(project: Project) -> None:
    assert COMPONENT in project.dg("list", "components")


def test_a_registration_imports_no_driver_and_no_http_client(project: Project) -> None:
    """`dg` imports the registered components of every installed package for each command."""
    heavy = {"alembic", "dagster_postgres", "httpx", "psycopg", "rich", "sqlalchemy", "typer"}
    program = (
        "import sys, dagster.components; before = set(sys.modules); import magnetis_dagster; "
        f"magnetis_dagster.MagnetisComponent; print({heavy} & (set(sys.modules) - before))"
    )
    shown = run(
        project.environment.python, "-c", program, cwd=project.folder, env=project.variables
    )
    assert shown.stdout.strip() == "set()", shown.stderr


def test_one_day_is_loaded(project: Project, sandbox: SandboxServer, database: str) -> None:
    project.dg("launch", "--assets", 'key:"magnetis/calls"', "--partition", str(DAY))
    expected = {str(row["id"]) for row in expected_rows(sandbox.world, "calls", DAY, DAY)}
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT id, day FROM magnetis.calls").fetchall()
    assert {id_ for id_, _ in rows} == expected != set()
    assert {day for _, day in rows} == {DAY}


def test_a_job_of_the_project_keeps_its_own_executor(project: Project) -> None:
    """Dagster's default: a process for each step."""
    project.dg("launch", "--job", "own_job")
    processes = Path(project.variables["DAGSTER_HOME"], "processes").read_text()
    assert processes == "2", "the two steps ran in one process"
