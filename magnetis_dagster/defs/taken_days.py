"""The days on which snapshots were taken, read while the code location loads.

That must be fast, and work without a database too. So this module uses the driver alone, waits at
most CONNECT_SECONDS and does not start the embedded server. `magnetis dev` passes its address.
"""

import logging
from collections.abc import Sequence
from datetime import date

from magnetis_dagster.settings import Settings

CONNECT_SECONDS = 5
_STATEMENT = "SELECT DISTINCT day FROM magnetis_ops.days WHERE collection = ANY(%s) ORDER BY day"

log = logging.getLogger(__name__)


def taken_days(settings: Settings, snapshots: Sequence[str]) -> list[date] | None:
    """Return the days on which any of the snapshot collections was taken; empty before the first.

    None if MAGNETIS_DATABASE_URL is unset, or if the database does not answer (logged as a
    warning).
    """
    if settings.database_address is None:
        return None
    import psycopg

    scheme, _, rest = settings.database_address.partition("://")
    try:
        with psycopg.connect(
            f"{scheme.partition('+')[0]}://{rest}",
            connect_timeout=CONNECT_SECONDS,
            prepare_threshold=None,
            application_name="magnetis_dagster",
            client_encoding="utf8",
        ) as connection:
            [[known]] = connection.execute(
                "SELECT to_regclass('magnetis_ops.days') IS NOT NULL"
            ).fetchall()
            rows = connection.execute(_STATEMENT, [list(snapshots)]).fetchall() if known else []
    except psycopg.Error as error:
        # its text may contain the address with the password
        log.warning(
            "The days of past snapshots are unknown, because PostgreSQL did not answer (%s). Until "
            "the code location is reloaded, snapshots have a partition for every day since "
            "MAGNETIS_START_DATE.",
            type(error).__name__,
        )
        return None
    return [day for (day,) in rows]
