"""Start child processes with log files, and stop them with all descendants.

Descendants inherit a mark in their environment, which survives the death of their parent and new
sessions or groups.
"""

import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from magnetis_dagster.errors import TransientError
from magnetis_dagster.private_files import private_folder

MARK = "MAGNETIS_DEV_CHILD"
"""Environment variable that marks descendants."""

ESCALATION = (
    (signal.SIGINT, 4.0),
    (signal.SIGINT, 4.0),
    (signal.SIGTERM, 4.0),
    (signal.SIGKILL, 5.0),
)
"""Signals in order, and the seconds to wait after each. Dagster's processes end on SIGINT within 1
to 4 s. One that is still importing may lose the signal, so it is sent twice."""

_RUN_WORKER = "spawn_main"
"""Occurs in the command line of Dagster's run processes, which use multiprocessing."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ChildDied(TransientError):
    """A required program ended unexpectedly; the text contains the end of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """A program that was started."""

    name: str
    process: "subprocess.Popen[bytes]"
    mark: str
    log: Path

    def descendants(self) -> list[psutil.Process]:
        """Return the living processes of this program, including itself."""
        self.process.poll()  # reap it, so that it does not count as living
        return _find_marked(self.mark)

    def tail(self) -> str:
        """Return the last 15 lines of the log, without colours."""
        text = self.log.read_text(errors="replace")[-20_000:]
        return "\n".join(_COLOURS.sub("", text).splitlines()[-15:])


class Children:
    """The programs of one `magnetis dev`, in start order, with logs in `<home>/logs`."""

    def __init__(self, home: Path) -> None:
        self.logs = home / "logs"
        self._mark = f"{home}:"
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a program that logs to `<name>.log`; keep the previous log as `.1`."""
        private_folder(self.logs)
        log = self.logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        mark = f"{self._mark}{name}-{uuid.uuid4().hex}"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - commands are ours
                command,
                env={**environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # the terminal's Ctrl-C reaches only this process, which stops the others in order
                process_group=0,
            )
        child = Child(name, process, mark, log)
        self._children.append(child)
        return child

    @property
    def any_started(self) -> bool:
        """Whether any program is running."""
        return bool(self._children)

    def check(self) -> None:
        """Raise ChildDied if a program ended unexpectedly."""
        for child in self._children:
            if (code := child.process.poll()) is not None:
                raise ChildDied(
                    f"{child.name} ended unexpectedly (exit code {code}). The end of {child.log}:\n"
                    f"{child.tail()}"
                )

    def stop(self, is_urgent: Callable[[], bool] = lambda: False) -> None:
        """Stop all programs and their descendants, last started first; with SIGKILL if urgent."""
        for child in reversed(self._children):
            _stop(child.descendants, is_urgent)
            # reap a program that ended after the last poll
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(1)
        self._children.clear()

    def stop_leftovers(self, is_urgent: Callable[[], bool] = lambda: False) -> int:
        """Stop the processes of a killed `magnetis dev` in this (locked) home; return how many."""
        leftovers = _find_marked(self._mark)
        if leftovers:
            _stop(lambda: _find_marked(self._mark), is_urgent)
        return len(leftovers)


def _find_marked(mark: str) -> list[psutil.Process]:
    """Return the living processes whose mark starts with `mark`."""
    return [
        each
        for each in psutil.process_iter(["environ", "status"])
        # environ is None for processes of other users
        if (each.info["environ"] or {}).get(MARK, "").startswith(mark)
        and each.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _executes_a_run(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(_RUN_WORKER in part for part in process.cmdline())
    return False


def _stop(descendants: Callable[[], list[psutil.Process]], is_urgent: Callable[[], bool]) -> None:
    # An interrupted run fails permanently, and so does its backfill. A killed run resumes at the
    # next start (dagster_support/orphaned_runs.py).
    runs = any(map(_executes_a_run, descendants()))
    for number, seconds in ESCALATION[-1:] if runs else ESCALATION:
        last = number == signal.SIGKILL
        end = time.monotonic() + seconds
        for process in [] if is_urgent() and not last else descendants():
            # psutil compares start times, so a reused pid is safe
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        while time.monotonic() < end and (last or not is_urgent()):
            if not descendants():
                return
            time.sleep(0.1)
