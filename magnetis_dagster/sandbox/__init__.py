"""A local Magnetis API with believable data, for people without a key, for tests and for benchmarks.

It speaks the documented envelope from the catalogue's routes. No HTTP client, no SQL, no Dagster. Rows
are made when they are requested.
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
