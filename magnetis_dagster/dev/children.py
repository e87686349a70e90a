"""Child processes: started in groups of their own with a log file each, watched, and stopped to the last descendant.

A descendant is known by a mark in its environment, which survives the death of its parent, new sessions and new groups. So
nothing that was not started here is ever signalled, and nothing that was started here is forgotten.
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
"""Environment variable by which descendants are known."""

ESCALATION = (
    (signal.SIGINT, 4.0),
    (signal.SIGINT, 4.0),
    (signal.SIGTERM, 4.0),
    (signal.SIGKILL, 5.0),
)
"""Signals in the order sent, and seconds waited after each. Dagster ends its runs and code servers on SIGINT, in 1 to 4 s; one that
is still importing may swallow it (a code server then lives on for 30 s), which is why it is sent again, and why there is a next."""

_RUN_WORKER = "spawn_main"
"""In the command line of the processes in which Dagster executes runs: children of a code server, made by multiprocessing."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ChildDied(TransientError):
    """A program that must keep running ended by itself; the text shows the end of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """One started program."""

    name: str
    process: "subprocess.Popen[bytes]"
    mark: str
    log: Path

    def family(self) -> list[psutil.Process]:
        """Return the living processes that descend from this start, itself included."""
        self.process.poll()  # reaps it, or it would be counted as living
        return _marked(self.mark)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log, without colours."""
        text = self.log.read_text(errors="replace")[-20_000:]
        return "\n".join(_COLOURS.sub("", text).splitlines()[-lines:])


class Children:
    """The programs of one `magnetis dev`, in the order of their start. Their logs are under `<home>/logs`."""

    def __init__(self, home: Path) -> None:
        self.logs = home / "logs"
        self._mark = f"{home}:"
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a program; its output goes to `<home>/logs/<name>.log`, and the log of the start before is kept as `.1`."""
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
                process_group=0,  # a Ctrl-C of the terminal reaches us alone, and we stop the others in order
            )
        child = Child(name, process, mark, log)
        self._children.append(child)
        return child

    @property
    def started(self) -> bool:
        """Whether there is anything to stop."""
        return bool(self._children)

    def check(self) -> None:
        """Raise ChildDied where a program ended by itself."""
        for child in self._children:
            if (code := child.process.poll()) is not None:
                raise ChildDied(
                    f"{child.name} ended by itself (exit code {code}). The end of {child.log}:\n{child.tail()}"
                )

    def stop(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """Stop all, last started first, each with all descendants. Sends SIGKILL at once when `hurried()` turns true."""
        for child in reversed(self._children):
            _stop(child.family, hurried)
            with suppress(
                subprocess.TimeoutExpired
            ):  # it may have ended only after family() looked, and be a zombie until now
                child.process.wait(1)
        self._children.clear()

    def stop_leftovers(self, hurried: Callable[[], bool] = lambda: False) -> int:
        """Stop what a killed `magnetis dev` of this home left, and return how many processes. Only for who holds the home."""
        left = _marked(self._mark)
        if left:
            _stop(lambda: _marked(self._mark), hurried)
        return len(left)


def _marked(mark: str) -> list[psutil.Process]:
    """Return the living processes whose mark begins so."""
    return [
        process
        for process in psutil.process_iter(["environ", "status"])
        # environ is None where it is not ours to read: not ours to signal either
        if (process.info["environ"] or {}).get(MARK, "").startswith(mark)
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _executes_a_run(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(_RUN_WORKER in part for part in process.cmdline())
    return False


def _stop(family: Callable[[], list[psutil.Process]], hurried: Callable[[], bool]) -> None:
    # interrupted, a run fails for good, and its backfill with it; broken off, it goes on at the next start (dagster_support/orphaned_runs.py)
    abrupt = any(map(_executes_a_run, family()))
    for number, patience in ESCALATION[-1:] if abrupt else ESCALATION:
        last = number == signal.SIGKILL
        end = time.monotonic() + patience
        for process in [] if hurried() and not last else family():
            with suppress(
                psutil.NoSuchProcess
            ):  # psutil compares start times, so a reused pid is never hit
                process.send_signal(number)
        while time.monotonic() < end and (last or not hurried()):
            if not family():
                return
            time.sleep(0.1)
