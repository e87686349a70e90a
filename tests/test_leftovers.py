"""`make test` leaves no process behind, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from leftovers import MARK

LEAKS = """
import subprocess, sys, time
from pathlib import Path

def test_leaks():
    code = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    (Path(__file__).parent / "pid").write_text(str(process.pid))
    time.sleep({seconds})
"""


def session(folder: Path, seconds: float, *options: str) -> "subprocess.Popen[str]":
    """Start a session of pytest whose only test leaks a process."""
    (folder / "test_leaking.py").write_text(LEAKS.format(seconds=seconds))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != MARK and not name.startswith("PYTEST")
    }
    environment["PYTHONPATH"] = str(Path(__file__).parent)
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


def leaked(folder: Path) -> psutil.Process | None:
    pid = folder / "pid"
    with_text = pid.read_text() if pid.exists() else ""
    return (
        psutil.Process(int(with_text)) if with_text and psutil.pid_exists(int(with_text)) else None
    )


def test_a_session_that_leaves_a_process_behind_fails_and_names_the_test(tmp_path: Path) -> None:
    process = session(tmp_path, 0)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "1 passed" in output
    assert "Leftover process: pid " in output
    assert "started by test_leaking.py::test_leaks (call)" in output
    assert leaked(tmp_path) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_session_that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As `timeout` and a terminal do it to the whole group, and `kill` to the first process alone."""
    process = session(tmp_path, 600, "-n", "1")
    end = time.monotonic() + 120
    while not (found := leaked(tmp_path)):
        assert time.monotonic() < end
        time.sleep(0.05)
    family = [found, *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    _, alive = psutil.wait_procs(family, timeout=1)
    assert alive == []
