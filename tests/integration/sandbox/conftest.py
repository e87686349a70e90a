"""A sandbox per module, and a client that reads it over HTTP."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer

NOW = datetime(2025, 11, 20, 10, 0, tzinfo=UTC)


@dataclass
class Client:
    server: SandboxServer
    http: httpx.Client
    catalogue: Catalogue

    @property
    def world(self) -> Any:
        return self.server.world

    def get(self, path: str, **parameters: object) -> httpx.Response:
        return self.http.get(
            path, params={name.rstrip("_"): str(value) for name, value in parameters.items()}
        )

    def page(self, collection: str, **parameters: object) -> dict[str, Any]:
        answer = self.get(self.catalogue[collection].route, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def pages(self, collection: str, **parameters: object) -> list[dict[str, Any]]:
        pages = [self.page(collection, **parameters)]
        while pages[-1]["links"]["next"]:
            pages.append(self.page(collection, **parameters, page=len(pages) + 1))
        return pages

    def rows(
        self,
        collection: str,
        start: datetime | None = None,
        end: datetime | None = None,
        **more: object,
    ) -> list[Any]:
        for name, moment in (("from_", start), ("to", end)):
            if moment:
                more[name] = f"{moment.astimezone(UTC):%Y%m%d%H%M%S}"
        return [row for page in self.pages(collection, **more) for row in page["data"]]

    def day(self, collection: str, day: datetime, **more: object) -> list[Any]:
        """Return the rows of the local day that starts at this midnight."""
        return self.rows(collection, day, day + timedelta(days=1) - timedelta(seconds=1), **more)


@pytest.fixture(scope="module")
def open_sandbox(catalogue: Catalogue) -> Iterator[Callable[..., Client]]:
    servers: list[SandboxServer] = []
    with ExitStack() as stack:

        def start(**options: Any) -> Client:
            given = {"clock": lambda: NOW, "daily_quota": None, "accounts": 4} | options
            server = stack.enter_context(SandboxServer(SandboxOptions(**given), catalogue))
            servers.append(server)
            headers = {"x-api-key": server.key}
            http = stack.enter_context(
                httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60)
            )
            return Client(server, http, catalogue)

        yield start
        # each takes 0.2 s to stop; stop them in parallel
        for server in servers:
            server._server.should_exit = server._server.force_exit = True


@pytest.fixture(scope="module")
def sandbox(open_sandbox: Callable[..., Client]) -> Client:
    """Return a sandbox that no test of the module changes."""
    return open_sandbox()


@pytest.fixture
def fresh(open_sandbox: Callable[..., Client]) -> Client:
    """Return a sandbox that the test may change."""
    return open_sandbox()
