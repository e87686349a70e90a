"""The engine that the stacks of one session share."""

from collections.abc import Iterator

import pytest
from compose_stack import engine


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    with engine() as docker_host:
        yield docker_host
