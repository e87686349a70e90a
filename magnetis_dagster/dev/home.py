"""Reserve the folder, the ports and Dagster's home of one `magnetis dev`."""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.private_files import private_file, private_folder
from magnetis_dagster.running_dev import LOCK, STATE, try_lock


class AlreadyRunning(PermanentError):
    """Another `magnetis dev` uses the same folder."""


class PortTaken(PermanentError):
    """The requested address is not available."""


@contextmanager
def claim_home(home: Path) -> Iterator[None]:
    """Make `home` private and lock it until this process ends, even if it is killed.

    Raises: AlreadyRunning, with the pid, if another process has the lock; ForeignFolder if `home`
    belongs to another user.
    """
    private_folder(home)
    for name in ("dagster", "logs"):  # may have been created by an earlier version
        if (home / name).exists():
            private_folder(home / name)
    with private_file(home / LOCK, os.O_RDWR) as lock:
        # a command that checks whether one runs holds the lock for a moment
        give_up = time.monotonic() + 0.3
        while not try_lock(lock):
            if time.monotonic() > give_up:
                raise AlreadyRunning(
                    f"Another `magnetis dev` (pid {os.read(lock, 20).decode() or 'unknown'}) runs "
                    f"in {home}. Stop it with Ctrl-C, or run this one in another folder: "
                    "MAGNETIS_HOME=/another/folder."
                )
            time.sleep(0.05)
        (home / STATE).unlink(missing_ok=True)  # left by a killed process
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield


def check_port(host: str, port: int) -> None:
    """Raise PortTaken, which suggests another --port, unless the address is free."""
    if reason := bind_error(host, port):
        others = range(port + 1, min(port + 100, 65_536))
        free = next((other for other in others if not bind_error(host, other)), port - 1)
        arguments = f"--port {free}"
        if "MAKELEVEL" in os.environ:  # set by GNU make
            arguments = f'make run ARGS="{arguments}"'
        raise PortTaken(
            f"Cannot listen on {host}:{port} ({reason}). Another program may use this port. "
            f"Choose another port: {arguments}."
        )


def bind_error(host: str, port: int) -> str | None:
    """Return why the address is not available; None if it is."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def claim_sandbox_port(port: int) -> int | None:
    """Return a descriptor that reserves the port until it is closed, or this process ends.

    None if another `magnetis dev` of this user has reserved it. Without it, two that start together
    would both find the port free, and the second sandbox would fail.
    """
    path = Path(tempfile.gettempdir()) / f"magnetis-{os.geteuid()}-{port}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def project_files() -> tuple[Path, Path]:
    """Return the paths of dagster.yaml and workspace.yaml.

    A file in the working directory replaces the one that this package contains.
    """
    return _project_file("dagster.yaml"), _project_file("workspace.yaml")


def _project_file(name: str) -> Path:
    own = Path.cwd() / name
    return own if own.is_file() else Path(__file__).with_name(name)


def dagster_home(home: Path, dagster_yaml: Path) -> Path:
    """Create Dagster's home with a copy of dagster.yaml, so that the checkout stays clean."""
    folder = private_folder(home / "dagster")
    shutil.copyfile(dagster_yaml, folder / "dagster.yaml")
    return folder
