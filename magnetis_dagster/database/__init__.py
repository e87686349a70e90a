"""WHICH PostgreSQL: the embedded server, addresses, sessions, locks, and the server's errors named by recovery.

No tables and no statements of ours (quota/ and warehouse/ have them), no HTTP, no Dagster.
"""

from magnetis_dagster.database.address import BadAddress
from magnetis_dagster.database.connection import connect, driver_of, guarded
from magnetis_dagster.database.locks import LockBusy
from magnetis_dagster.database.refusals import DatabaseRefused, DatabaseUnavailable

__all__ = [
    "BadAddress",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "LockBusy",
    "connect",
    "driver_of",
    "guarded",
]
