"""Find sessions that hold locks, and change tables without long blocking.

A statement that waits for an exclusive lock blocks every later statement on the table, reads
included. So a table change waits for less than a second, pauses, and retries (`LockRetries`).

Processes take turns by an advisory lock that they poll: a session that waits for a lock inside a
statement has a snapshot, and CREATE INDEX CONCURRENTLY waits for snapshots.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from magnetis_dagster.database.refusals import DatabaseUnavailable

T = TypeVar("T")

MIGRATION = 0x6D61676E
"""Advisory lock that serializes table changes of several processes."""
MERGE_CLASS = 0x6D67
"""First half of the lock that merges share. The second half is a checksum of the collection's name.
"""
CONNECTION_MERGE_CLASS = 0x6D68
"""First half of a merge's own lock. The second half is a checksum of connection and collection."""

_SESSION = (
    "a.pid, a.usename, a.application_name, a.state, "
    "coalesce(a.xact_start, a.query_start, a.backend_start)"
)
_BLOCKING = text(f"""
    WITH RECURSIVE chain (pid) AS (
        SELECT unnest(pg_blocking_pids(:pid))
        UNION SELECT unnest(pg_blocking_pids(chain.pid)) FROM chain WHERE chain.pid > 0
    )
    SELECT {_SESSION} FROM pg_stat_activity AS a JOIN chain USING (pid)
    WHERE cardinality(pg_blocking_pids(a.pid)) = 0 AND a.pid <> :pid ORDER BY 5
""")  # noqa: S608 - constants only
"""Sessions that block a session and wait for no lock themselves."""
_HOLDERS = text(f"""
    SELECT {_SESSION} FROM pg_stat_activity AS a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
      AND a.wait_event_type IS DISTINCT FROM 'Lock'
      AND coalesce(a.xact_start < clock_timestamp() - interval '1 second', true) AND EXISTS (
        SELECT FROM pg_locks AS l LEFT JOIN pg_class AS c ON c.oid = l.relation
        LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE l.pid = a.pid AND l.granted AND (
            (l.locktype = 'advisory'
             AND ((l.classid = {MERGE_CLASS} AND l.objsubid = 2)
               OR (l.objid = {MIGRATION} AND l.objsubid = 1)))
            OR (n.nspname IN ('magnetis', 'magnetis_ops', 'magnetis_marts')
                AND l.mode <> 'AccessShareLock')))
    ORDER BY 5
""")  # noqa: S608 - constants only
"""Sessions that hold a lock that blocks writers, and wait for no lock themselves."""
_MAX_LISTED = 3
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that holds a lock, without its statement, which may contain a row's values."""

    pid: int
    role: str | None
    application: str | None
    state: str | None
    """None if this role may not see it."""
    since: datetime | None
    """Start of its transaction, UTC."""

    def __str__(self) -> str:
        """Return a phrase for messages."""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        application = self.application or "unnamed"
        state = self.state or "active"
        return f"session {self.pid} (role {self.role}, application {application}, {state}{since})"


class LockBusy(DatabaseUnavailable):
    """Another session held a lock for too long; the text identifies it. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class LockRetries:
    """Time limits of a table change."""

    lock_seconds: float = 0.8
    """Lock time-out of one attempt. Other sessions may wait this long too.

    Below deadlock_timeout (1 s), so that a deadlock ends the table change and no other session.
    """
    pauses: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
    """Seconds between attempts, in which waiting sessions proceed. One attempt follows the last."""
    turn_seconds: float = 600.0
    """Time-out for another process's table change, which blocks no other session."""


def holders(engine: Engine) -> str:
    """Return a sentence about the sessions that block writers of our tables."""
    try:
        with engine.connect() as connection:
            found = [Holder(*row) for row in connection.execute(_HOLDERS)]
    except DBAPIError:
        return "The session that holds the lock could not be identified."
    return _describe(found)


def _describe(found: list[Holder]) -> str:
    if not found:
        return "No session holds the lock any more. Retry now."
    first = found[:_MAX_LISTED]
    names = " and ".join(map(str, first))
    ends = " ".join(f"SELECT pg_terminate_backend({holder.pid});" for holder in first)
    more = f" and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
    return (
        f"The lock is held by {names}{more}. End the transaction in that session; or, as its role "
        f"or a superuser, end the session: {ends} Then retry."
    )


