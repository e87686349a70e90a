"""A compose stack on a Docker engine of the tests, and helpers.

Without an engine, the tests fail with the reason.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from paths import ROOT
from service_rights import SERVICES
from waiting import wait_until

from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.dev.home import free_port
from magnetis_dagster.errors import MagnetisError

HERE = Path(__file__).parent
IMAGES = {
    "PYTHON_IMAGE": "magnetis-standin-python",
    "POSTGRES_IMAGE": "magnetis-standin-postgres",
    "NGINX_IMAGE": "magnetis-standin-nginx",
    "REDIS_IMAGE": "magnetis-standin-redis",
}
"""Images built by standins.sh; only a registry has an image by its digest.

The variables select others.
"""
LAST = datetime.now(ZoneInfo("Europe/Paris")).date() - timedelta(days=1)
EVENTS = ["calls", "visits"]


@dataclass
class Stack:
    """One project of docker-compose in its own folder, with the sandbox."""

    folder: Path
    environment: dict[str, str]
    profiles: tuple[str, ...] = ("sandbox",)
    passwords: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, httpx.Cookies] = field(default_factory=dict)
    """By user: the session cookie of the proxy. A password without it counts as a guess."""

    def run(self, *command: str, check: bool = True, **options: Any) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
            **options,
        )
        assert not check or done.returncode == 0, (
            f"{' '.join(command)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done.stdout

    def compose(self, *arguments: str, **options: Any) -> str:
        # both generations of compose must work; COMPOSE="docker compose" selects the newer one
        program = os.environ.get("COMPOSE", "docker-compose").split()
        return self.run(
            *program, *(f"--profile={profile}" for profile in self.profiles), *arguments, **options
        )

    def docker(self, *arguments: str) -> str:
        return self.run("/usr/bin/docker", *arguments)

    def up(self, *options: str) -> None:
        self.compose("up", "--detach", *options)
        wait(self.serves, "the UI is served", 240)

    def serves(self) -> bool:
        with suppress(httpx.HTTPError):
            return self.get("admin", "/server_info").status_code == 200
        return False

    def url(self, user: str, port: str | None = None) -> str:
        port = port or self.environment["UI_PORT" if user == "admin" else "VIEWER_PORT"]
        return f"http://{user}:{self.passwords[user]}@127.0.0.1:{port}"

    def get(self, user: str, path: str, port: str | None = None) -> httpx.Response:
        kept = self.cookies.setdefault(user, httpx.Cookies())
        with httpx.Client(timeout=30, trust_env=False, cookies=kept) as client:
            answer = client.get(self.url(user, port) + path)
        kept.update(answer.cookies)
        return answer

    def api(self, user: str = "admin") -> DagsterApi:
        self.get(user, "/server_info")
        api = DagsterApi(self.url(user))
        api._http.cookies.update(self.cookies[user])
        return api

    def execute(self, service: str, *command: str, **options: Any) -> str:
        return self.compose("exec", "-T", service, *command, **options)

    def ports(self, services: Iterable[str]) -> dict[str, str]:
        """Return ADDRESS/PORT by service; a service has an address in each of its networks."""
        return {
            f"{network['IPAddress']}/{SERVICES[name].port}": name
            for name in services
            for network in self.inspect(name)["NetworkSettings"]["Networks"].values()
        }

    def opened(self, source: str, ports: dict[str, str]) -> set[str]:
        """Return the services to which the container `source` can connect, at any address."""
        tries = [
            f"(timeout 3 bash -c '</dev/tcp/{port}' 2>/dev/null && echo {port}) &" for port in ports
        ]
        found = self.execute(source, "bash", "-c", " ".join([*tries, "wait"]))
        return {ports[port] for port in found.split()}

    def inspect(self, service: str) -> dict[str, Any]:
        container = self.compose("ps", "-q", service).strip()
        return dict(json.loads(self.docker("inspect", container))[0])

    def kill(self, service: str) -> None:
        """Send SIGKILL from outside, like an out-of-memory kill.

        After `docker kill`, the engine would not restart it.
        """
        before = self.inspect(service)["State"]
        os.kill(before["Pid"], signal.SIGKILL)

        def back() -> bool:
            state = self.inspect(service)["State"]
            return bool(
                state["Running"]
                and state["Pid"] != before["Pid"]
                and state.get("Health", {}).get("Status") in {None, "healthy"}
            )

        wait(back, f"{service} is back", 240)

    def sql(self, statement: str, database: str = "sandbox") -> str:
        psql = [
            "psql",
            "--username=magnetis",
            f"--dbname={database}",
            "--tuples-only",
            "--no-align",
            "--quiet",
            "--command",
            statement,
        ]
        return self.compose("exec", "-T", "postgres", *psql).strip()

    def counts(self) -> dict[str, int]:
        names = (*EVENTS, "accounts", "email_alerts")
        return {
            name: int(self.sql(f"SELECT count(*) FROM magnetis.{name} WHERE deleted_at IS NULL"))
            for name in names
        }

    def load(self, first: int, last: int) -> None:
        """Load the days from `first` to `last` days before LAST and check them."""
        with self.api() as api:
            wait(api.loaded, "the code location is loaded", 120)
            backfill = api.launch_backfill(days(first, last), title="load", description="", tags={})
        assert ended(self, backfill, 300) == "COMPLETED_SUCCESS"
        self.holds(first, last)

    def holds(self, first: int, last: int) -> None:
        """Assert that each day was read and the table contains the recorded number of rows."""
        between = (
            f"day BETWEEN '{LAST - timedelta(days=first)}' AND '{LAST - timedelta(days=last)}'"
        )
        for name in EVENTS:
            found = self.sql(
                "SELECT count(*), count(*) FILTER (WHERE held = (SELECT count(*) FROM "
                f"magnetis.{name} AS t WHERE t.day = d.day AND deleted_at IS NULL)) FROM "
                f"magnetis_ops.days AS d WHERE collection = '{name}' AND {between}"
            )
            assert found == f"{first - last + 1}|{first - last + 1}", (
                f"{name}: days read, and of these complete: {found}"
            )

    def green(self) -> dict[str, set[date]]:
        with self.api() as api:
            wait(api.loaded, "the code location is loaded", 120)
            return api.green(EVENTS)


def wait(condition: Callable[[], bool], expectation: str, seconds: float) -> None:
    wait_until(condition, expectation, seconds, interval=2)


@contextmanager
def engine() -> Iterator[str]:
    """Start the tests' Docker engine and yield its DOCKER_HOST; a running one is kept."""
    ran = subprocess.run([HERE / "engine.sh", "running"], check=False, timeout=60).returncode == 0
    started = subprocess.run(
        [HERE / "engine.sh", "start"], capture_output=True, text=True, check=False, timeout=600
    )
    assert started.returncode == 0, f"these tests need an engine: {started.stderr}"
    try:
        yield started.stdout.strip()
    finally:
        if not ran:
            subprocess.run([HERE / "engine.sh", "stop"], check=True, timeout=120)


