"""The guarded webserver as a process with a stand-in code location, and a Chromium."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from guarded import EVIL, STAND_IN, UI_NAME
from paths import ROOT
from playwright.sync_api import Browser, sync_playwright

from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.dev.children import Children
from magnetis_dagster.dev.home import free_port


@pytest.fixture(scope="session")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a guarded webserver on loopback.

    It also has the names ui.company.test, fd00::1 and https://dagster.example.com.
    """
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "stand_in.py").write_text(STAND_IN)
    (folder / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\nnux: {enabled: false}\n"
        # no daemon runs here
        "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
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
        "PYTHONPATH": str(ROOT),
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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start a Chromium in which evil.example and ui.company.test are this machine."""
    found = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "browser.py"), "--find"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, f"{found.stderr}\n`make browser` finds or installs one."
    rules = ", ".join(f"MAP {name} 127.0.0.1" for name in (EVIL, UI_NAME))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found.stdout.strip(),
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                f"--host-resolver-rules={rules}",
            ],
        )
        yield browser
        browser.close()
