"""Fixtures: an Ingestion on the small API and a fresh database."""

from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from protected import PROTECTION
from small_api import KEY, PARIS, Open, SmallApi, serve
from sqlalchemy import Engine, text

from magnetis_dagster.api import ClientLimits
from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.ingest import Ingestion, RunIdentity, Zones
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.warehouse import Warehouse


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serve() as small:
        yield small


@pytest.fixture
def open_ingestion(engine: Engine, catalogue: Catalogue, api: SmallApi) -> Open:
    """Return an Ingestion on the small API; keyword arguments replace its parts."""

    def open_(
        *,
        run: str = "run-1",
        resumes: bool = False,
        quota: int = 5000,
        catalogue: Catalogue = catalogue,
        engine: Engine = engine,
        key: str = KEY,
        **changes: Any,
    ) -> Ingestion:
        warehouse = Warehouse(
            engine, catalogue, response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
        )
        ledger = Ledger(
            engine, key_fingerprint="0123456789ab", policy=QuotaPolicy(limit=quota, zone=PARIS)
        )
        zones = Zones(partition=PARIS, query=ZoneInfo("UTC"), response=PARIS)
        limits = ClientLimits(attempts=3, read=2.0, total=5.0, wait_initial=0.01, wait_max=0.05)
        identity = RunIdentity(run, "manual", resumes=resumes)
        return Ingestion(
            warehouse,
            ledger,
            identity,
            **{"origin": api.url, "key": key, "zones": zones, "limits": limits, **changes},
        )

    return open_


@pytest.fixture
def query(engine: Engine) -> Callable[..., list[Any]]:
    def query(statement: str, **parameters: Any) -> list[Any]:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement), parameters)]

    return query