@contextmanager
def brought_up(
    docker_host: str,
    folder: Path,
    *,
    profiles: tuple[str, ...] = ("sandbox",),
    overlay: str,
    secrets: tuple[str, ...] = ("--sandbox",),
    variables: dict[str, str] | None = None,
    up: tuple[str, ...] = (),
) -> Iterator[Stack]:
    """Build and start the stack in a copy of the project; remove it with its volumes afterwards."""
    compose = os.environ.get("COMPOSE", "docker-compose")
    environment = {
        **IMAGES,
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAGNETIS_", "DAGSTER_"))
        },
        "DOCKER_HOST": docker_host,
        "COMPOSE_PROJECT_NAME": os.environ.get("COMPOSE_PROJECT_NAME", "magnetis-test"),
        "COMPOSE_FILE": f"docker-compose.yml:{overlay}",
        "UI_PORT": str(free_port()),
        "VIEWER_PORT": str(free_port()),
        "IN": f"{compose} exec -T --env PGUSER=magnetis postgres",
        **(variables or {}),
    }
    subprocess.run([HERE / "standins.sh"], env=environment, check=True, timeout=900)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(
        listing, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    stack = Stack(folder, environment, profiles)
    said = stack.run("deploy/secrets.sh", *secrets)
    lines = [line for line in said.splitlines() if "password" in line]
    stack.passwords = {
        line.split("user ")[1].split(",")[0]: line.rsplit(" ", 1)[1] for line in lines
    }
    stack.compose("down", "--volumes", "--timeout", "10")
    stack.compose("build")
    try:
        stack.up(*up)
        yield stack
    finally:
        if os.environ.get("KEEP_STACK") is None:
            stack.compose("down", "--volumes", "--timeout", "10")


def days(first: int, last: int) -> dict[str, list[tuple[date, date]]]:
    return {name: [(LAST - timedelta(days=first), LAST - timedelta(days=last))] for name in EVENTS}


def status_of(stack: Stack, backfill: str) -> str:
    """Repeat the query until it is answered.

    Each database session of the webserver fails once after the server was killed.
    """
    query = (
        "query($id: String!) { partitionBackfillOrError(backfillId: $id) "
        "{ ... on PartitionBackfill { status } } }"
    )
    found: dict[str, Any] = {}

    def answered() -> bool:
        with suppress(MagnetisError), stack.api() as api:
            found.update(api.ask(query, id=backfill)["partitionBackfillOrError"])
        return "status" in found

    wait(answered, "the webserver answers", 120)
    return str(found["status"])


def ended(stack: Stack, backfill: str, seconds: float) -> str:
    wait(
        lambda: status_of(stack, backfill).startswith(("COMPLETED", "FAILED", "CANCELED")),
        f"backfill {backfill} has ended",
        seconds,
    )
    return status_of(stack, backfill)
