"""A webserver and daemon of the real Dagster over a stand-in code location, and helpers to see processes."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import MARK

from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.dev.children import Children
from magnetis_dagster.dev.home import free_port

STAND_IN = """
from dagster import AssetMaterialization, BackfillPolicy, DailyPartitionsDefinition, Definitions, Failure, RetryPolicy, asset

DAYS = DailyPartitionsDefinition("2024-01-01")

def stand_in(name, fails_on=None, **options):
    key = ["magnetis", name]
    @asset(key=key, partitions_def=DAYS, backfill_policy=BackfillPolicy.single_run(), output_required=False, **options)
    def load(context):
        for day in context.partition_keys:
            if day == fails_on:
                raise Failure(f"{name}: the API said no on {day}.", metadata={"error": "KeyRefused", "page": 1})
            context.log_event(AssetMaterialization(key, partition=day, metadata={"rows": 7, "seconds": 1.5}))
        yield from ()  # a function that returns would log one materialization more for each day
    return load

defs = Definitions(assets=[
    stand_in("calls"),
    stand_in("visits"),
    stand_in("leads", fails_on="2024-01-02"),
    stand_in("emails", fails_on="2024-01-01", retry_policy=RetryPolicy(max_retries=1)),
])
"""

BROKEN = """
class NoKey(Exception): ...
raise NoKey("MAGNETIS_TIMEZONE: expected the name of a time zone.")
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Folder for a `magnetis dev`. Not under pytest's: the embedded server runs as another user where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="magnetis-dev-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real webserver with a daemon, over the code locations `stand_in` and `broken`."""
    folder = tmp_path_factory.mktemp("stand_in")
    (folder / "stand_in.py").write_text(STAND_IN)
    (folder / "broken.py").write_text(BROKEN)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}")
    port = free_port()
    children = Children(folder)
    command = [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "-d",
        str(folder),
        "-m",
        "stand_in",
        "-m",
        "broken",
        "-p",
        str(port),
    ]
    clean = {
        "DAGSTER_HOME": str(folder),
        "PYTHONPATH": str(folder),
        "PATH": "/usr/bin:/bin",
        MARK: os.environ[MARK],
    }
    children.start("dagster", command, clean)
    url = f"http://127.0.0.1:{port}"
    try:
        with DagsterApi(url, location="stand_in") as api:
            until(api.loaded, children)
        yield url
    finally:
        children.stop()


def until(ready, children: Children, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not ready():
        children.check()
        assert time.monotonic() < end, "not ready in time"
        time.sleep(0.1)
