"""Heartbeats of runs: each worker refreshes a row of Dagster's database, so its health needs no code server.

A code server is a poor witness: *Reload definitions* starts a new one, and the old one keeps its
runs until they end. The heartbeat is a row of Dagster's own key-value table, timed by the database and
written in statements that need no session: it works through PgBouncer and survives a restart of the
database.

A worker that falls silent is declared dead with a compare-and-set on that row. If it wakes up (a
suspended laptop, SIGSTOP), its next heartbeat finds the mark, and it ends itself. Until a heartbeat
has succeeded again, it sends no request (`Heartbeat.confirm`).

https://docs.dagster.io/deployment/execution/run-monitoring
"""

import json
import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster_postgres import PostgresRunStorage
from sqlalchemy import Engine, text

from magnetis_dagster.clocks import Moment
from magnetis_dagster.database import guarded
from magnetis_dagster.errors import MagnetisError, PermanentError
from magnetis_dagster.settings import Settings

SCHEMA = "dagster"
BEAT_SECONDS = 3.0
"""Between two heartbeats; also the time after which a run sees that somebody cancels it."""
LEASE_SECONDS = 15.0
"""A worker whose last heartbeat is older sends no request before the next one succeeds. Below SILENCE_SECONDS."""
SILENCE_SECONDS = 30.0
"""A worker without a heartbeat for this long is silent. Run monitoring must see that twice (run_launcher.py)."""
CLOCK_SECONDS = 5.0
"""The start of a process may seem to move by this much, as clocks are corrected."""
GRACE_SECONDS = 60.0
"""A process whose run has ended elsewhere gets this long to end after it was interrupted; then it is killed."""

_DEAD = "dead"
_ENDED = {
    DagsterEventType.PIPELINE_SUCCESS,
    DagsterEventType.PIPELINE_FAILURE,
    DagsterEventType.PIPELINE_CANCELED,
}
_NOW = (
    "json_build_object('at', extract(epoch FROM clock_timestamp()), 'machine', CAST(:machine AS text), "
    "'pid', CAST(:pid AS int), 'started', CAST(:started AS float8))::text"
)
_BEGIN = text(
    f"INSERT INTO {SCHEMA}.kvs (key, value) VALUES (:key, {_NOW}) "  # noqa: S608 - constants
    "ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
)
_BEAT = text(
    f"UPDATE {SCHEMA}.kvs SET value = {_NOW} WHERE key = :key AND value <> '{_DEAD}' "  # noqa: S608 - constants
    f"RETURNING (SELECT status FROM {SCHEMA}.runs WHERE run_id = :run)"
)
_LAST = text(
    f"SELECT value, extract(epoch FROM clock_timestamp())::float8 FROM {SCHEMA}.kvs WHERE key = :key"  # noqa: S608 - constants
)
_DECLARE_DEAD = text(
    f"UPDATE {SCHEMA}.kvs SET value = '{_DEAD}' WHERE key = :key AND value IN (:seen, '{_DEAD}')"  # noqa: S608 - constants
)
_FORGET = text(f"DELETE FROM {SCHEMA}.kvs WHERE key = :key")  # noqa: S608 - constants

_log = logging.getLogger(__name__)


class RunEnded(PermanentError):
    """The run of this process was ended from outside, so another run may do its work: nothing more may be requested."""


def _key(run_id: str) -> str:
    return f"magnetis/heartbeat/{run_id}"


