"""Run `magnetis dev` as a process in tests."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psutil
import psycopg
from paths import ROOT
from protected import PRIVACY_KEY
from waiting import wait_until

from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.dev.home import free_port


@dataclass
class Dev:
    """One `magnetis dev` with its output and its processes."""

    process: "subprocess.Popen[bytes]"
    home: Path
    port: int
    output_path: Path
    processes: dict[int, float] = field(default_factory=dict)
    """Start time by pid of all its processes so far."""
    recorded_at: float = 0.0
    """Monotonic time of the last update of `processes`."""

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    @property
    def database_url(self) -> str:
        return f"postgresql://postgres:@/magnetis?host={self.home / 'postgres'}"

    @property
    def diagnosis(self) -> str:
        """The output and the end of Dagster's log, for failures on another machine."""
        log = self.home / "logs" / "dagster.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([self.output, "dagster.log ends with:", *lines[-40:]])

    def wait_for(self, text: str, seconds: float = 240) -> None:
        """Wait until the output contains the text."""

        def check() -> None:
            self._record_every_second()
            code = self.process.poll()
            assert code is None, f"ended with {code}:\n{self.diagnosis}"

        wait_until(
            lambda: text in self.output,
            f"prints {text!r}",
            seconds,
            interval=0.2,
            on_poll=check,
            details=lambda: self.diagnosis,
        )

    def wait_until(
        self, condition: Callable[[], bool], expectation: str, seconds: float = 240
    ) -> None:
        wait_until(
            condition,
            expectation,
            seconds,
            interval=0.3,  # most conditions are GraphQL requests, which cost the webserver 20 ms
            on_poll=self._record_every_second,
            details=lambda: self.diagnosis,
        )

    def end(self, number: signal.Signals | None = None, seconds: float = 240) -> int:
        """Send a signal if one is given, wait for the end, and return the exit code."""
        self.record_processes()
        if number is not None:
            self.process.send_signal(number)
        self.wait_until(lambda: self.process.poll() is not None, "ends", seconds)
        return self.process.returncode

    def _record_every_second(self) -> None:
        # one scan takes 40 ms of CPU; ten a second would slow down the tested processes
        if time.monotonic() >= self.recorded_at + 1:
            self.record_processes()

    def record_processes(self) -> None:
        """Record its processes, independent of the implementation.

        Their command line or environment contains the folder.
        """
        for process in psutil.process_iter(["cmdline", "environ", "create_time", "status"]):
            texts = [
                *(process.info["cmdline"] or []),
                (process.info["environ"] or {}).get("MAGNETIS_HOME", ""),
            ]
            alive = process.info["status"] != psutil.STATUS_ZOMBIE
            if alive and any(str(self.home) in text for text in texts):
                self.processes[process.pid] = process.info["create_time"]
        self.recorded_at = time.monotonic()

    def dagster_commands(self) -> list[str]:
        """Return the command lines of Dagster's running processes."""
        return [
            command
            for command in self.remaining()
            if "dagster" in command and "magnetis_dagster.cli" not in command
        ]

    def remaining(self) -> list[str]:
        """Return the command lines of its processes that still run."""
        self.record_processes()
        commands = []
        for pid, started in self.processes.items():
            try:
                process = psutil.Process(pid)
                if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                    commands.append(" ".join(process.cmdline()))
            except psutil.NoSuchProcess:
                continue
        return commands

    def kill(self) -> None:
        """Kill all its processes immediately, like a power loss."""
        while self.remaining():
            for pid, started in self.processes.items():
                with suppress(psutil.NoSuchProcess):
                    if (process := psutil.Process(pid)).create_time() == started:
                        process.kill()
            time.sleep(0.1)
        self.process.wait()

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(statement).fetchall()  # type: ignore[call-overload,no-any-return]


Start = Callable[..., Dev]


def backfill_status(api: DagsterApi, backfill: str) -> str:
    answer = api.ask(
        "query($id: String!) { partitionBackfillOrError(backfillId: $id) "
        "{ ... on PartitionBackfill { status } } }",
        id=backfill,
    )
    return str(answer["partitionBackfillOrError"]["status"])


def runs_of(api: DagsterApi, backfill: str) -> list[dict[str, Any]]:
    """Return id, status and tags of each run of the backfill."""
    found = api.ask(
        "query($id: String!) { runsOrError("
        'filter: {tags: [{key: "dagster/backfill", value: $id}]}) '
        "{ ... on Runs { results { runId status tags { key value } } } } }",
        id=backfill,
    )["runsOrError"]["results"]
    return list(found)


def move_clock(dev: Dev, day: date) -> None:
    """Set every process's clock to 10:00 in Paris on `day`, with complete reserved shares."""
    target = datetime.combine(day, time_of_day(10), ZoneInfo("Europe/Paris"))
    shift = (target - datetime.now(UTC)).total_seconds()
    with psycopg.connect(dev.database_url) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION magnetis_ops.now() RETURNS timestamptz "  # type: ignore[arg-type]
            f"LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp() + make_interval(secs => {shift})'"
        )


def starter(home: Path) -> tuple[Start, Callable[[], None]]:
    """Return functions that start `magnetis dev` in `home` and end all of them."""
    started: list[Dev] = []
    # files in the working directory have priority; run monitoring polls every 2 s here
    original = (ROOT / "dagster.yaml").read_text()
    changed = original.replace("poll_interval_seconds: 30", "poll_interval_seconds: 2")
    assert changed != original
    (home.parent / "dagster.yaml").write_text(changed)
    shutil.copyfile(ROOT / "workspace.yaml", home.parent / "workspace.yaml")

    def start(*options: str, environment: Mapping[str, str] | None = None) -> Dev:
        port = free_port()
        output = home.parent / f"{home.name}-{len(started)}.out"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAGNETIS_", "DAGSTER_"))
        }
        given = dict(environment or {})
        if "MAGNETIS_DATABASE_URL" in given:
            given.setdefault("MAGNETIS_PRIVACY_KEY", PRIVACY_KEY)
        with output.open("wb") as sink:
            command = [sys.executable, "-m", "magnetis_dagster.cli", "dev", "--port", str(port)]
            process = subprocess.Popen(
                [*command, *options],
                env={**clean, "MAGNETIS_HOME": str(home), **given},
                cwd=home.parent,  # contains no .env
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
            if dev.remaining():
                dev.kill()
        if (pid := home / "postgres" / "postmaster.pid").exists():
            # a killed process does not release its use of the server, so no other one stops it
            with suppress(psutil.NoSuchProcess):
                server = psutil.Process(int(pid.read_text().splitlines()[0]))
                server.send_signal(signal.SIGINT)
                psutil.wait_procs([server], timeout=30)

    return start, clean_up
