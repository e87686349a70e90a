"""A pytest plugin that fails a session with leftover processes, names their tests and ends them.

Every process of a session inherits a mark in its environment. The mark survives the death of its
parent, new sessions and new process groups (as in dev/children.py). pytest's own variable contains
the name of the running test.
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
"""Seconds for processes to end: a server that shuts down, a forkserver whose parent is gone."""
OWN = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
"""Python's own helpers, which end with the process that started them."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # A shell's background processes ignore Ctrl-C, and so would every process that a test starts
    # and interrupts. SIGTERM, as from `timeout`, would end pytest without its teardown.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if MARK not in os.environ:  # xdist's workers inherit it
        os.environ[MARK] = config.stash[_SESSION] = uuid.uuid4().hex


_SESSION = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Check for leftovers after all other teardown, including xdist's workers."""
    yield
    if (mark := session.config.stash.get(_SESSION, None)) is None:
        return
    left = wait_for_end(mark)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for process in left:
        reporter.write_line(f"Leftover process: {describe(process)}", red=True)
    end(left)
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def processes_of_session(mark: str) -> list[psutil.Process]:
    """Return the living processes of the session, without this one."""
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
    """Return the processes that still run after PATIENCE."""
    limit = time.monotonic() + PATIENCE
    while (left := processes_of_session(mark)) and time.monotonic() < limit:
        time.sleep(0.1)
    return left


def describe(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        test = process.environ().get("PYTEST_CURRENT_TEST", "no test, so a hook or an import")
        return f"pid {process.pid}, {' '.join(process.cmdline())[:200]!r}, started by {test}"
    return f"pid {process.pid}"


def end(processes: list[psutil.Process]) -> None:
    """End the processes with SIGINT, so that Dagster and PostgreSQL clean up."""
    for number in (signal.SIGINT, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, processes = psutil.wait_procs(processes, timeout=PATIENCE)
