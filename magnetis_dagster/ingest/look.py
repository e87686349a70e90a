"""Looking at the present state of a collection without loading it: one digest tells whether it changed.

What was read can be kept, so that the run that loads it pays for none of it again.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from magnetis_dagster.api import Call, MagnetisClient, Page
from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import MagnetisError, TryAgain
from magnetis_dagster.exact_json import dump_json
from magnetis_dagster.ingest.reading import pages_announced
from magnetis_dagster.warehouse import KeptPages


class Moving(TryAgain):
    """The pages of one look do not fit together: rows were added or removed meanwhile."""


class TooSlow(TryAgain):
    """A look took longer than it may."""


@dataclass(frozen=True, slots=True)
class Look:
    """A collection as it was at one moment."""

    digest: str
    """SHA-256 of its rows in a canonical form: the same rows in another order, or with other spaces, give the same."""
    rows: int
    at: datetime
    """When the look began, by the database's clock."""
    bodies: Sequence[bytes]
    """Pages as received."""

    def keep(self, pages: KeptPages, day: date) -> None:
        """Keep the pages as a snapshot of `day` that somebody has begun to read. Raises DatabaseUnwell, DatabaseRefused."""
        for number, body in enumerate(self.bodies, start=1):
            pages.keep([day], number, body, self.at)


async def look(client: MagnetisClient, collection: Collection, at: datetime) -> Look:
    """Read a snapshot collection whole, one call per 250 rows. Raises Moving and what `MagnetisClient.page` raises."""
    call = Call(collection.name, collection.route, dict(collection.parameters))
    first = await client.page(call)
    if first.total is None and first.last_page is None:
        pages = await _until_the_end(client, call, first)
    else:
        others = (client.page(replace(call, page=number)) for number in range(2, pages_announced(first) + 1))
        pages = [first]
        # all to their end: they are charged, and one that is left behind would find its client closed
        for page in await asyncio.gather(*others, return_exceptions=True):
            if isinstance(page, BaseException):
                raise page
            pages.append(page)
    rows = [row for page in pages for row in page.rows]
    lines = {dump_json(row, sort=True) for row in rows}
    announced = {page.total for page in pages}
    if len(announced) > 1 or (first.total is not None and len({_identity(row) for row in rows}) != first.total):
        raise Moving(f"{collection.name}: the API announced {first.total} rows and returned {len(rows)}: they moved meanwhile.")
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return Look(digest, len(lines), at, [page.body for page in pages])


async def look_at_each(
    client: MagnetisClient, collections: Sequence[Collection], at: datetime, *, seconds: float
) -> dict[str, Look | MagnetisError]:
    """Look at the collections one after the other for `seconds` at most; return by name what was seen, or what was in the way."""
    found: dict[str, Look | MagnetisError] = {}
    try:
        async with asyncio.timeout(seconds):
            for collection in collections:
                try:
                    found[collection.name] = await look(client, collection, at)
                except MagnetisError as error:
                    found[collection.name] = error
    except TimeoutError:
        for collection in collections:
            found.setdefault(collection.name, TooSlow(f"{collection.name}: the API took more than {seconds:g} seconds."))
    return found


async def _until_the_end(client: MagnetisClient, call: Call, first: Page) -> list[Page]:
    """Read on behind a page that announces nothing, up to one that is not full."""
    pages = [first]
    # a route that takes no `page` gives the same rows for ever
    while len(pages[-1].rows) >= call.limit and (len(pages) < 2 or pages[-1].rows != pages[-2].rows):
        pages.append(await client.page(replace(call, page=len(pages) + 1)))
    return pages


def _identity(row: Any) -> str:
    named = row.get("id") if isinstance(row, dict) else None
    return str(named) if named else dump_json(row, sort=True)
