"""The days on which snapshots were taken, read while the code location loads.

That must be fast, and work without a database too. So this module uses the driver alone, waits at
most CONNECT_SECONDS and does not start the embedded server. `magnetis dev` passes its address.
"""

import logging
from collections.abc import Iterable
from datetime import date

from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.connections import Connection
from magnetis_dagster.settings import Settings

CONNECT_SECONDS = 5
_COLUMNS = """
    SELECT a.attname FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass('magnetis_ops.days') AND a.attnum > 0 AND NOT a.attisdropped
"""
_STATEMENT = """
    SELECT DISTINCT {connection}, collection, day FROM magnetis_ops.days
    WHERE collection = ANY(%s) AND {connection} = ANY(%s)
"""

log = logging.getLogger(__name__)

TakenDays = dict[str, list[date]]
"""Days on which a connection took any of its snapshots, ascending, by name of the connection."""


def taken_days(settings: Settings, connections: Iterable[Connection]) -> TakenDays | None:
    """Return the days on which each connection took any of its snapshots.

    None if MAGNETIS_DATABASE_URL is unset, or if the database does not answer (logged as a
    warning).
    """
    if settings.database_address is None:
        return None
    import psycopg

    snapshots = {
        each.name: {one.name for one in each.catalogue.enabled if not one.is_events}
        for each in connections
    }
    scheme, _, rest = settings.database_address.partition("://")
    try:
        with psycopg.connect(
            f"{scheme.partition('+')[0]}://{rest}",
            connect_timeout=CONNECT_SECONDS,
            prepare_threshold=None,
            application_name="magnetis_dagster",
            client_encoding="utf8",
        ) as connection:
            columns = {name for (name,) in connection.execute(_COLUMNS)}
            # tables of an earlier version belong to the unnamed connection
            name = "connection" if "connection" in columns else f"'{UNNAMED}'"
            parameters = [sorted(set().union(*snapshots.values())), [*snapshots]]
            rows = (
                connection.execute(_STATEMENT.format(connection=name), parameters).fetchall()
                if columns
                else []
            )
    except psycopg.Error as error:
        # its text may contain the address with the password
        log.warning(
            "The days of past snapshots are unknown, because PostgreSQL did not answer (%s). Until "
            "the code location is reloaded, snapshots have a partition for every day since "
            "MAGNETIS_START_DATE.",
            type(error).__name__,
        )
        return None
    return {
        name: sorted({day for own, one, day in rows if own == name and one in collections})
        for name, collections in snapshots.items()
    }
