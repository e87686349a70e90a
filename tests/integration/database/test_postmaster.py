"""Recognize the embedded server by its pid."""

import os
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from magnetis_dagster.database.postmaster import is_alive


class Users(NamedTuple):
    real: int
    effective: int
    saved: int


class Postgres:
    """The system's own server, whose folder this user cannot read."""

    def __init__(self, _pid: int) -> None: ...

    def status(self) -> str:
        return psutil.STATUS_SLEEPING

    def name(self) -> str:
        return "postgres"

    def uids(self) -> Users:
        return Users(*[os.geteuid() + 1] * 3)

    def cwd(self) -> str:
        raise psutil.AccessDenied


def test_the_systems_server_with_a_reused_pid_is_not_the_embedded_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "Process", Postgres)
    assert not is_alive(4711, tmp_path)
