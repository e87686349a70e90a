"""Fixtures: a Dagster project in a temporary folder, a small API, and a database."""

from collections.abc import Iterator

import pytest
from small_api import KEY, SmallApi, serve


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serve() as small:
        yield small


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, api: SmallApi, database_url: str) -> None:
    monkeypatch.setenv("MAGNETIS_API_KEY", KEY)
    monkeypatch.setenv("MAGNETIS_API_URL", api.url)
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", database_url)
