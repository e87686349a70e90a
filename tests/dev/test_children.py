"""Real processes of the unpleasant kinds: deaf to signals, orphaned, in sessions of their own, dead early."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from magnetis_dagster.dev import children as module
from magnetis_dagster.dev.children import MARK, ChildDied, Children

DEAF = "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(300)"
POLITE = "import time\nprint('polite', flush=True)\ntime.sleep(300)"


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    children = Children(tmp_path)
    yield children
    children.stop(lambda: True)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "ESCALATION", ((signal.SIGINT, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0))
    )


def spawn(children: Children, code: str, *, lines: int = 1) -> module.Child:
    """Start Python code and wait until it has said so many lines: its handlers are in place then."""
    child = children.start("child", [sys.executable, "-c", code], dict(os.environ))
    end = time.monotonic() + 20
    while len(child.log.read_text().splitlines()) < lines:
        assert time.monotonic() < end
        time.sleep(0.02)
    return child


def living(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


REAL_ESCALATION = module.ESCALATION


def test_it_begins_with_what_dagster_takes_and_ends_with_what_nothing_survives() -> None:
    numbers = [number for number, _ in REAL_ESCALATION]
    assert numbers == [signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


def test_a_ctrl_c_of_the_terminal_does_not_reach_the_children(children: Children) -> None:
    child = spawn(children, POLITE)
    assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)


def test_grandchildren_that_ignore_signals_do_not_outlive_the_stop(children: Children) -> None:
    child = spawn(
        children,
        f"import subprocess, sys, time\nfor _ in range(2): subprocess.Popen([sys.executable, '-c', {DEAF!r}])\ntime.sleep(300)",
        lines=2,
    )
    pids = [process.pid for process in child.family()]
    assert len(pids) == 3
    children.stop()
    assert living(pids) == []


def test_an_orphan_in_a_session_of_its_own_is_found(children: Children) -> None:
    child = spawn(
        children,
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {POLITE!r}], start_new_session=True)",
        lines=1,
    )
    child.process.wait(10)
    pids = [process.pid for process in child.family()]
    assert len(pids) == 1
    assert os.getpgid(pids[0]) != child.process.pid, "the test must use a process outside the group"
    children.stop()
    assert living(pids) == []


def test_what_was_not_started_here_is_left_alone(children: Children) -> None:
    spawn(children, POLITE)
    others = [
        subprocess.Popen(
            [sys.executable, "-c", POLITE], stdout=subprocess.DEVNULL, env={**os.environ, **mark}
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


def test_what_a_killed_predecessor_of_the_same_home_left_is_ended(
    children: Children, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    others = Children(tmp_path / "other")
    other = spawn(others, POLITE)
    left = spawn(Children(tmp_path), DEAF)  # nobody will stop that one: its Children is gone
    try:
        assert children.stop_leftovers() == 1
        assert left.process.wait(5) == -signal.SIGKILL
        assert other.process.poll() is None
        assert children.stop_leftovers() == 0
    finally:
        others.stop()


def test_a_polite_child_gets_sigint_first_and_is_not_killed(children: Children) -> None:
    child = spawn(
        children,
        "import time\nprint('ready', flush=True)\ntry: time.sleep(300)\nexcept KeyboardInterrupt: print('goodbye', flush=True)",
    )
    children.stop()
    assert child.tail() == "ready\ngoodbye"
    assert child.process.returncode == 0


def test_a_child_that_swallows_its_first_sigint_is_asked_again(
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


def test_children_hear_sigint_though_a_shell_started_us_in_the_background(tmp_path: Path) -> None:
    """A background job inherits SIGINT ignored; `StopSignals` sets a handler, and so the children get the default back."""
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
    ignored = f"import signal, os, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.executable, [sys.executable, '-c', {code!r}])"
    subprocess.run([sys.executable, "-c", ignored], check=True)
    assert "default_int_handler" in (tmp_path / "logs" / "child.log").read_text()


def test_losing_patience_kills_at_once(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "ESCALATION", ((signal.SIGINT, 60.0), (signal.SIGTERM, 60.0), (signal.SIGKILL, 5.0))
    )
    child = spawn(children, DEAF)
    started = time.monotonic()
    children.stop(lambda: time.monotonic() - started > 0.5)
    assert living([child.process.pid]) == []
    assert time.monotonic() - started < 5


def test_last_started_is_stopped_first(children: Children, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    code = "import time\nprint('up', flush=True)\ntry: time.sleep(300)\nexcept KeyboardInterrupt: open({!r}, 'a').write('{}')"
    spawn(children, code.format(str(diary), "sandbox "))
    spawn(children, code.format(str(diary), "dagster "))
    children.stop()
    assert diary.read_text() == "dagster sandbox "


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(children: Children) -> None:
    child = spawn(
        children, "print('\\x1b[31mno space left\\x1b[0m', flush=True); raise SystemExit(7)"
    )
    child.process.wait(10)
    with pytest.raises(
        ChildDied, match=r"child ended by itself \(exit code 7\)[^\x1b]*\nno space left$"
    ):
        children.check()


def test_living_children_pass_the_check(children: Children) -> None:
    spawn(children, POLITE)
    children.check()


def test_the_log_of_the_start_before_is_kept(children: Children, tmp_path: Path) -> None:
    for word in ("first", "second", "third"):
        spawn(children, f"print({word!r}, flush=True)")
    assert (tmp_path / "logs" / "child.log").read_text() == "third\n"
    assert (tmp_path / "logs" / "child.log.1").read_text() == "second\n"
