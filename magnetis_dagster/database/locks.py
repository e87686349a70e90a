"""Locks: the sessions that hold them, and changes of tables that let other sessions proceed between their attempts.

A statement that waits for an exclusive lock blocks every later statement on the table, readers too. So a change of a table waits
a few seconds at a time (`Patience`), pauses, and finally fails with the name of the session that blocks it.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from magnetis_dagster.database.refusals import DatabaseUnavailable

T = TypeVar("T")

MIGRATION = 0x6D61676E
"""Advisory lock of changes of tables: two processes make theirs one after the other."""
MERGE_CLASS = 0x6D67
"""First half of the advisory locks of merges; the second is a checksum of the collection's name."""

_SESSION = "a.pid, a.usename, a.application_name, a.state, coalesce(a.xact_start, a.query_start, a.backend_start)"
_BLOCKING = text(f"""
    WITH RECURSIVE chain (pid) AS (
        SELECT unnest(pg_blocking_pids(:pid)) UNION SELECT unnest(pg_blocking_pids(chain.pid)) FROM chain WHERE chain.pid > 0
    )
    SELECT {_SESSION} FROM pg_stat_activity AS a JOIN chain USING (pid)
    WHERE cardinality(pg_blocking_pids(a.pid)) = 0 AND a.pid <> :pid ORDER BY 5
""")  # noqa: S608 - constants only
"""Sessions at the end of the queue before a session: those that wait for nobody."""
_HOLDERS = text(f"""
    SELECT {_SESSION} FROM pg_stat_activity AS a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.wait_event_type IS DISTINCT FROM 'Lock'
      AND coalesce(a.xact_start < clock_timestamp() - interval '1 second', true) AND EXISTS (
        SELECT FROM pg_locks AS l LEFT JOIN pg_class AS c ON c.oid = l.relation
        LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE l.pid = a.pid AND l.granted AND (
            (l.locktype = 'advisory'
             AND ((l.classid = {MERGE_CLASS} AND l.objsubid = 2) OR (l.objid = {MIGRATION} AND l.objsubid = 1)))
            OR (n.nspname IN ('magnetis', 'magnetis_ops', 'magnetis_marts') AND l.mode <> 'AccessShareLock')))
    ORDER BY 5
""")  # noqa: S608 - constants only
"""Sessions that keep writers waiting, and wait for nobody themselves."""
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that holds a lock for which another waits. Its statement is not read: it may contain a value of a row."""

    pid: int
    role: str | None
    application: str | None
    state: str | None
    """None: this role may not see it."""
    since: datetime | None
    """Start of its transaction, UTC."""

    def __str__(self) -> str:
        """Return a phrase that names the session."""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        return f"session {self.pid} (role {self.role}, application {self.application or 'unnamed'}, {self.state or 'active'}{since})"


class LockBusy(DatabaseUnavailable):
    """Another session kept a lock for too long; the text names it. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a change of tables waits."""

    lock_seconds: float = 2.0
    """For a lock, at a time: other sessions may wait this long too."""
    pauses: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
    """Seconds between attempts, in which the queue passes; the attempt after the last one is the last."""
    turn_seconds: float = 600.0
    """For the change of another process; no other session waits for that."""


def holders(engine: Engine) -> str:
    """Return a sentence about the sessions that keep writers of our tables waiting now."""
    try:
        with engine.connect() as connection:
            found = [Holder(*row) for row in connection.execute(_HOLDERS)]
    except DBAPIError:
        return "The session that holds the lock could not be determined."
    return advice(found)


def advice(found: list[Holder]) -> str:
    """Return a sentence that names the sessions and how to end them."""
    if not found:
        return "No session holds the lock any more: run again."
    names = " and ".join(map(str, found[:_MOST_NAMED]))
    ends = " ".join(f"SELECT pg_terminate_backend({holder.pid});" for holder in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return (
        f"The lock is held by {names}{more}. End the transaction there; or, as that role or a superuser, end the session: {ends} "
        "Then run again."
    )


def change_tables(
    engine: Engine,
    doing: str,
    change: Callable[[Connection], T],
    progress: Callable[[str], None] = lambda _line: None,
    patience: Patience = Patience(),
) -> T:
    """Run `change` in a transaction, again after each time-out of a lock, and return what it returns; one process at a time.

    `doing` completes "could not …"; `progress` receives a line whenever a lock is not free.

    Raises: LockBusy, naming the sessions that hold the lock; the driver's other errors.
    """
    found: list[Holder] = []
    watch: _Watch | None = None
    for pause in (*patience.pauses, None):
        try:
            with (
                engine.begin() as connection,
                _Watch(engine, connection, patience.lock_seconds / 2) as watch,
            ):
                _limit(connection, patience.turn_seconds)
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION})
                _limit(connection, patience.lock_seconds)
                return change(connection)
        except DBAPIError as error:
            if not isinstance(
                error.orig, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected
            ):
                raise
            found = (watch and watch.found) or found
        if pause is not None:
            who = f", held by {found[0]}" if found else ""
            progress(
                f"Could not {doing} yet: timed out waiting for a lock{who}. Next attempt in {pause:g} s."
            )
            time.sleep(pause)
    raise LockBusy(
        f"Could not {doing}: timed out waiting for a lock. Nothing was changed. {advice(found)}"
    )


def _limit(connection: Connection, seconds: float) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = {int(seconds * 1000)}"))


class _Watch:
    """Polls the sessions that block a connection: after a time-out the server no longer knows them."""

    def __init__(self, engine: Engine, connection: Connection, interval_seconds: float) -> None:
        self._engine = engine
        self._interval = interval_seconds
        self._pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.found: list[Holder] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: Any) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        # if no connection is free for this, the error names nobody
        with suppress(DBAPIError, psycopg.Error, DatabaseUnavailable):
            while not self._end.wait(self._interval):
                with self._engine.connect() as connection:
                    self.found = [
                        Holder(*row) for row in connection.execute(_BLOCKING, {"pid": self._pid})
                    ] or self.found
