"""`make test` leaves no process running, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from leftovers import MARK
from paths import ROOT
from waiting import wait_until

LEAKS = """
import subprocess, sys, time
from pathlib import Path

def test_leaks():
    code = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    (Path(__file__).parent / "pid").write_text(str(process.pid))
    time.sleep({seconds})
"""


def start_session(folder: Path, seconds: float, *options: str) -> "subprocess.Popen[str]":
    """Start a pytest session with one test that leaks a process."""
    (folder / "test_leaking.py").write_text(LEAKS.format(seconds=seconds))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != MARK and not name.startswith("PYTEST")
    }
    environment["PYTHONPATH"] = str(ROOT / "tests")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "leftovers",
        "-p",
        "no:cacheprovider",
        *options,
        str(folder),
    ]
    return subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def leaked_process(folder: Path) -> psutil.Process | None:
    pid = folder / "pid"
    text = pid.read_text() if pid.exists() else ""
    return psutil.Process(int(text)) if text and psutil.pid_exists(int(text)) else None


def test_a_session_with_a_leaked_process_fails_and_names_the_test(tmp_path: Path) -> None:
    process = start_session(tmp_path, 0)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "1 passed" in output
    assert "Leftover process: pid " in output
    assert "started by test_leaking.py::test_leaks (call)" in output
    assert leaked_process(tmp_path) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_session_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """`timeout` signals the process group; `kill` signals the first process."""
    process = start_session(tmp_path, 600, "-n", "1")
    wait_until(lambda: leaked_process(tmp_path) is not None, "the test leaks a process", 120)
    leaked = leaked_process(tmp_path)
    assert leaked
    family = [leaked, *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    _, alive = psutil.wait_procs(family, timeout=1)
    assert alive == []
