"""PostgreSQL access: embedded server, addresses, sessions, locks and errors.

Contains no tables and no application statements (see quota/ and warehouse/), no HTTP, no Dagster.
"""

from magnetis_dagster.database.address import BadAddress
from magnetis_dagster.database.connection import (
    connect,
    driver_of,
    fetch,
    guarded,
    has_table,
    write,
)
from magnetis_dagster.database.locks import LockBusy
from magnetis_dagster.database.refusals import DatabaseRefused, DatabaseUnavailable

__all__ = [
    "BadAddress",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "LockBusy",
    "connect",
    "driver_of",
    "fetch",
    "guarded",
    "has_table",
    "write",
]
