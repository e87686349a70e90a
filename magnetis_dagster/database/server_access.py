"""The operating system's user of the embedded server, and its access to folders."""

import hashlib
import os
import pwd
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.private_files import OTHERS

SOCKET = ".s.PGSQL.5432"
"""The socket name that libpq expects. With another TCP port, it is a link to the socket."""

_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""Maximum length of a Unix socket's path."""
# TMPDIR may be long and differs between processes, so it is not used
_SHORT = Path("/tmp")  # noqa: S108 - its folders are checked
_SYSTEM_USER = "pgserver"
"""PostgreSQL refuses to run as root. If this process is root, the server runs as this user."""


class ServerRefused(PermanentError):
    """The embedded server cannot run privately without a change on this machine."""


def owner_of(data: Path) -> pwd.struct_passwd:
    """Return the user that runs the server. Raises ServerRefused if that user has no name."""
    number = os.geteuid()
    with suppress(FileNotFoundError, PermissionError):
        number = number or data.stat().st_uid
    try:
        return pwd.getpwuid(number) if number else _system_user()
    except KeyError:
        raise ServerRefused(
            f"The user id {number} has no name on this machine, and PostgreSQL requires one. "
            "Run this as a named user, or set MAGNETIS_DATABASE_URL to your own server."
        ) from None


def socket_folder_of(data: Path) -> Path:
    """Return the socket's folder: `data`, or a short path.

    A socket's path must be short and contain no special characters.
    """
    is_short = len(os.fsencode(data / SOCKET)) <= _PATH_BYTES
    if is_short and not any(character in str(data) for character in ",\"'\\ \n"):
        return data
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return _SHORT / f"magnetis-{owner_of(data).pw_uid}-{name}"


def create_owned_folder(folder: Path, owner: pwd.struct_passwd) -> None:
    """Create the folder with mode 0700. Refuse one of another user: in /tmp, anyone may create it.

    The sticky bit of /tmp prevents other users from removing or renaming our folder.
    """
    parent = folder.parent.stat()
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        raise ServerRefused(
            f"{folder.parent} allows every user to replace the folders of others. "
            f"Set its sticky bit: chmod +t {folder.parent}"
        )
    try:
        folder.mkdir(mode=stat.S_IRWXU)
        os.chown(folder, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    except FileExistsError:
        pass
    status = folder.lstat()
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & OTHERS
    if not private or status.st_uid != owner.pw_uid:
        raise ServerRefused(
            f"{folder}, the folder of the database's socket, was not created by this program: it "
            f"must belong to the user {owner.pw_name} and have mode 0700. Remove it, or set "
            f"MAGNETIS_HOME to a path of at most {_PATH_BYTES - len(SOCKET) - len('/postgres/')} "
            "bytes, so that the socket is in that folder."
        )


def grant_traversal(data: Path, owner: pwd.struct_passwd, server: Path) -> None:
    """Allow the server's user to enter the folders above its data and its programs.

    Only folders of root and root's group change: they get the user's group, with permission x only.
    """
    for folder in dict.fromkeys([*data.parents, *server.resolve().parents]):
        found = folder.stat()
        bit = stat.S_IXGRP if found.st_gid == owner.pw_gid else stat.S_IXOTH
        if found.st_mode & (stat.S_IXUSR if found.st_uid == owner.pw_uid else bit):
            continue
        if found.st_uid != 0 or found.st_gid not in {0, owner.pw_gid}:
            raise ServerRefused(
                f"The database runs as the user {owner.pw_name}, who cannot enter {folder}. Run "
                "this as an ordinary user, set MAGNETIS_HOME to another folder, or grant access: "
                f"chmod o+x {folder}"
            )
        os.chown(folder, -1, owner.pw_gid)
        folder.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IRWXG | stat.S_IXGRP)
    # the wheel was installed under umask 077; none of its files is private
    if not server.stat().st_mode & stat.S_IXOTH:
        for path in (server.parents[1], *server.parents[1].rglob("*")):
            mode = path.stat().st_mode
            execute = stat.S_IXOTH if mode & stat.S_IXUSR else 0
            path.chmod(stat.S_IMODE(mode) | stat.S_IROTH | execute)


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        options = ("--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin")
        command = ["useradd", *options, _SYSTEM_USER]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603 - no input
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerRefused(
                f"PostgreSQL does not run as root, and creating the user {_SYSTEM_USER} failed "
                f"({type(error).__name__}). Create this user, run this as another user, or set "
                "MAGNETIS_DATABASE_URL to your own server."
            ) from None
        return pwd.getpwnam(_SYSTEM_USER)
