"""Create files and folders that only their owner may read: the home, passwords, exports."""

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from magnetis_dagster.errors import PermanentError

OTHERS = stat.S_IRWXG | stat.S_IRWXO


class ForeignFolder(PermanentError):
    """A folder belongs to another user of this machine, or to all users."""


def user_name(number: int) -> str:
    """Return the name of the user with this number, or the number if it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def private_folder(path: Path) -> Path:
    """Create a folder for its owner only (0700), or remove the access of others.

    Root's folder keeps the group's right to traverse it, because the embedded server runs as
    another user.

    Raises: ForeignFolder if the folder belongs to another user, or to all users like /tmp.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=stat.S_IRWXU)
    found = path.stat()
    if found.st_mode & stat.S_ISVTX and found.st_mode & stat.S_IWOTH:
        raise ForeignFolder(
            f"{path} is shared by all users of this machine. Use a folder of your own: "
            f"MAGNETIS_HOME={path}/magnetis."
        )
    if found.st_uid != os.geteuid():
        owner = user_name(found.st_uid)
        raise ForeignFolder(
            f"{path} belongs to the user {owner}, but you are {user_name(os.geteuid())}. Run this "
            f"as {owner}, or use a folder of your own: MAGNETIS_HOME=/another/folder."
        )
    excess = OTHERS if os.geteuid() else OTHERS & ~stat.S_IXGRP
    if found.st_mode & excess:
        path.chmod(stat.S_IMODE(found.st_mode) & ~excess)
    return path


def restrict_to_owner(path: Path) -> bool:
    """Remove the access of others from a regular file of this user; return whether they had any."""
    with suppress(FileNotFoundError):
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
            return True
    return False


def restrict_output_to_owner() -> None:
    """Remove the access of others from standard output, if it is a regular file of this user."""
    found = os.fstat(1)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        os.fchmod(1, stat.S_IMODE(found.st_mode) & ~OTHERS)


@contextmanager
def private_file(path: Path, flags: int) -> Iterator[int]:
    """Open a file with mode 0600 for the length of the block; yield its descriptor.

    A file that root creates is given to the owner of its folder, who could not open it otherwise.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        owner = path.parent.stat()
        if os.geteuid() == 0 and os.fstat(descriptor).st_uid != owner.st_uid:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        yield descriptor
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Replace the whole file; only its owner can read it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with private_file(fresh, os.O_WRONLY | os.O_TRUNC) as descriptor:
        os.write(descriptor, text.encode())
    fresh.replace(path)
