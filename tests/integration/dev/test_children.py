"""Child processes that ignore signals, are orphaned or die early."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from magnetis_dagster.dev import children as module
from magnetis_dagster.dev.children import MARK, ChildDied, Children

IGNORES_SIGNALS = """import signal, time
for n in (2, 15): signal.signal(n, signal.SIG_IGN)
print('deaf', flush=True)
time.sleep(300)"""
STOPS_ON_SIGNAL = "import time\nprint('polite', flush=True)\ntime.sleep(300)"


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    children = Children(tmp_path)
    yield children
    children.stop(lambda: True)


@pytest.fixture(autouse=True)
def _short_escalation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "ESCALATION", ((signal.SIGINT, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))
    )


def spawn(children: Children, code: str, *, lines: int = 1) -> module.Child:
    """Start Python code and wait for its output, by which it has set its handlers."""
    child = children.start("child", [sys.executable, "-c", code], dict(os.environ))
    wait_until(lambda: len(child.log.read_text().splitlines()) >= lines, "the child prints", 20)
    return child


def living(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


REAL_ESCALATION = module.ESCALATION


def test_the_escalation_starts_with_sigint_and_ends_with_sigkill() -> None:
    numbers = [number for number, _ in REAL_ESCALATION]
    assert numbers == [signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


def test_ctrl_c_in_the_terminal_does_not_reach_the_children(children: Children) -> None:
    child = spawn(children, STOPS_ON_SIGNAL)
    assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)


def test_grandchildren_that_ignore_signals_are_stopped(children: Children) -> None:
    child = spawn(
        children,
        "import subprocess, sys, time\n"
        f"for _ in range(2): subprocess.Popen([sys.executable, '-c', {IGNORES_SIGNALS!r}])\n"
        "time.sleep(300)",
        lines=2,
    )
    pids = [process.pid for process in child.descendants()]
    assert len(pids) == 3
    children.stop()
    assert living(pids) == []


def test_an_orphan_in_its_own_session_is_found(children: Children) -> None:
    child = spawn(
        children,
        "import subprocess, sys\nsubprocess.Popen("
        f"[sys.executable, '-c', {STOPS_ON_SIGNAL!r}], start_new_session=True)",
        lines=1,
    )
    child.process.wait(60)
    pids = [process.pid for process in child.descendants()]
    assert len(pids) == 1
    assert os.getpgid(pids[0]) != child.process.pid, "the test must use a process outside the group"
    children.stop()
    assert living(pids) == []


def test_processes_started_elsewhere_are_not_signalled(children: Children) -> None:
    spawn(children, STOPS_ON_SIGNAL)
    others = [
        subprocess.Popen(
            [sys.executable, "-c", STOPS_ON_SIGNAL],
            stdout=subprocess.DEVNULL,
            env={**os.environ, **mark},
        )
        for mark in ({}, {MARK: "dagster-of-another-dev"})
    ]
    try:
        children.stop()
        assert all(other.poll() is None for other in others)
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_processes_of_a_killed_predecessor_in_the_same_home_are_stopped(
    children: Children, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    others = Children(tmp_path / "other")
    other = spawn(others, STOPS_ON_SIGNAL)
    leftover = spawn(Children(tmp_path), IGNORES_SIGNALS)  # its Children object is gone
    try:
        assert children.stop_leftovers() == 1
        assert leftover.process.wait(60) == -signal.SIGKILL
        assert other.process.poll() is None
        assert children.stop_leftovers() == 0
    finally:
        others.stop()


def test_a_child_that_stops_on_sigint_is_not_killed(children: Children) -> None:
    child = spawn(
        children,
        "import time\nprint('ready', flush=True)\n"
        "try: time.sleep(300)\nexcept KeyboardInterrupt: print('goodbye', flush=True)",
    )
    children.stop()
    assert child.tail() == "ready\ngoodbye"
    assert child.process.returncode == 0


def test_a_child_that_loses_the_first_sigint_gets_another(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ESCALATION", (*module.ESCALATION[:1], *module.ESCALATION))
    child = spawn(
        children,
        "import time\nprint('ready', flush=True)\nfor word in ('swallowed', 'goodbye'):\n"
        "    try: time.sleep(300)\n    except KeyboardInterrupt: print(word, flush=True)",
    )
    children.stop()
    assert child.tail() == "ready\nswallowed\ngoodbye"
    assert child.process.returncode == 0


def test_children_react_to_sigint_if_a_shell_started_the_program_in_the_background(
    tmp_path: Path,
) -> None:
    """`StopSignals` sets a handler, so children do not inherit an ignored SIGINT."""
    command = [sys.executable, "-c", "import signal; print(signal.getsignal(2))"]
    code = f"""
import sys
from pathlib import Path
from magnetis_dagster.dev.children import Children
from magnetis_dagster.dev.signals import StopSignals
with StopSignals():
    child = Children(Path({str(tmp_path)!r})).start("child", {command!r}, {{}})
    child.process.wait()
"""
    background = (
        "import signal, os, sys; signal.signal(2, signal.SIG_IGN); "
        f"os.execv(sys.executable, [sys.executable, '-c', {code!r}])"
    )
    subprocess.run([sys.executable, "-c", background], check=True)
    assert "default_int_handler" in (tmp_path / "logs" / "child.log").read_text()


def test_an_urgent_stop_kills_immediately(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "ESCALATION", ((signal.SIGINT, 60.0), (signal.SIGTERM, 60.0), (signal.SIGKILL, 5.0))
    )
    child = spawn(children, IGNORES_SIGNALS)
    started = time.monotonic()
    children.stop(lambda: time.monotonic() - started > 0.5)
    assert living([child.process.pid]) == []
    assert time.monotonic() - started < 60, "it waited for a signal of ESCALATION"


def test_children_are_stopped_in_reverse_order(children: Children, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import time\nprint('up', flush=True)\ntry: time.sleep(300)\n"
        "except KeyboardInterrupt: open({!r}, 'a').write('{}')"
    )
    spawn(children, code.format(str(log), "sandbox "))
    spawn(children, code.format(str(log), "dagster "))
    children.stop()
    assert log.read_text() == "dagster sandbox "


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(children: Children) -> None:
    child = spawn(
        children, "print('\\x1b[31mno space left\\x1b[0m', flush=True); raise SystemExit(7)"
    )
    child.process.wait(60)
    with pytest.raises(
        ChildDied, match=r"child ended unexpectedly \(exit code 7\)[^\x1b]*\nno space left$"
    ):
        children.check()


def test_living_children_pass_the_check(children: Children) -> None:
    spawn(children, STOPS_ON_SIGNAL)
    children.check()


def test_the_log_of_the_previous_start_is_kept(children: Children, tmp_path: Path) -> None:
    for word in ("first", "second", "third"):
        spawn(children, f"print({word!r}, flush=True)")
    assert (tmp_path / "logs" / "child.log").read_text() == "third\n"
    assert (tmp_path / "logs" / "child.log.1").read_text() == "second\n"