def change_tables(
    engine: Engine,
    action: str,
    change: Callable[[Connection], T],
    progress: Callable[[str], None] = lambda _line: None,
    retries: LockRetries = LockRetries(),
) -> T:
    """Run `change` in one transaction, in one process at a time; retry if a lock is unavailable.

    `action` completes the sentence "Could not …". `progress` receives one line for each attempt
    that timed out.

    Raises: LockBusy if a lock stays unavailable; the driver's other errors.
    """
    found: list[Holder] = []
    poll: _BlockerPoll | None = None
    for pause in (*retries.pauses, None):
        try:
            with _turn(engine, action, retries.turn_seconds) as connection:
                poll = _BlockerPoll(engine, connection)
                with polling(retries.lock_seconds / 2, poll):
                    _limit(connection, retries.lock_seconds)
                    return change(connection)
        except DBAPIError as error:
            if not isinstance(
                error.orig, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected
            ):
                raise
            found = (poll and poll.found) or found
        if pause is not None:
            who = f", held by {found[0]}" if found else ""
            progress(
                f"Could not {action} yet: timed out waiting for a lock{who}. Next attempt in "
                f"{pause:g} s."
            )
            time.sleep(pause)
    raise LockBusy(
        f"Could not {action}: timed out waiting for a lock. Nothing was changed. {_describe(found)}"
    )


@contextmanager
def _turn(engine: Engine, action: str, seconds: float) -> Iterator[Connection]:
    """Open a transaction that holds the lock of table changes. Raises: LockBusy."""
    attempt = text("SELECT pg_try_advisory_xact_lock(:lock)")
    end = time.monotonic() + seconds
    with engine.connect() as connection:
        while True:
            # a transaction per attempt: CREATE INDEX CONCURRENTLY may wait for its end
            transaction = connection.begin()
            if connection.execute(attempt, {"lock": MIGRATION}).scalar_one():
                break
            transaction.rollback()
            _pause_until(end, engine, action)
        with transaction:
            yield connection


@contextmanager
def exclusive_session(
    engine: Engine, action: str, retries: LockRetries = LockRetries()
) -> Iterator[Connection]:
    """Open a session in autocommit mode that holds the lock of table changes.

    For statements that cannot run in a transaction, such as CREATE INDEX CONCURRENTLY. They wait
    for locks without a limit; that blocks no reader and no writer. `action` as in `change_tables`.

    Raises: LockBusy if another process changes tables for more than `retries.turn_seconds`.
    """
    end = time.monotonic() + retries.turn_seconds
    lock = {"lock": MIGRATION}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        attempt = text("SELECT pg_try_advisory_lock(:lock)")
        while not connection.execute(attempt, lock).scalar_one():
            _pause_until(end, engine, action)
        try:
            connection.execute(text("SET lock_timeout = 0"))
            yield connection
        finally:
            with suppress(DBAPIError):
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), lock)
            connection.invalidate()  # the pool must not reuse the session with this setting


def _pause_until(end: float, engine: Engine, action: str) -> None:
    if time.monotonic() >= end:
        raise LockBusy(
            f"Could not {action}: timed out waiting for another process that changes tables. "
            f"Nothing was changed. {holders(engine)}"
        )
    time.sleep(_POLL_SECONDS)


def blockers(engine: Engine, pid: int) -> list[Holder]:
    """Return the sessions that block the session `pid`, oldest transaction first."""
    with engine.connect() as connection:
        return [Holder(*row) for row in connection.execute(_BLOCKING, {"pid": pid})]


def _limit(connection: Connection, seconds: float) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = {int(seconds * 1000)}"))


@contextmanager
def polling(seconds: float, poll: Callable[[], object]) -> Iterator[None]:
    """Call `poll` every `seconds` in a thread for the length of the block.

    It ends at the first error of the database, such as that no connection is free.
    """
    end = threading.Event()

    def run() -> None:
        with suppress(DBAPIError, psycopg.Error, DatabaseUnavailable):
            while not end.wait(seconds):
                poll()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


class _BlockerPoll:
    """Finds the sessions that block a connection, which the server does not report afterwards."""

    def __init__(self, engine: Engine, connection: Connection) -> None:
        self._engine = engine
        self._pid: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        self.found: list[Holder] = []

    def __call__(self) -> None:
        """Keep the sessions that block it now, if there are any."""
        self.found = blockers(self._engine, self._pid) or self.found
