"""A local Magnetis API with believable data, for people without a key, for tests and for benchmarks.

It speaks the documented envelope from the catalogue's routes. No HTTP client, no SQL, no Dagster; it holds no row that it can make.
"""

from magnetis_dagster.sandbox.app import Answer, Request
from magnetis_dagster.sandbox.callers import PERSONAL_MARKERS
from magnetis_dagster.sandbox.options import FAULTS, SANDBOX_KEY, SandboxOptions
from magnetis_dagster.sandbox.server import SandboxServer, serve
from magnetis_dagster.sandbox.world import World

__all__ = [
    "FAULTS",
    "PERSONAL_MARKERS",
    "SANDBOX_KEY",
    "Answer",
    "Request",
    "SandboxOptions",
    "SandboxServer",
    "World",
    "serve",
]
