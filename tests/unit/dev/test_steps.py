"""Output of `magnetis dev` about the current step, on a terminal and elsewhere."""

import io
import re
import time

import pytest
from rich.console import Console

from magnetis_dagster.dev import console as console_module
from magnetis_dagster.dev.console import Steps


def test_outside_a_terminal_a_long_step_is_printed_repeatedly_until_other_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console_module, "QUIET_SECONDS", 1.0)
    file = io.StringIO()
    with Steps(Console(file=file, width=80)) as steps:
        time.sleep(1.6)
        assert file.getvalue() == "", "no step has started"
        steps.begin("Starting Dagster")
        time.sleep(1.6)
        lines = file.getvalue().splitlines()
        assert lines
        assert all(re.fullmatch(r"  Starting Dagster: \d+ s", line) for line in lines)
        end = time.monotonic() + 1.6
        while time.monotonic() < end:
            steps.restart_timer()
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
