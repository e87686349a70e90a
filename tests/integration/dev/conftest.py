"""A real Dagster webserver and daemon with a fake code location."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from leftovers import MARK
from waiting import wait_until

from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.dev.children import Children
from magnetis_dagster.dev.home import free_port

STAND_IN = """
from dagster import AssetMaterialization, BackfillPolicy, DailyPartitionsDefinition, Definitions
from dagster import Failure, RetryPolicy, asset, in_process_executor

DAYS = DailyPartitionsDefinition("2024-01-01")

def stand_in(name, fails_on=None, prefix=("magnetis",), **options):
    key = [*prefix, name]
    @asset(key=key, partitions_def=DAYS, output_required=False,
           backfill_policy=BackfillPolicy.single_run(), **options)
    def load(context):
        for day in context.partition_keys:
            if day == fails_on:
                metadata = {"error": "KeyRefused", "page": 1}
                raise Failure(f"{name}: the API said no on {day}.", metadata=metadata)
            metadata = {"rows": 7, "seconds": 1.5}
            context.log_event(AssetMaterialization(key, partition=day, metadata=metadata))
        yield from ()  # a `return` would log a second materialization of each day
    return load

defs = Definitions(assets=[
    stand_in("calls"),
    stand_in("visits"),
    stand_in("leads", fails_on="2024-01-02"),
    stand_in("calls", fails_on="2024-01-03", prefix=("magnetis", "nord")),
    stand_in("emails", fails_on="2024-01-01", retry_policy=RetryPolicy(max_retries=1)),
], executor=in_process_executor)
"""

BROKEN = """
class NoKey(Exception): ...
raise NoKey("MAGNETIS_TIMEZONE: expected the name of a time zone.")
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a folder for a `magnetis dev`.

    It is outside pytest's folder: if the tests run as root, the server runs as another user.
    """
    folder = Path(tempfile.mkdtemp(prefix="magnetis-dev-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a webserver with the locations `stand_in` and `broken`."""
    folder = tmp_path_factory.mktemp("stand_in")
    (folder / "stand_in.py").write_text(STAND_IN)
    (folder / "broken.py").write_text(BROKEN)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}")
    port = free_port()
    children = Children(folder)
    options = f"-d {folder} -m stand_in -m broken -p {port}".split()
    command = [sys.executable, "-m", "dagster", "dev", *options]
    environment = {
        "DAGSTER_HOME": str(folder),
        "PYTHONPATH": str(folder),
        "PATH": "/usr/bin:/bin",
        MARK: os.environ[MARK],
    }
    children.start("dagster", command, environment)
    url = f"http://127.0.0.1:{port}"
    try:
        with DagsterApi(url, location="stand_in") as api:
            wait_until(api.loaded, "Dagster has loaded", on_poll=children.check)
        yield url
    finally:
        children.stop()
