"""Rows of another key or origin in the table stop a load before any request.

`magnetis migrate --adopt-key` adopts them.
"""

from datetime import date

import pytest
from small_api import Open, SmallApi, call, serve
from sqlalchemy import Engine
from typer.testing import CliRunner

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.cli.app import app
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse import ForeignSource
from magnetis_dagster.warehouse.source import adopt

DAY = date(2025, 3, 3)
ROWS = [call(n, f"{DAY} 10:00:00") for n in range(3)]


def load(
    open_ingestion: Open, catalogue: Catalogue, collection: str = "calls", **options: object
) -> int:
    with open_ingestion(**options) as ingestion:
        if not catalogue[collection].is_events:
            return ingestion.read_snapshot(catalogue[collection], ingestion._parts.today()).received
        [result] = ingestion.read_days(catalogue[collection], [DAY])
    return result.received


def of_another_key(open_ingestion: Open, catalogue: Catalogue, engine: Engine) -> None:
    with open_ingestion() as ingestion:
        policy = QuotaPolicy(limit=5000, zone=ingestion._parts.zones.partition)
        ingestion._parts.ledger = Ledger(engine, key_fingerprint="another00000", policy=policy)
        list(ingestion.read_days(catalogue["calls"], [DAY]))


def test_rows_of_another_key_stop_a_load_before_any_request(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, engine: Engine
) -> None:
    api.rows["/calls"] = ROWS
    assert load(open_ingestion, catalogue) == 3
    before = len(api.requests)
    with pytest.raises(
        ForeignSource,
        match=r"calls: the rows of the connection magnetis were loaded with another API key"
        r".*--adopt-key.*declare it as another connection",
    ):
        of_another_key(open_ingestion, catalogue, engine)
    assert len(api.requests) == before
    adopted = adopt(engine, key_fingerprint="another00000", origin=api.url)
    assert adopted == ["calls"]
    of_another_key(open_ingestion, catalogue, engine)
    with pytest.raises(ForeignSource):
        load(open_ingestion, catalogue)


def test_rows_of_another_origin_stop_a_load(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    api.rows["/calls"] = ROWS
    load(open_ingestion, catalogue)
    with serve() as other:
        other.rows["/calls"] = ROWS[:1]
        with pytest.raises(
            ForeignSource, match=f"were loaded from {api.url}, not from {other.url}"
        ):
            load(open_ingestion, catalogue, origin=other.url)
        assert other.requests == []
        other.rows["/pools"] = [{"id": "p"}]
        assert load(open_ingestion, catalogue, "pools", origin=other.url) == 1, (
            "another table may have another source"
        )


def test_the_command_adopts_the_key_of_the_environment(
    api: SmallApi,
    open_ingestion: Open,
    catalogue: Catalogue,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    query: object,
) -> None:
    api.rows["/calls"] = ROWS
    load(open_ingestion, catalogue)
    for name, value in {
        "API_KEY": "a-new-key",
        "API_URL": api.url,
        "DATABASE_URL": database_url,
    }.items():
        monkeypatch.setenv(f"MAGNETIS_{name}", value)
    runner = CliRunner()
    assert "Adopted: calls." in runner.invoke(app, ["migrate", "--adopt-key"]).output
    assert "The tables belong to this key." in runner.invoke(app, ["migrate", "--adopt-key"]).output
    assert query("SELECT key_fingerprint, origin FROM magnetis_ops.sources") == [  # type: ignore[operator]
        (Settings.load().key_fingerprint, api.url)
    ]
