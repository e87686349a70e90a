"""Looking at the present state of a collection without loading it: one digest tells whether it changed.

What was read can be kept, so that the run that loads it pays for none of it again.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from magnetis_dagster.api import Call, MagnetisClient, RequestRejected, RouteUnavailable
from magnetis_dagster.api.pagination import Pagination
from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.row_parser import RowParser, shown_name
from magnetis_dagster.catalog.volatile import stable
from magnetis_dagster.errors import MagnetisError, TransientError
from magnetis_dagster.exact_json import dump_json
from magnetis_dagster.warehouse import PageCache

_UTC = ZoneInfo("UTC")
MOST_MEMBERS = 100
"""Paths of a collection that are compared one by one; they are kept in the cursors of sensors."""
DEEPEST_MEMBER = 4
"""Names in a path; an object below is one value."""


class Moving(TransientError):
    """The pages of one look do not fit together: rows were added or removed meanwhile."""


class TooSlow(TransientError):
    """A look took longer than it may."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A collection as it was at one moment."""

    digest: str
    """SHA-256 of its rows in a canonical form: the same rows in another order, or with other spaces, give the same."""
    rows: int
    at: datetime
    """When the look began, by the database's clock."""
    bodies: Sequence[bytes]
    """Pages as received."""
    members: dict[str, str]
    """Digest of each member over all rows, by its path, fit to be shown; they name what has changed, never a value."""

    def keep(self, pages: PageCache, day: date) -> None:
        """Keep the pages as a snapshot of `day` that somebody has begun to read. Raises DatabaseUnavailable, DatabaseRefused."""
        for number, body in enumerate(self.bodies, start=1):
            pages.keep([day], number, body, self.at)


async def observe(client: MagnetisClient, collection: Collection, at: datetime) -> Observation:
    """Read a snapshot collection whole, one request per 250 rows. Raises Moving and what `MagnetisClient.page` raises.

    Volatile members are left out of the digest.
    """
    call = Call(collection.name, collection.route, dict(collection.parameters))
    pagination = Pagination(call.limit)
    pages = [await client.page(call)]
    pagination.add(1, pages[0])
    seen = _ids(collection, pages[0].rows)
    # one after the other: settings have a page or two, and a list that lies about its length must not cost all its pages
    while not pagination.interrupted:
        number = len(pages) + 1
        announced = number <= pagination.announced_pages
        if not announced and pagination.following() is None:
            break
        try:
            page = await client.page(replace(call, page=number))
        except (RequestRejected, RouteUnavailable):
            if announced:
                raise
            break
        ids = _ids(collection, page.rows)
        pages.append(page)
        pagination.add(number, page)
        if not announced and ids and None not in ids and ids <= seen:
            pagination.end(page)
            break
        seen |= ids
    rows = [row for page in pages for row in page.rows]
    stable_rows = [stable(collection, row) for row in rows]
    if contradiction := pagination.contradiction(_distinct(collection, rows)):
        raise Moving(f"{collection.name}: {contradiction}.")
    lines = _lines(stable_rows)
    return Observation(
        _digest(lines), len(lines), at, [page.body for page in pages], member_digests(stable_rows)
    )


def digest_of(stable_rows: Iterable[Any]) -> str:
    """Return the digest of a look that finds these rows; volatile members are left out already."""
    return _digest(_lines(stable_rows))


def _lines(stable_rows: Iterable[Any]) -> set[str]:
    return {dump_json(row, sort=True) for row in stable_rows}


def _digest(lines: set[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def member_digests(rows: Sequence[Any]) -> dict[str, str]:
    """Return a short digest of the values of each member over all rows, by its path; of MOST_MEMBERS at most."""
    values: dict[str, list[str]] = {}
    for row in rows:
        identity = row.get("id") if isinstance(row, dict) else None
        for path, value in _leaves(row):
            values.setdefault(path, []).append(dump_json([identity, value], sort=True))
    return {
        path: hashlib.sha256("\n".join(sorted(values[path])).encode()).hexdigest()[:12]
        for path in sorted(values)[:MOST_MEMBERS]
    }


def _leaves(value: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Yield path and value of each member; dots lead into objects, a list is one value."""
    if isinstance(value, dict) and value and len(names) < DEEPEST_MEMBER:
        for name, member in value.items():
            yield from _leaves(member, *names, shown_name(name))
    elif names:
        yield ".".join(names), value


async def observe_each(
    client: MagnetisClient, collections: Sequence[Collection], at: datetime, *, seconds: float
) -> dict[str, Observation | MagnetisError]:
    """Observation at the collections one after the other for `seconds` at most; return by name what was seen, or what was in the way."""
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


def _ids(collection: Collection, rows: Sequence[Any]) -> frozenset[str | None]:
    objects = [row for row in rows if isinstance(row, dict)]
    return frozenset(
        RowParser(collection, response_zone=_UTC, partition_zone=_UTC).read_all(objects).ids
    )


def _distinct(collection: Collection, rows: Sequence[Any]) -> int:
    """Return how many different rows there are: by id, or by content if a row has none."""
    objects = [row for row in rows if isinstance(row, dict)]
    ids = RowParser(collection, response_zone=_UTC, partition_zone=_UTC).read_all(objects).ids
    nameless = [row for row in rows if not isinstance(row, dict)] + [
        row for row, id_ in zip(objects, ids, strict=True) if not id_
    ]
    return len({id_ for id_ in ids if id_}) + len({dump_json(row, sort=True) for row in nameless})
