"""Share the embedded PostgreSQL server between processes.

The first process that needs the server starts it; the last one stops it. The operating system
authenticates users of the socket. On 127.0.0.1 the server rejects every login until `allow_tcp`
gives a role a password.
"""

import atexit
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from magnetis_dagster.database.postmaster import (
    SUPERUSER,
    Cluster,
    Postmaster,
    ServerFailed,
    free_tcp_port,
    require_programs,
)
from magnetis_dagster.database.server_access import ServerRefused, socket_folder_of
from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.private_files import private_file, private_folder, write_private

DATABASE = "magnetis"
SANDBOX_DATABASE = "sandbox"
_DATABASES = (DATABASE, SANDBOX_DATABASE)

RECOVERY_SECONDS = 60.0
"""Time limit for crash recovery, until the server answers."""

_LOCK = "postgres.lock"
"""Lock file of a process that starts or stops the server."""
_USERS = "postgres.users"
"""Lock file of all processes that use the server. The kernel releases a killed process's lock."""
_PASSWORDS = "postgres-passwords.json"
"""JSON file: the password of each role that may use TCP."""
_PORT = "postgres.port"

_ABSENT = {
    DATABASE: "nothing was loaded with an API key here. Load data with `magnetis dev --load 7`. To "
    "see the sandbox's data, remove MAGNETIS_API_KEY from the environment and from .env.",
    SANDBOX_DATABASE: "the sandbox was never used here. Start it with `magnetis dev`. To see the "
    "data of an API key, set MAGNETIS_API_KEY.",
}
_handles: dict[Path, tuple[int, int]] = {}
"""Descriptor of _USERS and pid, by home. A forked child must not stop its parent's server."""


class EmbeddedServerFailed(TransientError):
    """The embedded server did not start; its log contains the reason."""


class NoEmbeddedDatabase(PermanentError):
    """The folder has no embedded server, or the server lacks the required database."""


class NotRunning(PermanentError):
    """The embedded server is not running, but this operation requires it."""


class NoTcp(PermanentError):
    """The embedded server accepts no TCP connections."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Port and password of a role's TCP login."""

    port: int
    password: str


def start(
    home: Path, *, database: str = DATABASE, port: int | None = None, create: bool = True
) -> str:
    """Start the server under `home` unless it runs; return the URL of `database`.

    `port` is the TCP port on 127.0.0.1; 0 disables TCP. By default, use the port of the previous
    start, or any free port. With `create=False`, create no folder, server or database.

    Raises: EmbeddedServerFailed if the server does not start. ServerRefused or ForeignFolder if it
    cannot run privately. NoEmbeddedDatabase if `create` is false and the database is missing.
    ExtraMissing if the extra `local` is not installed.
    """
    home = home.resolve()
    if not create:
        require(home)
    cluster = _cluster(home)
    with suppress(PermissionError):  # of another user's folder, which is reported below
        if Postmaster.of(cluster.data) is None:
            require_programs()  # before a folder is created
    try:
        if create and not _belongs_to_other(home):
            private_folder(home)
        with _lock(home):
            _ensure_running(home, cluster, port)
            if home not in _handles:
                _handles[home] = (_use(home, fcntl.LOCK_SH), os.getpid())
        _ensure_database(home, database, create=create)
    except (OSError, ServerFailed, psycopg.Error) as error:
        reason = str(error) if isinstance(error, ServerFailed) else type(error).__name__
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL server under {cluster.data} did not start: {reason}. Read "
            f"its log, {cluster.data / 'log'}. To use your own server, set MAGNETIS_DATABASE_URL."
        ) from None
    return address(home, database=database)[0]


def address(home: Path, *, database: str = DATABASE, role: str = SUPERUSER) -> tuple[str, bool]:
    """Return the socket URL, and whether the server runs. Raises NoEmbeddedDatabase."""
    require(home)
    data = _cluster(home).data
    running = Postmaster.of(data)
    folder = quote(str(running.socket_folder if running else socket_folder_of(data)), safe="/")
    # keep the colon: programs that replace the user search for it
    return f"postgresql://{role}:@/{database}?host={folder}", running is not None


def require(home: Path) -> None:
    """Raise NoEmbeddedDatabase if `home` has none: a read-only command must not create one."""
    if not _cluster(home).exists:
        raise NoEmbeddedDatabase(
            f"There is no database under {home.resolve()}. `magnetis dev` creates it. If you ran "
            "that in another folder, run this command there, or set MAGNETIS_HOME to the absolute "
            "path of its .magnetis. To use your own server, set MAGNETIS_DATABASE_URL."
        )


def require_running(home: Path) -> Postmaster:
    """Return the server that runs under `home`. Raises NoEmbeddedDatabase, NotRunning."""
    require(home)
    running = Postmaster.of(_cluster(home).data)
    if running is None:
        raise NotRunning(
            f"The embedded server under {home.resolve()} is not running. "
            "Start `magnetis dev` first, and keep it running."
        )
    return running


