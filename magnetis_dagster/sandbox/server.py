"""Serve the sandbox in a thread (tests) or in processes (CLI)."""

import multiprocessing
import signal
import socket
import threading
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Self

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.extras import require_extra
from magnetis_dagster.sandbox.app import Intercept, SandboxApp
from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.shared_memory import fork_context
from magnetis_dagster.sandbox.world import World

if TYPE_CHECKING:
    from uvicorn import Server

_STOP_SECONDS = 5
"""Time limit for a worker to end; requests in flight have 1 s."""


class Quota:
    """Counts API calls per day and key, shared by the forked processes of one sandbox."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._lock = fork_context().Lock()
        self._counts = fork_context().Array("q", 2 * len(options.keys), lock=False)
        """Per key: the number of the local day, and the API calls of this day."""

    def spend(self, key: str, moment: datetime) -> bool:
        """Count one API call; return False if the day's quota is exhausted."""
        if self._options.daily_quota is None:
            return True
        day = moment.astimezone(self._options.zone).toordinal()
        place = 2 * self._options.keys.index(key)
        with self._lock:
            if self._counts[place] != day:
                self._counts[place], self._counts[place + 1] = day, 0
            if self._counts[place + 1] >= self._options.daily_quota:
                return False
            self._counts[place + 1] += 1
            return True


class SandboxServer:
    """A context manager that serves a sandbox in a thread on a free port."""

    def __init__(
        self, options: SandboxOptions | None = None, catalogue: Catalogue | None = None
    ) -> None:
        self.options = options or SandboxOptions()
        self.world = World(self.options, catalogue)
        self.quota = Quota(self.options)
        self.app = SandboxApp(self.world, self.quota.spend)
        self.app.keep_requests = True
        self.requests = self.app.requests
        """Received requests with their status."""
        self.key = self.options.keys[0]
        """A key that the sandbox accepts."""
        self.url = ""

    @property
    def received(self) -> int:
        """Number of received requests."""
        return self.app.received

    def intercept(self, answer: Intercept) -> None:
        """Call `answer` before each response; send its result instead, unless it is None."""
        self.app.intercept = answer

    def __enter__(self) -> Self:
        """Start serving. Raises: ExtraMissing."""
        self._server = _uvicorn(self.app)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="sandbox", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop serving; drop requests in flight."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()


def serve(
    host: str,
    port: int,
    options: SandboxOptions,
    *,
    workers: int = 1,
    catalogue: Catalogue | None = None,
    started: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve until SIGINT or SIGTERM, in `workers` processes that share port and quota.

    Calls `started` with the URL. More than one worker requires a system that can fork.

    Raises: OSError if the port is in use; ExtraMissing.
    """
    server = _uvicorn(SandboxApp(World(options, catalogue), Quota(options).spend))
    listener = socket.create_server((host, port))

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn replaces these handlers while it runs, and raises the signal again afterwards
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    children = [
        multiprocessing.get_context("fork").Process(target=_work, args=(server, listener))
        for _ in range(workers - 1)
    ]
    try:
        for child in children:
            child.start()
        started(f"http://{host}:{listener.getsockname()[1]}")
        server.run([listener])
    finally:
        for child in children:
            if child.pid:
                child.terminate()
        for child in children:
            if child.pid:
                child.join(_STOP_SECONDS)
                child.kill()


def _work(server: "Server", listener: socket.socket) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        server.should_exit = True

    # a killed first process cannot stop the others, so they watch it
    threading.Thread(target=follow, daemon=True).start()
    server.run([listener])


def _uvicorn(app: SandboxApp) -> "Server":
    require_extra("local", "The sandbox", "uvicorn", "httptools")
    import uvicorn  # noqa: PLC0415 - only needed to serve

    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            http="httptools",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
