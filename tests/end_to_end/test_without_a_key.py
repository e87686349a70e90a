"""`make run` on a fresh machine: no key, so the sandbox; headless; and being stopped before it has started."""

import re
import signal
import time

import psycopg
import pytest
from harness import Start

# a first start that loads may take its four minutes on a loaded machine, and another one follows
pytestmark = pytest.mark.timeout(600)


def test_the_sandbox_is_used_loaded_and_left_alone_the_next_time(start: Start) -> None:
    dev = start("--load", "1", "--exit")
    assert dev.end() == 0, dev.said
    assert "No MAGNETIS_API_KEY: using the local sandbox at http://127.0.0.1:" in dev.said
    assert "calls: 1 of 1 days" in dev.said
    assert "Traceback" not in dev.said
    assert dev.left() == []

    told = re.search(
        r"export MAGNETIS_API_URL=(http://127\.0\.0\.1:\d+) MAGNETIS_API_KEY=sandbox-key\n",
        dev.said,
    )
    assert told, dev.said

    # then the key comes: its rows have a database of their own
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
    assert mixed.end() == 2, mixed.said
    assert "rows invented by the sandbox" in mixed.said
    assert "a-real-key" not in mixed.said + real.said
    assert real.end(signal.SIGINT, 60) == 0
    assert real.left() + mixed.left() == []


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
def test_stopped_early_it_leaves_no_process(
    start: Start, number: signal.Signals, sign: str
) -> None:
    dev = start(
        environment={"MAGNETIS_API_KEY": "a-real-key", "MAGNETIS_API_URL": "http://127.0.0.1:9"}
    )
    dev.wait_until((dev.home / sign).exists, sign)
    if number == signal.SIGHUP:
        dev.wait_until(
            lambda: len(dev.dagsters()) >= 3, "dagster dev, its code server and what that starts"
        )
    started = time.monotonic()
    assert dev.end(number, 60) == 128 + number, dev.said
    assert time.monotonic() - started < 20
    assert "Traceback" not in dev.said
    assert dev.left() == []


def test_what_a_killed_one_left_is_ended_by_the_next(start: Start) -> None:
    environment = {"MAGNETIS_API_KEY": "a-real-key", "MAGNETIS_API_URL": "http://127.0.0.1:9"}
    killed = start(environment=environment)
    killed.wait_until(
        lambda: len(killed.dagsters()) >= 3, "dagster dev, its code server and what that starts"
    )
    killed.process.kill()
    killed.process.wait()
    assert killed.dagsters(), "nothing outlived it, so there is nothing to test"

    heir = start(environment=environment)
    heir.wait_for("Stopped ")
    heir.wait_for("Serving until Ctrl-C.")
    assert "With an API key, the start loads nothing" in heir.said
    assert heir.query("SELECT count(*) FROM magnetis_ops.api_calls WHERE lane <> 'settings'") == [
        (0,)
    ]
    second = start(environment=environment)
    assert second.end() == 2
    assert f"pid {heir.process.pid}" in second.said
    assert heir.process.poll() is None
    assert heir.end(signal.SIGTERM, 60) == 0
    assert killed.left() + heir.left() == []