def stop(home: Path) -> None:
    """Stop using the server under `home`; the last process stops it."""
    home = home.resolve()
    descriptor, process = _handles.pop(home, (-1, -1))
    if process != os.getpid():
        return
    with suppress(FileNotFoundError), _lock(home):
        os.close(descriptor)
        with suppress(BlockingIOError):
            os.close(_use(home, fcntl.LOCK_EX | fcntl.LOCK_NB))
            _cluster(home).stop()


def allow_tcp(home: Path, role: str) -> TcpAddress:
    """Let `role` log in on 127.0.0.1 with a generated, saved password.

    Raises: NotRunning; NoTcp if the server has no TCP port.
    """
    home = home.resolve()
    require(home)
    with _lock(home):
        running = require_running(home)
        if not running.listens:
            raise NoTcp(
                "The embedded server runs without a TCP port. Stop `magnetis dev`, then start it "
                "with a port: magnetis dev --database-port 5433."
            )
        passwords = _passwords(home)
        if role not in passwords:
            passwords[role] = secrets.token_urlsafe(24)
            write_private(home / _PASSWORDS, json.dumps(passwords))
        with _administrator(home) as connection:
            # hash on the client: the server may log the statement
            verifier = connection.pgconn.encrypt_password(
                passwords[role].encode(), role.encode(), b"scram-sha-256"
            )
            change = SQL("ALTER ROLE {} PASSWORD {}").format(
                Identifier(role), Literal(verifier.decode())
            )
            connection.execute(change)
            if _cluster(home).allow(passwords, _DATABASES):
                connection.execute("SELECT pg_reload_conf()")
        return TcpAddress(running.port, passwords[role])


def _ensure_running(home: Path, cluster: Cluster, wanted: int | None) -> None:
    passwords = _passwords(home)
    running = Postmaster.of(cluster.data)
    if running and wanted is not None and wanted != (running.port if running.listens else 0):
        raise ServerRefused(
            f"--database-port {wanted}: the embedded server under {home} is already running with "
            "another port. Stop the programs that use it first."
        )
    if running is None:
        for retry in (True, True, False):
            port = _choose_port(home, cluster, wanted)
            try:
                cluster.start(port or 5432, port is not None, passwords, _DATABASES)
                break
            except ServerFailed:
                # retry only if another program took the port after the check
                if not retry or port is None or free_tcp_port(cluster.data, port):
                    raise
    elif cluster.allow(passwords, _DATABASES):
        # the server was started by an earlier version, which trusted every user
        with _administrator(home) as connection:
            connection.execute("SELECT pg_reload_conf()")


def _choose_port(home: Path, cluster: Cluster, wanted: int | None) -> int | None:
    """Return and save the TCP port: `wanted`, the previous one, or a free one; None without TCP."""
    if wanted and free_tcp_port(cluster.data, wanted) is None:
        raise ServerRefused(
            f"--database-port: another program uses port {wanted} of 127.0.0.1. Choose another "
            "port, or omit the option to use any free port."
        )
    if wanted is None:
        with suppress(FileNotFoundError):
            previous = int((home / _PORT).read_text())
            wanted = previous and free_tcp_port(cluster.data, previous)
    port = free_tcp_port(cluster.data, None) if wanted is None else wanted
    write_private(home / _PORT, str(port or 0))
    return port or None


def _ensure_database(home: Path, database: str, *, create: bool) -> None:
    end, names = time.monotonic() + RECOVERY_SECONDS, list[str]()
    while True:
        try:
            with _administrator(home) as connection:
                found = connection.execute(
                    "SELECT datname FROM pg_database WHERE NOT datistemplate"
                )
                names = [name for (name,) in found]
                if database not in names and create:
                    with suppress(psycopg.errors.DuplicateDatabase):
                        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(database)))
            break
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)  # crash recovery
    if database not in names and not create:
        raise NoEmbeddedDatabase(
            f"The server under {home} has no database {database}: "
            f"{_ABSENT.get(database, 'create it.')}"
        )


def _cluster(home: Path) -> Cluster:
    return Cluster(home.resolve() / "postgres")


def _administrator(home: Path) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(address(home, database="postgres")[0], autocommit=True)


def _belongs_to_other(home: Path) -> bool:
    return os.geteuid() == 0 and home.exists() and home.stat().st_uid != 0


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    with private_file(home / _LOCK, os.O_RDWR) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _use(home: Path, how: int) -> int:
    with private_file(home / _USERS, os.O_RDWR) as file:
        descriptor = os.dup(file)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _passwords(home: Path) -> dict[str, str]:
    with suppress(FileNotFoundError):
        return dict(json.loads((home / _PASSWORDS).read_text()))
    return {}


@atexit.register
def _stop_all() -> None:
    for home in list(_handles):
        with suppress(OSError):  # the folder was removed; the server ends by itself
            stop(home)
