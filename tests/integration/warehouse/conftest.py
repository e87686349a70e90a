"""A warehouse on a fresh database, and a fixture that loads a window without an API."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from protected import PROTECTION
from sqlalchemy import Engine, text
from windows import load_window

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.warehouse import Emptied, MergeResult, Warehouse

PARIS = ZoneInfo("Europe/Paris")
Load = Callable[..., MergeResult]


@pytest.fixture
def warehouse(engine: Engine, catalogue: Catalogue) -> Warehouse:
    return Warehouse(
        engine, catalogue, response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
    )


@pytest.fixture
def load(warehouse: Warehouse) -> Load:
    """Load pages of rows as one complete window; each window is an hour newer than the last one."""
    clock = iter(datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(10_000))

    def load(
        name: str,
        days: Sequence[date],
        *pages: list[Any],
        read_at: datetime | None = None,
        announced: int | None = None,
        emptied: Emptied = Emptied.DELETE,
    ) -> MergeResult:
        return load_window(
            warehouse,
            name,
            days,
            *pages,
            read_at=read_at or next(clock),
            announced=announced,
            emptied=emptied,
        )

    return load


@pytest.fixture
def query(engine: Engine) -> Callable[..., list[Any]]:
    def query(statement: str, **parameters: Any) -> list[Any]:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement), parameters)]

    return query
