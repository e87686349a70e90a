"""A pytest plugin: a session that leaves a process behind fails, names the test that started it, and ends it.

Everything that a session starts inherits a mark in its environment, which survives the death of its parent, new sessions and new
groups (as in dev/children.py), and pytest's own variable with the name of the running test.
"""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

MARK = "TESTS_SESSION"
PATIENCE = 10.0
"""Seconds in which what was told to end has ended: a server that shuts down, a forkserver whose parent is gone."""
OWN = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
"""Helpers of Python's that end with the process that started them."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # a shell has what it starts in the background ignore Ctrl-C, and so would every process that a test starts and interrupts;
    # SIGTERM, as from `timeout`, would end pytest without tearing anything down
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if MARK not in os.environ:  # xdist's workers inherit it
        os.environ[MARK] = config.stash[_SESSION] = uuid.uuid4().hex


_SESSION = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Look once everything else is torn down, xdist's workers included."""
    yield
    if (mark := session.config.stash.get(_SESSION, None)) is None:
        return
    left = wait_for_end(mark)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for process in left:
        reporter.write_line(f"Left behind: {describe(process)}", red=True)
    end(left)
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes of the session, but itself."""
    found = []
    for process in psutil.process_iter(["environ", "status", "cmdline", "ppid"]):
        info = process.info
        if (
            (info["environ"] or {}).get(MARK) != mark
            or info["status"] == psutil.STATUS_ZOMBIE
            or process.pid == os.getpid()
        ):
            continue
        own = info["ppid"] == os.getpid() and any(
            name in " ".join(info["cmdline"] or []) for name in OWN
        )
        if not own:
            found.append(process)
    return found


def wait_for_end(mark: str) -> list[psutil.Process]:
    """Return what still runs after PATIENCE."""
    limit = time.monotonic() + PATIENCE
    while (left := marked(mark)) and time.monotonic() < limit:
        time.sleep(0.1)
    return left


def describe(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        test = process.environ().get("PYTEST_CURRENT_TEST", "no test, so a hook or an import")
        return f"pid {process.pid}, {' '.join(process.cmdline())[:200]!r}, started by {test}"
    return f"pid {process.pid}"


def end(processes: list[psutil.Process]) -> None:
    """End them: Dagster and PostgreSQL clean up on SIGINT."""
    for number in (signal.SIGINT, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, processes = psutil.wait_procs(processes, timeout=PATIENCE)
