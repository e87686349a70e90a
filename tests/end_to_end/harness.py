"""`magnetis dev` as a process that tests start, watch and end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from magnetis_dagster.dev.home import free_port

PROJECT = Path(__file__).parents[2]


@dataclass
class Dev:
    """One `magnetis dev`, and everything that it says."""

    process: "subprocess.Popen[bytes]"
    home: Path
    port: int
    output: Path
    seen: dict[int, float] = field(default_factory=dict)
    """Every process that was seen to belong to it: pid to start time."""
    noted: float = 0.0
    """When they were looked at last."""

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def database_url(self) -> str:
        return f"postgresql://postgres:@/magnetis?host={self.home / 'postgres'}"

    @property
    def told(self) -> str:
        """What it has said, and what Dagster has logged last: all that a failure on another machine leaves behind."""
        log = self.home / "logs" / "dagster.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([self.said, "dagster.log ends with:", *lines[-40:]])

    def wait_for(self, words: str, seconds: float = 240) -> None:
        """Wait until it has said `words`."""
        end = time.monotonic() + seconds
        while words not in self.said:
            self._glance()
            assert self.process.poll() is None, (
                f"ended with {self.process.returncode}:\n{self.told}"
            )
            assert time.monotonic() < end, f"did not say {words!r} in {seconds} s:\n{self.told}"
            time.sleep(0.2)

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self._glance()
            assert time.monotonic() < end, f"not in {seconds} s: {what}\n{self.told}"
            time.sleep(0.1)

    def end(self, number: signal.Signals | None = None, seconds: float = 240) -> int:
        """Send a signal where one is given, wait for the end, and return the exit code."""
        self.note_processes()
        if number is not None:
            self.process.send_signal(number)
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            self._glance()
            assert time.monotonic() < end, f"still runs:\n{self.told}"
            time.sleep(0.1)
        return self.process.returncode

    def _glance(self) -> None:
        """Note processes once a second: a look takes 40 ms of CPU, and ten a second would slow down what is waited for."""
        if time.monotonic() >= self.noted + 1:
            self.note_processes()

    def note_processes(self) -> None:
        """Remember who belongs to it. By the folder in command line or environment: no knowledge of how it keeps track itself."""
        for process in psutil.process_iter(["cmdline", "environ", "create_time", "status"]):
            belongs = [
                *(process.info["cmdline"] or []),
                (process.info["environ"] or {}).get("MAGNETIS_HOME", ""),
            ]
            if (
                any(str(self.home) in part for part in belongs)
                and process.info["status"] != psutil.STATUS_ZOMBIE
            ):
                self.seen[process.pid] = process.info["create_time"]
        self.noted = time.monotonic()

    def dagsters(self) -> list[str]:
        """Return the command lines of Dagster's processes that run now."""
        return [
            command
            for command in self.left()
            if "dagster" in command and "magnetis_dagster.cli" not in command
        ]

    def left(self) -> list[str]:
        """Return what still runs of all that belonged to it."""
        self.note_processes()
        left = []
        for pid, started in self.seen.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
        return left

    def kill(self) -> None:
        """End everything that belongs to it at once, as a power loss does."""
        while self.left():
            for pid, started in self.seen.items():
                with suppress(psutil.NoSuchProcess):
                    if (process := psutil.Process(pid)).create_time() == started:
                        process.kill()
            time.sleep(0.1)
        self.process.wait()

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement).fetchall()  # type: ignore[call-overload,no-any-return]


Start = Callable[..., Dev]


def starter(home: Path) -> tuple[Start, Callable[[], None]]:
    """Return a function that starts `magnetis dev` in `home`, and one that ends whatever it started."""
    started: list[Dev] = []
    # a working directory's own files go first: the project's, but that run monitoring looks every two seconds
    dagster_yaml = (PROJECT / "dagster.yaml").read_text()
    often = dagster_yaml.replace("poll_interval_seconds: 30", "poll_interval_seconds: 2")
    assert often != dagster_yaml
    (home.parent / "dagster.yaml").write_text(often)
    shutil.copyfile(PROJECT / "workspace.yaml", home.parent / "workspace.yaml")

    def start(*options: str, environment: Mapping[str, str] | None = None) -> Dev:
        port = free_port()
        output = home.parent / f"{home.name}-{len(started)}.out"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAGNETIS_", "DAGSTER_"))
        }
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "magnetis_dagster.cli",
                    "dev",
                    "--port",
                    str(port),
                    *options,
                ],
                env={**clean, "MAGNETIS_HOME": str(home), **(environment or {})},
                cwd=home.parent,  # no .env there
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        started.append(Dev(process, home, port, output))
        return started[-1]

    def clean_up() -> None:
        for dev in started:
            if dev.process.poll() is None:
                dev.process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    dev.process.wait(60)
            if dev.left():
                dev.kill()
        if (pid := home / "postgres" / "postmaster.pid").exists():
            # one that was killed leaves its handle on the server behind, and then nobody's is the last
            with suppress(psutil.NoSuchProcess):
                server = psutil.Process(int(pid.read_text().splitlines()[0]))
                server.send_signal(signal.SIGINT)
                psutil.wait_procs([server], timeout=30)

    return start, clean_up
