"""The real thing: `magnetis dev` as a process, with the real webserver, daemon, code server, run workers and PostgreSQL."""

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
    # not under pytest's folder: the embedded server runs as another user where we are root
    parent = Path(tempfile.mkdtemp(prefix="magnetis-e2e-"))
    start, clean_up = starter(parent / "home")
    yield start
    clean_up()
    shutil.rmtree(parent)
