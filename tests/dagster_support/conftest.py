"""The guarded webserver as a process, over a stand-in code location, with an instance of its own; and a Chromium."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from magnetis_dagster.dev.children import Children
from magnetis_dagster.dev.dagster_api import DagsterApi
from magnetis_dagster.dev.home import free_port

PROJECT = Path(__file__).parents[2]
EVIL, UI_NAME = "evil.example", "ui.company.test"
HOSTILE = (
    "![seen](http://evil.example/seen.png) [click](http://evil.example) <img src=http://evil.example/html.png> `x` ``y"
    " *bold* _it_ ~~gone~~ http://evil.example/auto www.evil.example a@evil.example &lt;b&gt; <!channel>"
    "\n\n# heading\n\n| a | b |\n|---|---|\n| ![c](http://evil.example/cell.png) | d |\n\n```\ncode\n```\n> quote"
)
"""Every construct of Markdown that loads, links or changes the shape of a text."""

STAND_IN = f"""
from dagster import *
from magnetis_dagster.defs.markdown import literal

text = literal({HOSTILE!r})
schema = TableSchema([TableColumn("title", "text", text)])

@asset(key=["magnetis", "calls"], description=text, metadata={{"dagster/column_schema": schema}},
       check_specs=[AssetCheckSpec("known", asset=["magnetis", "calls"], description=text)])
def calls():
    yield MaterializeResult(check_results=[AssetCheckResult(check_name="known", passed=False, description=text)])

@asset(key=["magnetis", "raw"], description="![seen](http://evil.example/raw.png)")
def raw(): ...

@op
def greet(context):
    context.log.info("greeting")

@job
def greetings():
    greet()

defs = Definitions(assets=[calls, raw], jobs=[greetings])
"""


@pytest.fixture(scope="session")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a guarded webserver on loopback, which is also opened as ui.company.test, fd00::1 and https://dagster.example.com."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "stand_in.py").write_text(STAND_IN)
    (folder / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\nnux: {enabled: false}\n"
        "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"  # no daemon runs here
    )
    port = free_port()
    children = Children(folder)
    command = [
        sys.executable,
        "-m",
        "magnetis_dagster.dagster_support.webserver",
        "-f",
        str(folder / "stand_in.py"),
        "-p",
        str(port),
    ]
    environment = {
        "DAGSTER_HOME": str(folder),
        "PYTHONPATH": str(PROJECT),
        "PATH": "/usr/bin:/bin",
        "MAGNETIS_UI_URL": "https://dagster.example.com/",
        "MAGNETIS_UI_HOSTS": f"{UI_NAME}, FD00::1",
    }
    children.start("webserver", command, environment)
    url = f"http://127.0.0.1:{port}"
    try:
        with DagsterApi(url, location="stand_in.py") as api:
            while not api.loaded():
                children.check()
                time.sleep(0.2)
        yield url
    finally:
        children.stop()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A Chromium in which evil.example and ui.company.test are this machine."""
    found = subprocess.run(
        [sys.executable, str(PROJECT / "tools" / "browser.py"), "--find"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, f"{found.stderr}\n`make browser` finds or installs one."
    rules = ", ".join(f"MAP {name} 127.0.0.1" for name in (EVIL, UI_NAME))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found.stdout.strip(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", f"--host-resolver-rules={rules}"],
        )
        yield browser
        browser.close()
