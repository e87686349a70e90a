"""Stores pages of uncommitted windows, so that an interrupted run does not request them again.

The table is unlogged. Its pages survive the death of any process. A crash of the server empties it,
and the pages are requested again. The transaction that commits a window deletes its pages.
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
from magnetis_dagster.database import driver_of, guarded
from magnetis_dagster.warehouse.queries import Queries

RETENTION_DAYS = 7
"""Days after which a page expires.

A window that needs the quota of several days resumes day after day. Older pages would show another
state of the API, and pages that no run resumes contain personal data. The next commit of the
collection deletes expired pages.
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
    """Time at which the first of these pages was fetched."""
    pages: frozenset[int]


class PageCache:
    """The cached pages of one collection and one run.

    Every method may raise DatabaseUnavailable or DatabaseRefused.
    """

    def __init__(self, engine: Engine, collection: Collection, work: str, request: str) -> None:
        """`request` is the fingerprint of the requests; pages of other requests are not used."""
        self._engine = engine
        self._names: dict[str, object] = {
            "work": work,
            "collection": collection.name,
            "request": request,
        }

    def windows(self) -> list[CachedWindow]:
        """Return the windows with usable pages, oldest days first."""
        parameters = self._names | {"longest": RETENTION_DAYS}
        with guarded(self._engine, "read the cached pages"), self._engine.connect() as connection:
            return [
                CachedWindow(first, last, read_at, frozenset(pages))
                for first, last, read_at, pages in connection.execute(
                    _QUERIES["windows"], parameters
                )
            ]

    def keep(self, days: Sequence[date], page: int, body: bytes, fetched_at: datetime) -> None:
        """Store the body of one page of the window over `days`."""
        keep = self.keeping(days, page, body, fetched_at)
        with (
            guarded(self._engine, "store a page"),
            self._engine.begin() as connection,
            driver_of(connection).cursor() as cursor,
        ):
            keep(cursor)

    def keeping(self, days: Sequence[date], page: int, body: bytes, fetched_at: datetime) -> Keep:
        """Return a function that stores one page of the window over `days` with a given cursor."""
        # level 1 is the fastest: most pages are deleted within minutes
        packed = zstandard.compress(body, 1)
        values = (
            self._names
            | _bounds(days)
            | {"page": page, "fetched_at": fetched_at, "body": packed, "longest": RETENTION_DAYS}
        )
        return lambda cursor: cursor.execute(_STORE_PAGE, values)

    def body(self, days: Sequence[date], page: int) -> bytes | None:
        """Return the body of a cached page, or None if it is not cached."""
        parameters = self._names | _bounds(days) | {"page": page}
        with guarded(self._engine, "read the cached pages"), self._engine.connect() as connection:
            packed = connection.execute(_QUERIES["body"], parameters).scalar()
        return None if packed is None else zstandard.decompress(packed)

    def forget(self, days: Sequence[date]) -> None:
        """Delete the pages of the window over `days`."""
        parameters = self._names | _bounds(days)
        with guarded(self._engine, "delete cached pages"), self._engine.begin() as connection:
            connection.execute(_QUERIES["delete_window"], parameters)


def forget_committed(
    connection: Connection, collection: Collection, work: str | None, days: Sequence[date]
) -> None:
    """Delete the pages of a window in the transaction that commits it, and expired pages."""
    parameters = {"work": work, "collection": collection.name, "longest": RETENTION_DAYS}
    connection.execute(_QUERIES["delete_committed"], parameters | _bounds(days))


def _bounds(days: Sequence[date]) -> dict[str, object]:
    return {"first": days[0], "last": days[-1]}
