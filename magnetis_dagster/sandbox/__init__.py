"""A local Magnetis API with realistic data, for users without a key, tests and benchmarks.

It serves the documented envelope on the catalogue's routes, and generates rows on request. It
uses no HTTP client, no SQL and no Dagster.
"""

from magnetis_dagster.sandbox.app import Answer, Request
from magnetis_dagster.sandbox.callers import PERSONAL_MARKERS
from magnetis_dagster.sandbox.options import FAULTS, SANDBOX_KEY, SANDBOX_KEYS, SandboxOptions
from magnetis_dagster.sandbox.server import SandboxServer, serve
from magnetis_dagster.sandbox.world import World

__all__ = [
    "FAULTS",
    "PERSONAL_MARKERS",
    "SANDBOX_KEY",
    "SANDBOX_KEYS",
    "Answer",
    "Request",
    "SandboxOptions",
    "SandboxServer",
    "World",
    "serve",
]
