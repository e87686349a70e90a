"""WHICH PostgreSQL: the embedded server, the connection, and the server's errors named by recovery.

No tables and no statements of ours (quota/ and warehouse/ have them), no HTTP, no Dagster.
"""

from magnetis_dagster.database.connection import DatabaseRefused, DatabaseUnwell, connect, driver_of, guarded

__all__ = ["DatabaseRefused", "DatabaseUnwell", "connect", "driver_of", "guarded"]
