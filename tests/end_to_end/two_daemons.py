"""With an accidental second daemon, changes are loaded and recorded once.

Takes 3 to 5 minutes, because two daemons and two code servers share the cores. So `make test`
excludes it: `.venv/bin/python -m pytest tests/end_to_end/two_daemons.py`.
tests/integration/defs/test_settings_sensors.py tests the same in one process.
"""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import Dev, Start
from paths import ROOT

from magnetis_dagster.dev.children import MARK
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer

KEY = "e2e-daemons-51c0f2be77"
INTERVAL = 10


@pytest.fixture
def sandbox() -> Any:
    with SandboxServer(
        SandboxOptions(keys=(KEY,), accounts=3, calls_per_day=60, daily_quota=None)
    ) as sandbox:
        yield sandbox


def own_daemon(dev: Dev) -> psutil.Process:
    """Return the daemon that `magnetis dev` runs."""
    found = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if is_daemon(process, dev.home)
    ]
    [daemon] = found
    return daemon


def is_daemon(process: psutil.Process, home: Path) -> bool:
    words = process.info["cmdline"] or []
    return any(word.startswith("dagster._daemon") for word in words) and (
        process.info["environ"] or {}
    ).get("MAGNETIS_HOME") == str(home)


@contextmanager
def second_daemon(dev: Dev, first: psutil.Process) -> Iterator[psutil.Process]:
    """Run a second daemon with the same environment, as from another terminal."""
    environment = {name: value for name, value in first.environ().items() if name != MARK}
    command = [
        Path(sys.executable).parent / "dagster-daemon",
        "run",
        "--workspace",
        ROOT / "workspace.yaml",
    ]
    log = dev.home.parent / "second-daemon.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        dev.wait_until(
            lambda: "Instance is configured with the following daemons" in log.read_text(),
            "the second daemon runs",
            120,
        )
        yield psutil.Process(started.pid)
    finally:
        started.send_signal(signal.SIGCONT)
        family = [daemon := psutil.Process(started.pid), *daemon.children(recursive=True)]
        started.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=15)
        for process in alive:  # its code server may survive it
            with suppress(psutil.NoSuchProcess):
                process.kill()
        started.wait()


@contextmanager
def simultaneous_ticks(*daemons: psutil.Process) -> Iterator[None]:
    """Suspend the daemons until a tick is due, so that they start it at the same time."""
    for daemon in daemons:
        daemon.suspend()
    try:
        time.sleep(INTERVAL + 1)
        yield
    finally:
        for daemon in daemons:
            daemon.resume()


def twin_ticks(dev: Dev) -> int:
    """Return how many ticks of the sensor started before the next one was due."""
    moments = [
        moment
        for (moment,) in dev.query(
            "SELECT extract(epoch FROM timestamp)::float8 FROM dagster.job_ticks "
            "WHERE tick_body LIKE '%alert_settings_sensor%' ORDER BY timestamp"
        )
    ]
    return sum(later - earlier < INTERVAL / 2 for earlier, later in pairwise(moments))  # type: ignore[operator]


CHANGES = (
    "SELECT setting_id, kind, changes FROM magnetis.settings_changes "
    "WHERE kind <> 'first_seen' ORDER BY changed_at"
)
OVERLAPS = (
    "SELECT count(*) FROM magnetis.email_alerts_history AS a "
    "JOIN magnetis.email_alerts_history AS b ON a.id = b.id AND a.ctid < b.ctid "
    "WHERE tstzrange(a.valid_from, a.valid_to) && tstzrange(b.valid_from, b.valid_to)"
)
RUNS = (
    "SELECT t.value, r.status FROM dagster.runs AS r JOIN dagster.run_tags AS t USING (run_id) "
    "WHERE t.key = 'dagster/run_key' AND t.value LIKE 'alert_settings_sensor%'"
)


@pytest.mark.timeout(600)  # two daemons share two cores with other processes
def test_two_daemons_load_and_record_each_change_once(start: Start, sandbox: SandboxServer) -> None:
    dev = start(
        "--load",
        "0",
        environment={
            "MAGNETIS_API_KEY": KEY,
            "MAGNETIS_API_URL": sandbox.url,
            "MAGNETIS_SETTINGS_INTERVAL_SECONDS": str(INTERVAL),
        },
    )
    dev.wait_until(lambda: "http://" in dev.output, "the UI address is printed")
    dev.wait_until(
        lambda: "settings_changes" in str(dev.query("SELECT viewname FROM pg_views")),
        "the tables exist",
    )
    first_loads = (
        "SELECT count(*) FROM magnetis_ops.days WHERE collection IN ('email_alerts', 'sms_alerts')"
    )
    dev.wait_until(lambda: dev.query(first_loads) == [(2,)], "the first snapshots are loaded")
    number = str(dev.query("SELECT id FROM magnetis.email_alerts ORDER BY id LIMIT 1")[0][0])
    first = own_daemon(dev)
    known: list[tuple[object, ...]] = []

    def wait_for_change(kind: str) -> None:
        dev.wait_until(
            lambda: len(dev.query(CHANGES)) > len(known), f"{kind} is detected and loaded", 120
        )
        known.append(dev.query(CHANGES)[-1])
        assert known[-1][:2] == (number, kind)

    with second_daemon(dev, first) as second:
        with simultaneous_ticks(first, second):
            sandbox.world.edit("email_alerts", number, title="A test")
        wait_for_change("changed")
        with simultaneous_ticks(first, second):
            row = sandbox.world.delete("email_alerts", number)
        wait_for_change("removed")
        with simultaneous_ticks(first, second):
            sandbox.world.insert("email_alerts", row)
        wait_for_change("added")
        requests = sandbox.received
        dev.wait_until(lambda: sandbox.received >= requests + 4, "more ticks")

    assert dev.query(CHANGES) == known
    assert dev.query(OVERLAPS) == [(0,)]
    assert dev.query(
        f"SELECT count(*) FROM magnetis.email_alerts_history WHERE id = '{number}'"
    ) == [(3,)]
    finished = Counter(dev.query(RUNS))
    assert len(finished) == 4
    assert set(finished.values()) == {1}
    assert {status for _, status in finished} == {"SUCCESS"}
    assert twin_ticks(dev), "the test requires simultaneous ticks"
