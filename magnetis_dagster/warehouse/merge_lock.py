"""The locks of the transactions that write the tables of a collection.

Merges of different connections write different rows, so they run concurrently. A merge takes the
collection's lock in shared mode, then the lock of its connection and collection. A change of the
tables takes the collection's lock in exclusive mode and so excludes all merges. No transaction
waits for the first lock while it holds the second, so the two cannot form a deadlock.
"""

import zlib

from sqlalchemy import Connection, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.database.locks import CONNECTION_MERGE_CLASS, MERGE_CLASS
from magnetis_dagster.database.session import LOCK_SECONDS

LONGEST_WAIT = "10min"
"""Limit for a merge that waits for others of its connection and collection.

A stopped merge ends earlier, by idle_in_transaction_session_timeout.
"""


def wait_for_turn(connection: Connection, collection: Collection, connection_name: str) -> None:
    """Wait for other writers of the same rows; exclude them until the transaction ends.

    Waits at most LONGEST_WAIT. Other locks keep the session's limit.
    """
    connection.execute(text(f"SET LOCAL lock_timeout = '{LONGEST_WAIT}'"))
    connection.execute(
        text("SELECT pg_advisory_xact_lock_shared(:class, :object)"),
        {"class": MERGE_CLASS, "object": _number(collection.name)},
    )
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:class, :object)"),
        {
            "class": CONNECTION_MERGE_CLASS,
            "object": _number(f"{connection_name}/{collection.name}"),
        },
    )
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))


def lock_collection(connection: Connection, collection: Collection) -> None:
    """Wait for the merges of all connections; exclude them until the transaction ends."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:class, :object)"),
        {"class": MERGE_CLASS, "object": _number(collection.name)},
    )


def _number(name: str) -> int:
    return zlib.crc32(name.encode()) - 2**31
