"""Detect changes of a collection without loading it, by one digest over its rows.

The pages can be cached, so that the run that loads them sends no request again.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from magnetis_dagster.api import ApiCall, MagnetisClient, RequestRejected, RouteUnavailable
from magnetis_dagster.api.pagination import Pagination
from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.row_parser import RowParser, mask_name
from magnetis_dagster.catalog.volatile import stable
from magnetis_dagster.errors import MagnetisError, TransientError
from magnetis_dagster.exact_json import dump_json
from magnetis_dagster.json_leaves import leaves
from magnetis_dagster.warehouse import PageCache

_UTC = ZoneInfo("UTC")
MOST_MEMBERS = 100
"""Member paths that are compared one by one; sensors store their digests in cursors."""
DEEPEST_MEMBER = 4
"""Names in a path; a deeper object counts as one value."""


class Moving(TransientError):
    """The pages contradict each other: rows were added or removed meanwhile."""


class TooSlow(TransientError):
    """The requests exceeded their time limit."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of a collection at one moment."""

    digest: str
    """SHA-256 of the rows in a canonical form, independent of their order and of white space."""
    rows: int
    at: datetime
    """Start of the requests, by the database's clock."""
    bodies: Sequence[bytes]
    """Pages as received."""
    members: dict[str, str]
    """Digest of a member's values over all rows, by its path, which is safe to show."""

    def keep(self, pages: PageCache, day: date) -> None:
        """Cache the pages like those of an interrupted read of the snapshot of `day`.

        Raises: DatabaseUnavailable or DatabaseRefused.
        """
        for number, body in enumerate(self.bodies, start=1):
            pages.keep([day], number, body, self.at)


async def observe(client: MagnetisClient, collection: Collection, at: datetime) -> Observation:
    """Request all rows of a snapshot collection, one request per 250 rows.

    The digest ignores volatile members.

    Raises: Moving, and the errors of `MagnetisClient.page`.
    """
    call = ApiCall(collection.name, collection.route, dict(collection.parameters))
    pagination = Pagination(call.limit)
    pages = [await client.page(call)]
    pagination.add(1, pages[0])
    seen = set(_ids(collection, pages[0].rows))
    # sequentially: settings have one or two pages, and a false announcement must not cost many
    while not pagination.has_gap:
        number = len(pages) + 1
        announced = number <= pagination.announced_pages
        if not announced and pagination.next_page() is None:
            break
        try:
            page = await client.page(replace(call, page=number))
        except (RequestRejected, RouteUnavailable):
            if announced:
                raise
            break
        ids = set(_ids(collection, page.rows))
        pages.append(page)
        pagination.add(number, page)
        if not announced and ids and None not in ids and ids <= seen:
            pagination.mark_end(page)
            break
        seen |= ids
    rows = [row for page in pages for row in page.rows]
    stable_rows = [stable(collection, row) for row in rows]
    if contradiction := pagination.contradiction(_distinct(collection, rows)):
        raise Moving(f"{collection.name}: {contradiction}.")
    lines, bodies = _lines(stable_rows), [page.body for page in pages]
    return Observation(_sha256(lines), len(lines), at, bodies, _member_digests(stable_rows))


def digest_of(stable_rows: Iterable[Any]) -> str:
    """Return the digest of an observation of these rows, which lack their volatile members."""
    return _sha256(_lines(stable_rows))


def _lines(rows: Iterable[Any]) -> set[str]:
    return {dump_json(row, sort=True) for row in rows}


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _member_digests(rows: Sequence[Any]) -> dict[str, str]:
    """Return a short digest of each member's values, for at most MOST_MEMBERS."""
    values: dict[str, list[str]] = {}
    for row in (row for row in rows if isinstance(row, dict)):
        for names, value in leaves(row, DEEPEST_MEMBER - 1):
            path = ".".join(map(mask_name, names))
            values.setdefault(path, []).append(dump_json([row.get("id"), value], sort=True))
    return {path: _sha256(values[path])[:12] for path in sorted(values)[:MOST_MEMBERS]}


async def observe_each(
    client: MagnetisClient, collections: Sequence[Collection], at: datetime, *, seconds: float
) -> dict[str, Observation | MagnetisError]:
    """Observe the collections one after the other, for at most `seconds`.

    Returns the observation, or the error, by the name of the collection.
    """
    found: dict[str, Observation | MagnetisError] = {}
    try:
        async with asyncio.timeout(seconds):
            for collection in collections:
                try:
                    found[collection.name] = await observe(client, collection, at)
                except MagnetisError as error:
                    found[collection.name] = error
    except TimeoutError:
        for collection in collections:
            found.setdefault(
                collection.name,
                TooSlow(f"{collection.name}: the API took more than {seconds:g} seconds."),
            )
    return found


def _ids(collection: Collection, rows: Sequence[Any]) -> list[str | None]:
    parser = RowParser(collection, response_zone=_UTC, partition_zone=_UTC)
    return list(parser.read_all([row for row in rows if isinstance(row, dict)]).ids)


def _distinct(collection: Collection, rows: Sequence[Any]) -> int:
    """Return the number of distinct rows: by id, or by content if a row has no id."""
    ids = _ids(collection, rows)
    ids_left = iter(ids)
    others = [row for row in rows if not isinstance(row, dict) or not next(ids_left)]
    return len({id_ for id_ in ids if id_}) + len(_lines(others))
