"""What one `magnetis dev` claims on the machine: its folder, its ports, and Dagster's home inside the folder."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.private_files import private_file, private_folder
from magnetis_dagster.running_dev import LOCK, STATE, is_claimed, try_lock

__all__ = ["LOCK", "is_claimed"]


class AlreadyRunning(PermanentError):
    """Another `magnetis dev` uses the same folder."""


class PortTaken(PermanentError):
    """The address that was asked for cannot be listened on."""


class ProjectNotFound(PermanentError):
    """There is no dagster.yaml and workspace.yaml where they are looked for."""


@contextmanager
def claimed(home: Path) -> Iterator[None]:
    """Make `home` private and lock it for this process; the kernel releases the lock however the process ends.

    Raises: AlreadyRunning, with the other's pid; ForeignFolder if `home` belongs to another user.
    """
    private_folder(home)
    for name in ("dagster", "logs"):  # of an earlier version
        if (home / name).exists():
            private_folder(home / name)
    with private_file(home / LOCK, os.O_RDWR) as lock:
        patience = (
            time.monotonic() + 0.3
        )  # a command that looks whether one runs has the lock for a moment
        while not try_lock(lock):
            if time.monotonic() > patience:
                raise AlreadyRunning(
                    f"Another `magnetis dev` (pid {os.read(lock, 20).decode() or 'unknown'}) runs in {home}. Stop it with "
                    "Ctrl-C, or give this one a folder of its own: MAGNETIS_HOME=/another/folder."
                )
            time.sleep(0.05)
        (home / STATE).unlink(missing_ok=True)  # of one that was killed
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield


def check_port(host: str, port: int, *, option: str) -> None:
    """Raise PortTaken if nothing can listen on the address; `option` is the one that changes the port."""
    if reason := _refusal(host, port):
        free = next(
            (
                other
                for other in range(port + 1, min(port + 100, 65_536))
                if not _refusal(host, other)
            ),
            port - 1,
        )
        raise PortTaken(
            f"Cannot listen on {host}:{port} ({reason}). Another program may use this port. "
            f"Choose another one: {_command_line(f'{option} {free}')}."
        )


def _refusal(host: str, port: int) -> str | None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _command_line(options: str) -> str:
    """Return the options as the user's command takes them: GNU make sets MAKELEVEL for what it runs."""
    return f'make run ARGS="{options}"' if "MAKELEVEL" in os.environ else options


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def project_files() -> tuple[Path, Path]:
    """Return dagster.yaml and workspace.yaml: those of the working directory, else those beside the package."""
    for folder in (Path.cwd(), Path(__file__).parents[2]):
        files = (folder / "dagster.yaml", folder / "workspace.yaml")
        if all(file.is_file() for file in files):
            return files
    raise ProjectNotFound(
        f"Neither dagster.yaml nor workspace.yaml is in {Path.cwd()}. Run this in the project's folder."
    )


def dagster_home(home: Path, dagster_yaml: Path) -> Path:
    """Return Dagster's home under `home`, with the project's dagster.yaml in it, so that a checkout stays clean."""
    folder = private_folder(home / "dagster")
    shutil.copyfile(dagster_yaml, folder / "dagster.yaml")
    return folder
