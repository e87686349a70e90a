"""Stores pages of uncommitted windows, so that an interrupted run does not request them again.

The table is unlogged: its pages survive the death of a process, but not a crash of the server.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg
import zstandard
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect

from magnetis_dagster.catalog import Collection
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import driver_of, fetch, guarded, write
from magnetis_dagster.warehouse.queries import Queries

RETENTION_DAYS = 7
"""Days after which a page expires: it would show another state of the API.

A window that needs the quota of several days resumes day after day.
"""
_QUERIES = Queries("page_cache")
# for the driver's own cursor, which has another style of parameters
_STORE_PAGE = str(_QUERIES["store_page"].compile(dialect=psycopg_dialect()))  # type: ignore[no-untyped-call]

Keep = Callable[[psycopg.Cursor[Any]], object]
"""Stores a page in the transaction of a cursor."""


@dataclass(frozen=True, slots=True)
class CachedWindow:
    """A window with cached pages."""

    first: date
    last: date
    read_at: datetime
    """When the first of these pages was fetched."""
    pages: frozenset[int]


class PageCache:
    """The cached pages of one connection, collection and run.

    Every method may raise DatabaseUnavailable or DatabaseRefused.
    """

    def __init__(
        self,
        engine: Engine,
        collection: Collection,
        work: str,
        request: str,
        *,
        connection_name: str = UNNAMED,
    ) -> None:
        """`request` is the fingerprint of the requests; pages of other requests are not used."""
        self._engine = engine
        self._names = {
            "connection": connection_name,
            "work": work,
            "collection": collection.name,
            "request": request,
        }

    def windows(self) -> list[CachedWindow]:
        """Return the windows with usable pages, oldest days first."""
        parameters = self._names | {"longest": RETENTION_DAYS}
        found = fetch(self._engine, "read the cached pages", _QUERIES["windows"], parameters)
        return [
            CachedWindow(first, last, read_at, frozenset(pages))
            for first, last, read_at, pages in found
        ]

    def keep(self, days: Sequence[date], page: int, body: bytes, fetched_at: datetime) -> None:
        """Store the body of one page of the window over `days`."""
        keep = self.keeping(days, page, body, fetched_at)  # compresses, so before the transaction
        with (
            guarded(self._engine, "store a page"),
            self._engine.begin() as connection,
            driver_of(connection).cursor() as cursor,
        ):
            keep(cursor)

    def keeping(self, days: Sequence[date], page: int, body: bytes, fetched_at: datetime) -> Keep:
        """Return a function that stores one page of the window over `days` with a given cursor."""
        values = self._values(
            days,
            page=page,
            fetched_at=fetched_at,
            longest=RETENTION_DAYS,
            # level 1 is the fastest: most pages are deleted within minutes
            body=zstandard.compress(body, 1),
        )
        return lambda cursor: cursor.execute(_STORE_PAGE, values)

    def body(self, days: Sequence[date], page: int) -> bytes | None:
        """Return the body of a cached page, or None if it is not cached."""
        parameters = self._values(days, page=page)
        found = fetch(self._engine, "read the cached pages", _QUERIES["body"], parameters)
        return zstandard.decompress(found[0].body) if found else None

    def forget(self, days: Sequence[date]) -> None:
        """Delete the pages of the window over `days`."""
        parameters = self._values(days)
        write(self._engine, "delete cached pages", _QUERIES["delete_window"], parameters)

    def _values(self, days: Sequence[date], **values: object) -> dict[str, object]:
        return {**self._names, "first": days[0], "last": days[-1], **values}


def forget_committed(
    connection: Connection,
    collection: Collection,
    work: str | None,
    days: Sequence[date],
    connection_name: str,
) -> None:
    """Delete the pages of a window in the transaction that commits it, and expired pages."""
    parameters = {
        "connection": connection_name,
        "work": work,
        "collection": collection.name,
        "first": days[0],
        "last": days[-1],
        "longest": RETENTION_DAYS,
    }
    connection.execute(_QUERIES["delete_committed"], parameters)
