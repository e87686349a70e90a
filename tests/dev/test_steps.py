"""Lines of `magnetis dev` where there is no terminal: it is never silent for long."""

import io
import re
import time

import pytest
from rich.console import Console

from magnetis_dagster.dev import console as console_module
from magnetis_dagster.dev.console import Steps


def test_a_long_step_is_named_again_and_again_until_somebody_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console_module, "QUIET_SECONDS", 1.0)
    file = io.StringIO()
    with Steps(Console(file=file, width=80)) as steps:
        time.sleep(1.6)
        assert file.getvalue() == "", "no step has begun"
        steps.begin("Starting Dagster")
        time.sleep(1.6)
        lines = file.getvalue().splitlines()
        assert lines
        assert all(re.fullmatch(r"  Starting Dagster: \d+ s", line) for line in lines)
        end = time.monotonic() + 1.6
        while time.monotonic() < end:
            steps.printed()
            time.sleep(0.1)
        assert file.getvalue().splitlines() == lines
    time.sleep(1.6)
    assert file.getvalue().splitlines() == lines


def test_on_a_terminal_a_spinner_shows_the_step() -> None:
    file = io.StringIO()
    with Steps(Console(file=file, width=80, force_terminal=True)) as steps:
        steps.begin("Starting [Dagster]")
        time.sleep(0.3)
    assert "Starting [Dagster] ..." in file.getvalue()
