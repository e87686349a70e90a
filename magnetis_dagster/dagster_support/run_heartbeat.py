"""Heartbeats of runs: each worker updates a row in Dagster's key-value table while it is alive.

A silent worker is declared dead with a compare-and-set on that row. If it resumes, its next
heartbeat finds the mark, and the process ends itself. Until a heartbeat has succeeded, it sends no
request (`Heartbeat.confirm`). Statements need no session state, so they work through PgBouncer.
See docs/decisions/0022-run-heartbeats.md.

https://docs.dagster.io/deployment/execution/run-monitoring
"""

import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from dagster import DagsterRunStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from sqlalchemy import Engine, text

from magnetis_dagster.clocks import Moment
from magnetis_dagster.database import guarded
from magnetis_dagster.errors import MagnetisError, PermanentError

SCHEMA = "dagster"
BEAT_SECONDS = 3.0
"""Interval of heartbeats; a run notices its cancellation within this time."""
LEASE_SECONDS = 15.0
"""A worker whose last heartbeat is older sends no request before the next heartbeat succeeds."""
SILENCE_SECONDS = 30.0
"""A worker without a heartbeat for this long, above LEASE_SECONDS, is silent. Run monitoring must
observe that twice (run_launcher.py)."""
CLOCK_SECONDS = 5.0
"""Tolerance for the start time of a process, because clocks are corrected."""
GRACE_SECONDS = 60.0
"""A process whose run was ended from outside is interrupted, and killed after this time."""

DEAD = "dead"
"""Value of the row of a worker that was declared dead."""
_NOW = (
    "json_build_object('at', extract(epoch FROM clock_timestamp()), "
    "'machine', CAST(:machine AS text), "
    "'pid', CAST(:pid AS int), 'started', CAST(:started AS float8))::text"
)
_BEGIN = text(
    f"INSERT INTO {SCHEMA}.kvs (key, value) VALUES (:key, {_NOW}) "  # noqa: S608 - constants
    "ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
)
_BEAT = text(
    f"UPDATE {SCHEMA}.kvs SET value = {_NOW} WHERE key = :key AND value <> '{DEAD}' "  # noqa: S608 - constants
    f"RETURNING (SELECT status FROM {SCHEMA}.runs WHERE run_id = :run)"
)

_log = logging.getLogger(__name__)


class RunEnded(PermanentError):
    """The run of this process was ended from outside; another run may do its work."""


def heartbeat_key(run_id: str) -> str:
    """Return the key of the run's row."""
    return f"magnetis/heartbeat/{run_id}"


def machine() -> str:
    """Return host, boot and pid namespace, equal for processes that see each other's pids."""
    parts = [socket.gethostname()]
    for path, read in (
        ("/proc/sys/kernel/random/boot_id", Path.read_text),
        ("/proc/self/ns/pid", os.readlink),
    ):
        with suppress(OSError):  # Linux only
            parts.append(str(read(Path(path))).strip())
    return " ".join(parts)


@dataclass(frozen=True, slots=True)
class LastBeat:
    """The last heartbeat of a run, read by another process."""

    written: str
    """The row's value, for `declare_dead`."""
    age: float
    """Seconds, by the database's clock."""
    dead: bool = False
    """Whether the worker was declared dead."""
    machine: str = ""
    pid: int = 0
    started: float = 0.0
    """Start time of the process, by its machine's clock."""

    def process_lives(self) -> bool | None:
        """Return whether its process exists; None for another machine or a changed clock."""
        if self.machine != machine():
            return None
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            # otherwise the pid was reused or the clock was set: the heartbeat decides
            return True if abs(process.create_time() - self.started) < CLOCK_SECONDS else None
        except psutil.NoSuchProcess:
            return False


class Heartbeat:
    """The heartbeat of a run that this process executes. Thread-safe."""

    def __init__(self, engine: Engine, run_id: str) -> None:
        self.run_id = run_id
        self._engine = engine
        process = psutil.Process()
        self._parameters = {
            "key": heartbeat_key(run_id),
            "run": run_id,
            "machine": machine(),
            "pid": process.pid,
            "started": process.create_time(),
        }
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._confirmed = Moment(0.0, 0.0)
        self._ended_at: Moment | None = None
        self._interrupted = False

    def start(self) -> None:
        """Write the first heartbeat, and start the thread for the others.

        Raises: DatabaseUnavailable; DatabaseRefused.
        """
        before = Moment.now()
        with (
            guarded(self._engine, "write the heartbeat of a run"),
            self._engine.begin() as connection,
        ):
            connection.execute(_BEGIN, self._parameters)
        self._confirmed = before
        threading.Thread(target=self._beat_until_stopped, name="run-heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Stop before the run's end is written, and wait for a heartbeat that is in flight."""
        self._stopped.set()
        with self._lock:
            pass

    def is_fresh(self) -> bool:
        """Return whether a request may be sent without a new heartbeat."""
        age = self._confirmed.seconds_until(Moment.now())
        return self._ended_at is None and age < LEASE_SECONDS

    def confirm(self) -> None:
        """Send a heartbeat now.

        Raises: RunEnded if the run was ended from outside; DatabaseUnavailable; DatabaseRefused.
        """
        with self._lock:
            self._beat()
        if self._ended_at is not None:
            raise RunEnded(
                "This run was ended from outside: its worker sent no heartbeat and was declared "
                "dead, or somebody ended the run. This process sends no further request and ends; "
                "another run may do its work."
            )

    def _beat_until_stopped(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            with self._lock:
                if self._stopped.is_set():
                    return
                try:
                    status = self._beat()
                except MagnetisError as error:
                    _log.warning("%s", error)
                    continue  # the next heartbeat may succeed; until then, no request is sent
                if status is DagsterRunStatus.CANCELING or self._ended_at is not None:
                    self._end_process()

    def _beat(self) -> DagsterRunStatus | None:
        before = Moment.now()
        with (
            guarded(self._engine, "write the heartbeat of a run"),
            self._engine.begin() as connection,
        ):
            row = connection.execute(_BEAT, self._parameters).one_or_none()
        status = DagsterRunStatus(row[0]) if row and row[0] else None
        if status is None or status in FINISHED_STATUSES:
            self._ended_at = self._ended_at or Moment.now()
        else:
            self._confirmed = before
        return status

    def _end_process(self) -> None:
        if not self._interrupted:
            # like Dagster's code server; the run ends as CANCELED if somebody canceled it
            _log.warning("Run %s was ended or is being canceled: interrupting it.", self.run_id)
            self._interrupted = True
            os.kill(os.getpid(), signal.SIGINT)
        elif (
            self._ended_at is not None
            and self._ended_at.seconds_until(Moment.now()) > GRACE_SECONDS
        ):
            _log.error(
                "The process of run %s has not ended within %d s: killing it.",
                self.run_id,
                GRACE_SECONDS,
            )
            os.kill(os.getpid(), signal.SIGKILL)
