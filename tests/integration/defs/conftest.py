"""Runs in this process, with the small API and a new database that contains Dagster's tables."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest
from dagster_daemon import INSTANCE
from small_api import KEY, SmallApi, serve
from sqlalchemy import Engine, text

from magnetis_dagster.definitions import build_defs

Materialize = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture(scope="session")
def _template(_template: str, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Create Dagster's tables once for all tests: it takes over a second."""
    name = "template_dagster"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_template}")
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").write_text(INSTANCE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MAGNETIS_DATABASE_URL", postgres_url.replace("/postgres?", f"/{name}?"))
        dg.DagsterInstance.from_config(str(home)).dispose()
    return name


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serve() as small:
        yield small


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, api: SmallApi, database_url: str) -> None:
    monkeypatch.setenv("MAGNETIS_API_KEY", KEY)
    monkeypatch.setenv("MAGNETIS_API_URL", api.url)
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", database_url)
    monkeypatch.setattr("magnetis_dagster.defs.step_failures.RETRIES", 1)
    monkeypatch.setattr("magnetis_dagster.defs.step_failures.RETRY_SECONDS", 0.0)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def materialize(instance: dg.DagsterInstance) -> Materialize:
    """Materialize a range of days of one collection in this process, like a backfill run."""

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


@pytest.fixture(autouse=True)
def _no_step_outlives_its_worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """End the step processes that killed workers leave behind."""
    yield
    if request.path.name not in {"test_celery_launcher.py", "test_run_launcher.py"}:
        return
    for process in psutil.process_iter(["environ"]):
        home = (process.info["environ"] or {}).get("DAGSTER_HOME", "")
        if home.startswith(str(tmp_path)) and process.pid != os.getpid():
            with suppress(psutil.NoSuchProcess):
                process.kill()
