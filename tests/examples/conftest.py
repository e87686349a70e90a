"""An environment with dbt, dlt and polars, and a database with a few calls."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import calls_of_two_days
import pytest
from paths import ROOT

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.warehouse.migrate import migrate


@pytest.fixture(scope="session")
def programs() -> Path:
    """Install requirements/examples.lock into examples/.venv; return its programs' folder.

    If all packages are installed, this takes no network.
    """
    uv, home = Path(sys.executable).with_name("uv"), ROOT / "examples" / ".venv"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, home], check=True)
    sync = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python]
    subprocess.run([*sync, ROOT / "requirements" / "examples.lock"], check=True)
    return home / "bin"


@pytest.fixture
def database_url(catalogue: Catalogue) -> Iterator[str]:
    # outside pytest's folder: if the tests run as root, the server runs as another user
    home = Path(tempfile.mkdtemp(prefix="magnetis-examples-"))
    url = embedded.start(home, port=0)
    engine = connect(url)
    migrate(engine, catalogue)
    engine.dispose()
    calls_of_two_days.insert(url)
    yield url
    embedded.stop(home)
    shutil.rmtree(home)
