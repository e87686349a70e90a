"""Records the key and the API that fill each table for a connection, and refuses others.

Loads of two keys under one connection would mark each other's rows as deleted.
"""

from sqlalchemy import Engine

from magnetis_dagster.catalog import Collection
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import guarded, write
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.queries import Queries

_QUERIES = Queries("sources")


class ForeignSource(PermanentError):
    """The connection has rows of another key or origin; no request was sent."""


def claim(
    engine: Engine,
    collection: Collection,
    *,
    key_fingerprint: str,
    origin: str,
    connection_name: str = UNNAMED,
) -> None:
    """Record the source of a connection's rows of a collection.

    Raises: ForeignSource if another source is recorded.
    """
    names = {
        "connection": connection_name,
        "collection": collection.name,
        "key_fingerprint": key_fingerprint,
        "origin": origin,
    }
    with guarded(engine, "check the source of the table"), engine.begin() as connection:
        if (known := connection.execute(_QUERIES["source"], names).one_or_none()) is None:
            connection.execute(_QUERIES["claim"], names)
            known = connection.execute(_QUERIES["source"], names).one()
    if tuple(known) == (key_fingerprint, origin):
        return
    difference = "with another API key"
    option = "" if connection_name == UNNAMED else f" --connection {connection_name}"
    if known.key_fingerprint == key_fingerprint:
        difference = f"from {known.origin}, not from {origin}"
    raise ForeignSource(
        f"{collection.name}: the rows of the connection {connection_name} were loaded "
        f"{difference}. Loads of two sources under one connection would mark each other's rows as "
        "deleted, so no request was sent. If the key was rotated and has the scope of the old one, "
        f"run `magnetis migrate --adopt-key{option}` once. If it has another scope, declare it as "
        "another connection: connections share all tables."
    )


def adopt(
    engine: Engine, *, key_fingerprint: str, origin: str, connection_name: str = UNNAMED
) -> list[str]:
    """Record this key and origin for all tables of the connection.

    Returns: the collections that had another source, sorted.
    """
    names = {
        "connection": connection_name,
        "key_fingerprint": key_fingerprint,
        "origin": origin,
    }
    return sorted(name for (name,) in write(engine, "adopt the key", _QUERIES["adopt"], names))
