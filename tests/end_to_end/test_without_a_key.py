"""`magnetis dev` on a new machine: the sandbox without a key, and early stops."""

import re
import signal
import time

import psycopg
import pytest
from harness import Start

# a first start with a load may take 4 minutes on a busy machine, and a second start follows
pytestmark = pytest.mark.timeout(600)


def test_the_sandbox_is_loaded_and_real_data_gets_another_database(start: Start) -> None:
    dev = start("--load", "1", "--exit")
    assert dev.end() == 0, dev.output
    assert "No MAGNETIS_API_KEY: using the local sandbox at http://127.0.0.1:" in dev.output
    assert "calls: 1 of 1 days" in dev.output
    assert "Traceback" not in dev.output
    assert dev.remaining() == []

    exports = re.search(
        r"export MAGNETIS_API_URL=(http://127\.0\.0\.1:\d+) MAGNETIS_API_KEY=sandbox-key\n",
        dev.output,
    )
    assert exports, dev.output

    # with a key, rows go to another database
    server = dev.home / "postgres"
    real = start(
        environment={"MAGNETIS_API_KEY": "a-real-key", "MAGNETIS_API_URL": "http://127.0.0.1:9"}
    )
    real.wait_for("Serving until Ctrl-C.")
    assert real.query("SELECT count(*) FROM magnetis.calls") == [(0,)]
    with psycopg.connect(f"postgresql://postgres:@/sandbox?host={server}") as sandbox:
        assert sandbox.execute("SELECT count(*) > 0 FROM magnetis.calls").fetchone() == (True,)
    url = f"postgresql://postgres:@/sandbox?host={server}"
    mixed = start(
        environment={
            "MAGNETIS_API_KEY": "a-real-key",
            "MAGNETIS_DATABASE_URL": url,
            "MAGNETIS_HOME": f"{dev.home}-2",
        }
    )
    assert mixed.end() == 2, mixed.output
    assert "rows invented by the sandbox" in mixed.output
    assert "a-real-key" not in mixed.output + real.output
    assert real.end(signal.SIGINT, 60) == 0
    assert real.remaining() + mixed.remaining() == []


@pytest.mark.parametrize(
    ("number", "sign"),
    [
        (signal.SIGTERM, "postgres"),
        (signal.SIGINT, "logs/dagster.log"),
        (signal.SIGHUP, "dagster/dagster.yaml"),
    ],
    ids=[
        "SIGTERM while the database starts",
        "SIGINT while Dagster is imported",
        "SIGHUP while the code server starts",
    ],
)
def test_an_early_stop_leaves_no_process(start: Start, number: signal.Signals, sign: str) -> None:
    dev = start(
        environment={"MAGNETIS_API_KEY": "a-real-key", "MAGNETIS_API_URL": "http://127.0.0.1:9"}
    )
    dev.wait_until((dev.home / sign).exists, sign)
    if number == signal.SIGHUP:
        dev.wait_until(
            lambda: len(dev.dagster_commands()) >= 3,
            "dagster dev, its code server and its child process run",
        )
    started = time.monotonic()
    assert dev.end(number, 60) == 128 + number, dev.output
    assert time.monotonic() - started < 20
    assert "Traceback" not in dev.output
    assert dev.remaining() == []


def test_the_next_start_stops_leftover_processes_of_a_killed_one(start: Start) -> None:
    environment = {"MAGNETIS_API_KEY": "a-real-key", "MAGNETIS_API_URL": "http://127.0.0.1:9"}
    killed = start(environment=environment)
    killed.wait_until(
        lambda: len(killed.dagster_commands()) >= 3,
        "dagster dev, its code server and its child process run",
    )
    killed.process.kill()
    killed.process.wait()
    assert killed.dagster_commands(), "the test requires leftover processes"

    successor = start(environment=environment)
    successor.wait_for("Stopped ")
    successor.wait_for("Serving until Ctrl-C.")
    assert "With an API key, the start loads nothing" in successor.output
    assert successor.query(
        "SELECT count(*) FROM magnetis_ops.api_calls WHERE lane <> 'settings'"
    ) == [(0,)]
    second = start(environment=environment)
    assert second.end() == 2
    assert f"pid {successor.process.pid}" in second.output
    assert successor.process.poll() is None
    assert successor.end(signal.SIGTERM, 60) == 0
    assert killed.remaining() + successor.remaining() == []
