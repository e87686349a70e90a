"""The lock under which only one transaction at a time writes the tables of a collection."""

import zlib

from sqlalchemy import Connection, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.database.locks import MERGE_CLASS
from magnetis_dagster.database.session import LOCK_SECONDS

LONGEST_WAIT = "10min"
"""Limit for a merge that waits for others of its collection.

A stopped merge ends earlier, by idle_in_transaction_session_timeout.
"""


def wait_for_turn(connection: Connection, collection: Collection) -> None:
    """Lock the collection, waiting at most LONGEST_WAIT; other locks keep the session's limit."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{LONGEST_WAIT}'"))
    lock_collection(connection, collection)
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))


def lock_collection(connection: Connection, collection: Collection) -> None:
    """Wait for other writers of the collection; lock it until the transaction ends."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:class, :object)"),
        {"class": MERGE_CLASS, "object": zlib.crc32(collection.name.encode()) - 2**31},
    )
