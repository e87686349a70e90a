"""Records the key and the API that fill each table, and refuses others.

Rows of two keys in one table would delete each other.
"""

from sqlalchemy import Engine

from magnetis_dagster.catalog import Collection
from magnetis_dagster.database import guarded, write
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.queries import Queries

_QUERIES = Queries("sources")


class ForeignSource(PermanentError):
    """The table contains rows of another key or origin; nothing was requested."""


def claim(engine: Engine, collection: Collection, *, key_fingerprint: str, origin: str) -> None:
    """Record the source of a collection's table; raise ForeignSource if another is recorded."""
    names = {"collection": collection.name, "key_fingerprint": key_fingerprint, "origin": origin}
    with guarded(engine, "check the source of the table"), engine.begin() as connection:
        if (known := connection.execute(_QUERIES["source"], names).one_or_none()) is None:
            connection.execute(_QUERIES["claim"], names)
            known = connection.execute(_QUERIES["source"], names).one()
    if tuple(known) == (key_fingerprint, origin):
        return
    difference = "with another API key"
    if known.key_fingerprint == key_fingerprint:
        difference = f"from {known.origin}, not from {origin}"
    raise ForeignSource(
        f"{collection.name}: its table was filled {difference}. Rows of two sources in one table "
        "would delete each other, so nothing was requested. If the key was rotated and has the "
        "scope of the old one, run `magnetis migrate --adopt-key` once. Otherwise set "
        "MAGNETIS_DATABASE_URL to a separate database for this key."
    )


def adopt(engine: Engine, *, key_fingerprint: str, origin: str) -> list[str]:
    """Record this key and origin for all tables; return the collections that had another source."""
    names = {"key_fingerprint": key_fingerprint, "origin": origin}
    return sorted(name for (name,) in write(engine, "adopt the key", _QUERIES["adopt"], names))