def machine() -> str:
    """Return what processes share exactly if they see each other's pids: host, boot and pid namespace."""
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
    """The last heartbeat of a run, as another process finds it."""

    written: str
    """The row's value, for `declare_dead`."""
    age: float
    """Seconds, by the database's clock."""
    dead: bool = False
    """Whether the worker was declared dead."""
    machine: str = ""
    pid: int = 0
    started: float = 0.0
    """When the process started, by its machine's clock."""

    def process_lives(self) -> bool | None:
        """Return whether its process exists; None if unknown: on another machine, or after a jump of the clock."""
        if self.machine != machine():
            return None
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            # otherwise another process has its pid, or the clock was set: its heartbeat decides
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
            "key": _key(run_id),
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
        """Write the first heartbeat, and the others from a thread. Raises DatabaseUnavailable, DatabaseRefused."""
        asked = Moment.now()
        with (
            guarded(self._engine, "write the heartbeat of a run"),
            self._engine.begin() as connection,
        ):
            connection.execute(_BEGIN, self._parameters)
        self._confirmed = asked
        threading.Thread(target=self._beat_until_stopped, name="run-heartbeat", daemon=True).start()

    def stop(self) -> None:
        """End the heartbeats before the run's end is written; waits for one that is in flight."""
        self._stopped.set()
        with self._lock:
            pass

    def is_fresh(self) -> bool:
        """Return whether a request may be sent without another heartbeat."""
        return (
            self._ended_at is None and self._confirmed.seconds_until(Moment.now()) < LEASE_SECONDS
        )

    def confirm(self) -> None:
        """Send a heartbeat now. Raises RunEnded if the run has ended elsewhere; DatabaseUnavailable, DatabaseRefused."""
        with self._lock:
            self._beat()
        if self._ended_at is not None:
            raise RunEnded(
                "This run was ended from outside: its worker sent no heartbeat and was declared dead, "
                "or somebody ended the run. This process requests nothing more and ends; another run "
                "may be doing its work."
            )

    def _beat_until_stopped(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            with self._lock:
                if self._stopped.is_set():
                    return
                try:
                    status = self._beat()
                except MagnetisError as error:
                    _log.warning(
                        "%s", error
                    )  # the next heartbeat may succeed; until then no request is sent
                    continue
                if status is DagsterRunStatus.CANCELING or self._ended_at is not None:
                    self._end_process()

    def _beat(self) -> DagsterRunStatus | None:
        asked = Moment.now()
        with (
            guarded(self._engine, "write the heartbeat of a run"),
            self._engine.begin() as connection,
        ):
            row = connection.execute(_BEAT, self._parameters).one_or_none()
        status = DagsterRunStatus(row[0]) if row and row[0] else None
        if status is None or status in _ENDED_STATUSES:
            self._ended_at = self._ended_at or Moment.now()
        else:
            self._confirmed = asked
        return status

    def _end_process(self) -> None:
        if not self._interrupted:
            # as Dagster's code server does it; the run becomes CANCELED if somebody cancels it
            _log.warning("Run %s was ended or is being canceled: interrupting it.", self.run_id)
            self._interrupted = True
            os.kill(os.getpid(), signal.SIGINT)
        elif (
            self._ended_at is not None
            and self._ended_at.seconds_until(Moment.now()) > GRACE_SECONDS
        ):
            _log.error(
                "Run %s has ended, and its process still runs %d s later: killing it.",
                self.run_id,
                GRACE_SECONDS,
            )
            os.kill(os.getpid(), signal.SIGKILL)


_ENDED_STATUSES = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}

_heartbeats: dict[str, Heartbeat] = {}


def heartbeat_of(run_id: str) -> Heartbeat | None:
    """Return the heartbeat of a run that this process executes under MagnetisRunLauncher."""
    return _heartbeats.get(run_id)


class HeartbeatRunStorage(PostgresRunStorage):
    """PostgresRunStorage that starts a run's heartbeat with the run, in the process that executes it.

    Every worker reports its start here, whoever started it and whatever its job contains. Celery
    workers and Kubernetes watch their runs themselves.
    """

    def handle_run_event(
        self, run_id: str, event: DagsterEvent, update_timestamp: datetime | None = None
    ) -> None:
        """Record what the event means for the run's status."""
        if event.event_type is DagsterEventType.PIPELINE_START and self._health_needs_heartbeat():
            heartbeat = _heartbeats[run_id] = Heartbeat(self._engine, run_id)
            heartbeat.start()
        if event.event_type in _ENDED and run_id in _heartbeats:
            _heartbeats.pop(run_id).stop()
        super().handle_run_event(run_id, event, update_timestamp)
        if event.event_type in _ENDED:
            with self.connect() as connection:
                connection.execute(_FORGET, {"key": _key(run_id)})

    def last_beat(self, run_id: str) -> LastBeat | None:
        """Return the last heartbeat of a run; None before the first and after its end. Raises DatabaseUnavailable, DatabaseRefused."""
        with guarded(self._engine, "read the heartbeat of a run"), self.connect() as connection:
            row = connection.execute(_LAST, {"key": _key(run_id)}).one_or_none()
        if row is None:
            return None
        written, now = row
        if written == _DEAD:
            return LastBeat(written, age=float("inf"), dead=True)
        beat = json.loads(written)
        return LastBeat(
            written,
            age=now - beat["at"],
            machine=beat["machine"],
            pid=beat["pid"],
            started=beat["started"],
        )

    def declare_dead(self, run_id: str, seen: LastBeat) -> bool:
        """Fence off the worker whose last heartbeat is `seen`; False if it has sent another one or has ended since."""
        with (
            guarded(self._engine, "declare the worker of a run dead"),
            self.connect() as connection,
        ):
            return (
                connection.execute(
                    _DECLARE_DEAD, {"key": _key(run_id), "seen": seen.written}
                ).rowcount
                == 1
            )

    def _health_needs_heartbeat(self) -> bool:
        # by name: to make a launcher for Kubernetes, a process needs credentials that a run does not have
        launcher = self._instance.get_ref().run_launcher_data
        ours = launcher is not None and launcher.class_name == "MagnetisRunLauncher"
        return ours and Settings.load().celery_broker_url is None


def heartbeats(instance: DagsterInstance) -> HeartbeatRunStorage:
    """Return the instance's heartbeats."""
    storage = instance.run_storage
    assert isinstance(storage, HeartbeatRunStorage), (
        "dagster.yaml names another storage than MagnetisInstanceStorage"
    )
    return storage
