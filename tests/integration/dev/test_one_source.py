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
