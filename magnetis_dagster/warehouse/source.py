"""Which key and which API fill each table: rows of two keys in one table would delete each other."""

from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.database import guarded
from magnetis_dagster.errors import PermanentError

_KNOWN = text(
    "SELECT key_fingerprint, origin FROM magnetis_ops.sources WHERE collection = :collection"
)
_CLAIM = text("""
    INSERT INTO magnetis_ops.sources (collection, key_fingerprint, origin, adopted_at)
    VALUES (:collection, :key_fingerprint, :origin, magnetis_ops.now()) ON CONFLICT (collection) DO NOTHING
""")
_ADOPT = text("""
    UPDATE magnetis_ops.sources SET key_fingerprint = :key_fingerprint, origin = :origin, adopted_at = magnetis_ops.now()
    WHERE (key_fingerprint, origin) IS DISTINCT FROM (:key_fingerprint, :origin) RETURNING collection
""")


class ForeignSource(PermanentError):
    """The table was filled with another key, or from another origin; nothing was requested."""


def claim(engine: Engine, collection: Collection, *, key_fingerprint: str, origin: str) -> None:
    """Record the key and the origin that fill a collection's table, if none are recorded.

    Raises: ForeignSource if others are recorded.
    """
    names = {"collection": collection.name, "key_fingerprint": key_fingerprint, "origin": origin}
    with guarded(engine, "check the source of the table"), engine.begin() as connection:
        if (known := connection.execute(_KNOWN, names).one_or_none()) is None:
            connection.execute(_CLAIM, names)
            known = connection.execute(_KNOWN, names).one()
    if tuple(known) == (key_fingerprint, origin):
        return
    what = (
        f"from {known.origin}, not from {origin}"
        if known.key_fingerprint == key_fingerprint
        else "with another API key"
    )
    raise ForeignSource(
        f"{collection.name}: its table was filled {what}. Rows of two sources in one table would delete each other, so nothing "
        "was requested. If the key was rotated and has the scope of the old one, run `magnetis migrate --adopt-key` once. "
        "Otherwise set MAGNETIS_DATABASE_URL to a database of its own for this key."
    )


def adopt(engine: Engine, *, key_fingerprint: str, origin: str) -> list[str]:
    """Record that this key and origin fill the tables from now on; return the collections that had another source."""
    with guarded(engine, "adopt the key"), engine.begin() as connection:
        names = {"key_fingerprint": key_fingerprint, "origin": origin}
        return sorted(connection.execute(_ADOPT, names).scalars())
