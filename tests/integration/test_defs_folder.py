"""`magnetis_dagster/defs` contains definitions only: importing it has no side effect."""

import subprocess
import sys
from pathlib import Path

import dagster as dg

import magnetis_dagster.defs

FOLDER = Path(magnetis_dagster.defs.__file__).parent
IMPORTS = """
import importlib, pkgutil, sys
import magnetis_dagster.defs as package
from magnetis_dagster.settings import Settings

def refuse(*_, **__):
    raise AssertionError("an import reads the settings")

Settings.load = refuse
names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
for name in names:
    importlib.import_module(name)
libraries = {"celery", "httpx", "psycopg", "psycopg2", "sqlalchemy"}
print(len(names), *sorted(libraries & sys.modules.keys()))
"""


def test_dagster_loads_the_defs_folder() -> None:
    definitions = dg.load_from_defs_folder(path_within_project=FOLDER)
    assert not [*(definitions.assets or ()), *(definitions.jobs or ())], (
        "definitions.py builds them, from the settings"
    )


def test_importing_its_modules_has_no_side_effect() -> None:
    root = FOLDER.parents[1]
    finished = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        check=True,
        capture_output=True,
        text=True,
        env={},
        cwd=root,
    )
    modules = [path for path in FOLDER.rglob("*.py") if path != FOLDER / "__init__.py"]
    assert finished.stdout.split() == [str(len(modules))], "the number of modules, and no library"
