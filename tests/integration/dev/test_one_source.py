"""Rows of the sandbox and of the real API never share a database."""

from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import Engine, text

from magnetis_dagster.dev.run import DevOptions, MixedData, _Session
from magnetis_dagster.dev.signals import StopSignals
from magnetis_dagster.sandbox.options import SANDBOX_KEY
from magnetis_dagster.settings import Settings


def test_the_sandbox_does_not_adopt_the_tables_of_a_real_key(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    api_calls = (
        "INSERT INTO magnetis_ops.api_calls "
        "(key_fingerprint, day, charged_at, collection, route, page, lane, status, rows) "
        "VALUES ('real', current_date, now(), 'calls', '/calls', 1, 'manual', 200, 250)"
    )
    quota_days = (
        "INSERT INTO magnetis_ops.quota_days (key_fingerprint, day, daily_quota) "
        "VALUES ('real', current_date, 5000)"
    )
    sources = (
        "INSERT INTO magnetis_ops.sources "
        "VALUES ('calls', 'real', 'https://api.magnetis.io', now())"
    )
    with engine.begin() as connection:
        for statement in (api_calls, quota_days, sources):
            connection.execute(text(statement))
    settings = Settings.load(
        home=tmp_path,
        database_url=database_url,
        api_key=SANDBOX_KEY,
        api_url="http://127.0.0.1:8250",
    )
    session = _Session(DevOptions(), settings, StopSignals(), Console())
    session.sandbox = True
    with pytest.raises(MixedData, match="rows of the real API"):
        session._prepare_database()
    with engine.connect() as connection:
        assert connection.execute(
            text("SELECT key_fingerprint FROM magnetis_ops.sources")
        ).scalars().all() == ["real"]


def test_declared_connections_are_loaded_only_if_asked_even_with_the_sandboxs_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "magnetis.yaml").write_text("connections: {nord: {api_key_env: KEY_NORD}}")
    monkeypatch.setenv("MAGNETIS_CONFIG", str(tmp_path / "magnetis.yaml"))
    monkeypatch.setenv("MAGNETIS_API_KEY", SANDBOX_KEY)
    monkeypatch.setenv("MAGNETIS_API_URL", "http://127.0.0.1:8250")
    monkeypatch.setattr("magnetis_dagster.dev.run._is_sandbox_port_free", lambda: True)
    session = _Session(DevOptions(), Settings.load(), StopSignals(), Console())
    assert len(session.connections) == 2
    assert not session.sandbox, "it has one connection, and its start loads a month of all"
