"""Which key and which API fill the tables: rows of two keys in one table would delete each other."""

from sqlalchemy import Connection, Engine, text

from magnetis_dagster.database import guarded
from magnetis_dagster.errors import NeedsChange

CONNECTION = "magnetis"
"""Name of the one connection."""
_KNOWN = text("SELECT key_fingerprint, origin FROM magnetis_ops.sources WHERE name = :name FOR SHARE")
_CLAIM = """
    INSERT INTO magnetis_ops.sources AS s (name, key_fingerprint, origin, adopted_at)
    VALUES (:name, :key_fingerprint, :origin, magnetis_ops.now())
"""
_ADOPT = text(
    f"{_CLAIM} ON CONFLICT (name) DO UPDATE SET key_fingerprint = excluded.key_fingerprint, origin = excluded.origin, "
    "adopted_at = excluded.adopted_at"
)


class ForeignSource(NeedsChange):
    """The tables were filled with another key, or from another origin; nothing was requested."""


def claim(engine: Engine, *, key_fingerprint: str, origin: str) -> None:
    """Record the key and the origin that fill the tables, if none are recorded. Raises ForeignSource if others are."""
    names = {"name": CONNECTION, "key_fingerprint": key_fingerprint, "origin": origin}
    with guarded(engine, "check the source of the tables"), engine.begin() as connection:
        if (known := _source(connection)) is None:
            connection.execute(text(f"{_CLAIM} ON CONFLICT (name) DO NOTHING"), names)
            known = _source(connection)
    if known == (key_fingerprint, origin):
        return
    known_key, known_origin = known or ("", "")
    what = f"from {known_origin}, not from {origin}" if known_key == key_fingerprint else "with another API key"
    raise ForeignSource(
        f"The tables of this database were filled {what}. Rows of two sources in one table would delete each other, so nothing was "
        "requested. If the key was rotated and has the same scope as the old one, run `magnetis migrate --adopt-key` once. "
        "Otherwise set MAGNETIS_DATABASE_URL to a database of its own for this key."
    )


def adopt(engine: Engine, *, key_fingerprint: str, origin: str) -> None:
    """Record the key and the origin that fill the tables from now on, whatever was recorded."""
    with guarded(engine, "adopt the key"), engine.begin() as connection:
        connection.execute(_ADOPT, {"name": CONNECTION, "key_fingerprint": key_fingerprint, "origin": origin})


def _source(connection: Connection) -> tuple[str, str] | None:
    found = connection.execute(_KNOWN, {"name": CONNECTION}).one_or_none()
    return (found.key_fingerprint, found.origin) if found else None
