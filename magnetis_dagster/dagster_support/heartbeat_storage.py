"""Dagster's run storage with the heartbeats of runs (run_heartbeat.py)."""

import json
from datetime import datetime

from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from dagster_postgres import PostgresRunStorage
from sqlalchemy import text

from magnetis_dagster.dagster_support.run_heartbeat import (
    DEAD,
    SCHEMA,
    Heartbeat,
    LastBeat,
    heartbeat_key,
)
from magnetis_dagster.database import guarded
from magnetis_dagster.settings import Settings

_ENDED = {
    DagsterEventType.PIPELINE_SUCCESS,
    DagsterEventType.PIPELINE_FAILURE,
    DagsterEventType.PIPELINE_CANCELED,
}
_FORGET = text(f"DELETE FROM {SCHEMA}.kvs WHERE key = :key")  # noqa: S608 - constants
_DECLARE_DEAD = text(
    f"UPDATE {SCHEMA}.kvs SET value = '{DEAD}' WHERE key = :key AND value IN (:seen, '{DEAD}')"  # noqa: S608 - constants
)
_LAST = text(
    "SELECT value, extract(epoch FROM clock_timestamp())::float8 "  # noqa: S608 - constants
    f"FROM {SCHEMA}.kvs WHERE key = :key"
)

_heartbeats: dict[str, Heartbeat] = {}


def heartbeat_of(run_id: str) -> Heartbeat | None:
    """Return the heartbeat of a run that this process executes under MagnetisRunLauncher."""
    return _heartbeats.get(run_id)


class HeartbeatRunStorage(PostgresRunStorage):
    """PostgresRunStorage that starts the heartbeat of a run in the process that executes it.

    Every worker reports its start here, for any job. Runs on Celery and Kubernetes are supervised
    there and have no heartbeat.
    """

    def handle_run_event(
        self, run_id: str, event: DagsterEvent, update_timestamp: datetime | None = None
    ) -> None:
        """Start or end the heartbeat with the run, and update the run's status."""
        if event.event_type is DagsterEventType.PIPELINE_START and self._health_needs_heartbeat():
            heartbeat = _heartbeats[run_id] = Heartbeat(self._engine, run_id)
            heartbeat.start()
        if event.event_type in _ENDED and run_id in _heartbeats:
            _heartbeats.pop(run_id).stop()
        super().handle_run_event(run_id, event, update_timestamp)
        if event.event_type in _ENDED:
            with self.connect() as connection:
                connection.execute(_FORGET, {"key": heartbeat_key(run_id)})

    def last_beat(self, run_id: str) -> LastBeat | None:
        """Return the last heartbeat of a run; None before the first and after the run's end.

        Raises: DatabaseUnavailable; DatabaseRefused.
        """
        with guarded(self._engine, "read the heartbeat of a run"), self.connect() as connection:
            row = connection.execute(_LAST, {"key": heartbeat_key(run_id)}).one_or_none()
        if row is None:
            return None
        written, now = row
        if written == DEAD:
            return LastBeat(written, age=float("inf"), dead=True)
        beat = json.loads(written)
        # a worker of another version may write more members
        known = {name: beat[name] for name in ("machine", "pid", "started")}
        return LastBeat(written, age=now - beat["at"], **known)

    def declare_dead(self, run_id: str, seen: LastBeat) -> bool:
        """Fence off the worker whose last heartbeat is `seen`.

        Returns False if the worker has sent another heartbeat or has ended since.
        """
        parameters = {"key": heartbeat_key(run_id), "seen": seen.written}
        with (
            guarded(self._engine, "declare the worker of a run dead"),
            self.connect() as connection,
        ):
            return connection.execute(_DECLARE_DEAD, parameters).rowcount == 1

    def _health_needs_heartbeat(self) -> bool:
        # Compare the class name, since creating a Kubernetes launcher needs credentials that a run
        # does not have.
        launcher = self._instance.get_ref().run_launcher_data
        ours = launcher is not None and launcher.class_name == "MagnetisRunLauncher"
        return ours and Settings.load().celery_broker_url is None


def heartbeats(instance: DagsterInstance) -> HeartbeatRunStorage:
    """Return the instance's heartbeats."""
    storage = instance.run_storage
    assert isinstance(storage, HeartbeatRunStorage), (
        "the storage in dagster.yaml is not MagnetisInstanceStorage"
    )
    return storage
