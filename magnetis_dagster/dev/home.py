"""What one `magnetis dev` claims on the machine: its folder, its ports, and Dagster's home inside the folder."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from magnetis_dagster.errors import NeedsChange

LOCK = "dev.lock"


class AlreadyRunning(NeedsChange):
    """Another `magnetis dev` uses the same folder."""


class PortTaken(NeedsChange):
    """The address that was asked for cannot be listened on."""


class ProjectNotFound(NeedsChange):
    """There is no dagster.yaml and workspace.yaml where they are looked for."""


@contextmanager
def claimed(home: Path) -> Iterator[None]:
    """Hold `home` for this process; the kernel lets go however it ends. Raises AlreadyRunning, with the other's pid."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("a+") as lock:
        if not _try(lock.fileno()):
            lock.seek(0)
            raise AlreadyRunning(
                f"Another `magnetis dev` (pid {lock.read().strip() or 'unknown'}) runs in {home}. Stop it with Ctrl-C, or give "
                "this one a folder of its own: MAGNETIS_HOME=/another/folder."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_claimed(home: Path) -> bool:
    """Whether a `magnetis dev` runs in `home`."""
    with suppress(FileNotFoundError), (home / LOCK).open("r") as lock:
        return not _try(lock.fileno())
    return False


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_port(host: str, port: int, *, option: str) -> None:
    """Raise PortTaken where nothing could listen on the address; `option` is the one that changes the port."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise PortTaken(
            f"Cannot listen on {host}:{port} ({error.strerror}). Another program may use this port. "
            f"Choose another one: {_command_line(f'{option} {port + 1 if port < 65535 else port - 1}')}."
        ) from None


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
    raise ProjectNotFound(f"Neither dagster.yaml nor workspace.yaml is in {Path.cwd()}. Run this in the project's folder.")


def dagster_home(home: Path, dagster_yaml: Path) -> Path:
    """Return Dagster's home under `home`, with the project's dagster.yaml in it, so that a checkout stays clean."""
    folder = home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(dagster_yaml, folder / "dagster.yaml")
    return folder
