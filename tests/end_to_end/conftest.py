"""`magnetis dev` as a process with Dagster's real processes and PostgreSQL."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Start, starter


@pytest.fixture(scope="module")
def module_start() -> Iterator[Start]:
    yield from _starts()


@pytest.fixture
def start() -> Iterator[Start]:
    yield from _starts()


def _starts() -> Iterator[Start]:
    # outside pytest's folder: if the tests run as root, the server runs as another user
    parent = Path(tempfile.mkdtemp(prefix="magnetis-e2e-"))
    start, clean_up = starter(parent / "home")
    yield start
    clean_up()
    shutil.rmtree(parent)
