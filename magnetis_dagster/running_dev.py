"""Publish a running `magnetis dev` to commands in other terminals.

A file in its home contains the address of the API, the key of the sandbox and the database. It is
valid while the process has the lock of the home, however the process ends.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from magnetis_dagster.private_files import write_private

LOCK = "dev.lock"
STATE = "dev.json"


@dataclass(frozen=True, slots=True)
class RunningDev:
    """A `magnetis dev` that serves a home."""

    api_url: str
    sandbox_key: str | None
    """Key of its sandbox; None if it uses a real key, which is never stored."""
    database_url: str | None
    """Its MAGNETIS_DATABASE_URL with the password; None if it uses the embedded server of its home.
    """
    start_date: str | None = None
    """First day of the sandbox's partitions, such as 2024-01-31; None if it uses a real key."""
    ui: str | None = None
    """Address of its webserver."""


@contextmanager
def publish(home: Path, running: RunningDev) -> Iterator[None]:
    """Publish `running` to other terminals for the length of the block."""
    write_private(home / STATE, json.dumps(asdict(running)))
    try:
        yield
    finally:
        (home / STATE).unlink(missing_ok=True)


def running_dev(home: Path) -> RunningDev | None:
    """Return this user's `magnetis dev` that serves `home`; None if there is none."""
    with suppress(FileNotFoundError, PermissionError), (home / STATE).open() as file:
        # another user's file could send our password to their database
        owner = os.fstat(file.fileno()).st_uid
        if os.geteuid() in {0, owner} and is_claimed(home):
            return RunningDev(**json.load(file))
    return None


def is_claimed(home: Path) -> bool:
    """Return whether a `magnetis dev` runs in `home`."""
    with suppress(FileNotFoundError), (home / LOCK).open("r") as lock:
        return not try_lock(lock.fileno())
    return False


def try_lock(descriptor: int) -> bool:
    """Lock the open file until it is closed; return False if another process has the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
