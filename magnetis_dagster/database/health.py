"""Facts about a server and a role, for `magnetis doctor`. Changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from magnetis_dagster.database.connection import guarded

STATEMENT_SECONDS = 10

_TIMEOUT = text(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
_CLOCK = text("SELECT clock_timestamp()")
_SERVER = text("""
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::int AS version_number,
           current_setting('server_encoding') AS encoding,
           current_database() AS database,
           inet_server_addr() IS NULL AS by_socket,
           has_database_privilege(current_database(), 'CREATE') AS creates_schemas,
           has_database_privilege(current_database(), 'TEMPORARY') AS creates_temporary_tables,
           -- others may not see the setting
           CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE')
                THEN current_setting('data_directory') END AS data_directory
""")
_SCHEMAS = text("""
    SELECT nspname AS name, has_schema_privilege(oid, 'USAGE') AS is_usable,
           has_schema_privilege(oid, 'CREATE') AS creates_tables
    FROM pg_namespace WHERE nspname = ANY(:names)
""")
_ZONES = text("""
    WITH known AS MATERIALIZED (
        SELECT name FROM pg_timezone_names WHERE name = ANY(:names)
    )
    SELECT known.name, moment,
           extract(epoch FROM (moment AT TIME ZONE known.name) - (moment AT TIME ZONE 'UTC'))::int
               AS seconds
    FROM known CROSS JOIN unnest(CAST(:moments AS timestamptz[])) AS moment
""")


@dataclass(frozen=True, slots=True)
class SchemaRights:
    """Rights of the role in a schema."""

    is_usable: bool
    creates_tables: bool


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server, and the rights of the role in one database."""

    version: str
    version_number: int
    """Such as 180001."""
    encoding: str
    database: str
    by_socket: bool
    """Whether a Unix socket leads to it, so that it runs on this machine."""
    creates_schemas: bool
    creates_temporary_tables: bool
    data_directory: str | None
    """None if the role may not read this setting."""
    schemas: Mapping[str, SchemaRights]
    """By name; only schemas that exist."""
    ahead: timedelta
    """Its clock minus this machine's."""
    accuracy: timedelta
    """`ahead` may be wrong by this much: half of a round trip."""


def read_facts(engine: Engine, schemas: Sequence[str]) -> ServerFacts:
    """Return facts about the server. Raises: DatabaseUnavailable, DatabaseRefused."""
    with guarded(engine, "examine the database"), engine.begin() as connection:
        connection.execute(_TIMEOUT)
        connection.execute(_CLOCK).scalar_one()  # the next round trip is shorter
        before = datetime.now(UTC)
        clock: datetime = connection.execute(_CLOCK).scalar_one()
        accuracy = (datetime.now(UTC) - before) / 2
        server = connection.execute(_SERVER).mappings().one()
        rights = {
            row.name: SchemaRights(row.is_usable, row.creates_tables)
            for row in connection.execute(_SCHEMAS, {"names": list(schemas)})
        }
    return ServerFacts(**server, schemas=rights, ahead=clock - before - accuracy, accuracy=accuracy)


def read_offsets(
    engine: Engine, zones: Sequence[str], moments: Sequence[datetime]
) -> dict[str, dict[datetime, timedelta]]:
    """Return the server's offsets from UTC by zone and moment; zones it does not know are missing.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    found: dict[str, dict[datetime, timedelta]] = {}
    parameters = {"names": list(zones), "moments": list(moments)}
    with guarded(engine, "read the time zones"), engine.begin() as connection:
        connection.execute(_TIMEOUT)
        for name, moment, seconds in connection.execute(_ZONES, parameters):
            found.setdefault(name, {})[moment] = timedelta(seconds=seconds)
    return found
