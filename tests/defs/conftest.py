"""Dagster runs in this process, on the small API and a fresh database."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest
from small_api import KEY, SmallApi, serve
from sqlalchemy import Engine, text

from magnetis_dagster.definitions import build_defs

Materialize = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serve() as small:
        yield small


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, api: SmallApi, database_url: str) -> None:
    monkeypatch.setenv("MAGNETIS_API_KEY", KEY)
    monkeypatch.setenv("MAGNETIS_API_URL", api.url)
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", database_url)
    monkeypatch.setattr("magnetis_dagster.defs.failures.RETRIES", 1)
    monkeypatch.setattr("magnetis_dagster.defs.failures.RETRY_SECONDS", 0.0)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def materialize(instance: dg.DagsterInstance) -> Materialize:
    """Materialize one collection for a range of days, in this process, as a run of a backfill does."""

    def materialize(
        collection: str, first: date, number: int = 1, *, tags: dict[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        key = dg.AssetKey(["magnetis", collection])
        job = build_defs().resolve_implicit_global_asset_job_def()
        last = first + timedelta(days=number - 1)
        return job.execute_in_process(
            instance=instance,
            asset_selection=[key],
            tags={
                "dagster/asset_partition_range_start": str(first),
                "dagster/asset_partition_range_end": str(last),
                **(tags or {}),
            },
            raise_on_error=False,
        )

    return materialize


@pytest.fixture
def query(database_url: str, engine: Engine) -> Callable[..., list[Any]]:
    def query(statement: str, **parameters: Any) -> list[Any]:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement), parameters)]

    return query
