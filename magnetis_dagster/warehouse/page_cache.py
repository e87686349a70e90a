"""Pages of windows that are not committed yet, kept as received, so that an interrupted reading pays for none of them twice.

They live in an unlogged table: they survive any process, and a crash of the server empties it, after which they are asked again.
The transaction that makes their window visible forgets them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg
import zstandard
from sqlalchemy import Connection, Engine, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.database import driver_of, guarded

LONGEST_KEPT_DAYS = 7
"""A window that needs the quota of several days is resumed day after day. Older pages are not used: they show another state of the
API, and those that nobody resumes contain personal data. They are dropped at the next commit of their collection."""
_KEEP = """
    INSERT INTO magnetis_ops.pages (work, collection, first_day, last_day, page, fetched_at, body, request)
    VALUES (%(work)s, %(collection)s, %(first)s, %(last)s, %(page)s, %(fetched_at)s, %(body)s, %(request)s)
    ON CONFLICT (work, collection, first_day, last_day, page) DO UPDATE
        SET fetched_at = excluded.fetched_at, body = excluded.body, request = excluded.request
        WHERE pages.request <> excluded.request
           OR pages.fetched_at < excluded.fetched_at - make_interval(days => %(longest)s)
"""
_WINDOW = "work = :work AND collection = :collection AND first_day = :first AND last_day = :last"

Keep = Callable[[psycopg.Cursor[Any]], object]
"""Keeps a page in the transaction of a cursor."""


@dataclass(frozen=True, slots=True)
class CachedWindow:
    """A window of which pages are kept."""

    first: date
    last: date
    read_at: datetime
    """When the first of them was fetched."""
    pages: frozenset[int]


class PageCache:
    """The kept pages of one collection and one work. Every method may raise DatabaseUnavailable or DatabaseRefused."""

    def __init__(self, engine: Engine, collection: Collection, work: str, request: str) -> None:
        """`request`: fingerprint of the requests; pages of others are neither returned nor used."""
        self._engine = engine
        self._names: dict[str, object] = {
            "work": work,
            "collection": collection.name,
            "request": request,
        }

    def windows(self) -> list[CachedWindow]:
        """Return the windows of which usable pages are kept, oldest days first."""
        statement = text(
            "SELECT first_day, last_day, min(fetched_at), array_agg(page) FROM magnetis_ops.pages "
            "WHERE work = :work AND collection = :collection AND request = :request "
            "AND fetched_at > magnetis_ops.now() - make_interval(days => :longest) GROUP BY 1, 2 ORDER BY 1, 2"
        )
        with guarded(self._engine, "read the kept pages"), self._engine.connect() as connection:
            return [
                CachedWindow(first, last, read_at, frozenset(pages))
                for first, last, read_at, pages in connection.execute(
                    statement, self._names | {"longest": LONGEST_KEPT_DAYS}
                )
            ]

    def keep(self, days: Sequence[date], page: int, body: bytes, fetched_at: datetime) -> None:
        """Keep the body of one page of the window over `days`."""
        keep = self.keeping(days, page, body, fetched_at)
        with (
            guarded(self._engine, "keep a page"),
            self._engine.begin() as connection,
            driver_of(connection).cursor() as cursor,
        ):
            keep(cursor)

    def keeping(self, days: Sequence[date], page: int, body: bytes, fetched_at: datetime) -> Keep:
        """Return what keeps the body of one page of the window over `days` in the transaction of a cursor."""
        packed = zstandard.compress(
            body, 1
        )  # fast rather than small: the pages are gone within minutes
        values = (
            self._names
            | _window(days)
            | {"page": page, "fetched_at": fetched_at, "body": packed, "longest": LONGEST_KEPT_DAYS}
        )
        return lambda cursor: cursor.execute(_KEEP, values)

    def body(self, days: Sequence[date], page: int) -> bytes | None:
        """Return the body of a kept page."""
        statement = text(f"SELECT body FROM magnetis_ops.pages WHERE {_WINDOW} AND page = :page")
        with guarded(self._engine, "read the kept pages"), self._engine.connect() as connection:
            packed = connection.execute(
                statement, self._names | _window(days) | {"page": page}
            ).scalar()
        return None if packed is None else zstandard.decompress(packed)

    def forget(self, days: Sequence[date]) -> None:
        """Drop the pages of the window over `days`."""
        with guarded(self._engine, "drop the kept pages"), self._engine.begin() as connection:
            connection.execute(
                text(f"DELETE FROM magnetis_ops.pages WHERE {_WINDOW}"), self._names | _window(days)
            )


def forget_committed(
    connection: Connection, collection: Collection, work: str | None, days: Sequence[date]
) -> None:
    """Drop the pages of a window in the transaction that commits it, and any that nobody came back for."""
    connection.execute(
        text(
            # of the work, all that overlap: a retry may cut its windows otherwise, and never come back for these
            "DELETE FROM magnetis_ops.pages WHERE collection = :collection "
            "AND ((work = :work AND first_day <= :last AND last_day >= :first) "
            "OR fetched_at < magnetis_ops.now() - make_interval(days => :longest))"
        ),
        {"work": work, "collection": collection.name, "longest": LONGEST_KEPT_DAYS} | _window(days),
    )


def _window(days: Sequence[date]) -> dict[str, object]:
    return {"first": days[0], "last": days[-1]}
