"""Engines whose sessions are set up alike, and the block that turns their errors into ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import URL, Engine

from magnetis_dagster.database.address import engine_url, parameters_of, shown
from magnetis_dagster.database.locks import holders
from magnetis_dagster.database.refusals import DatabaseUnavailable, named
from magnetis_dagster.database.session import set_up
from magnetis_dagster.exact_json import load_stored

DEFAULTS = {"connect_timeout": "10", "application_name": "magnetis_dagster"}
"""Parameters of libpq that a URL may set otherwise."""
SEARCH_PATH = "public"
"""Behind pg_catalog, so nobody's functions take the place of PostgreSQL's. Our statements name the schema of every table."""


class Dialect(PGDialect_psycopg):
    """SQLAlchemy's for psycopg 3; takes all of libpq's parameters, and sets up each session before anything else uses it."""

    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> tuple[list[Any], dict[str, Any]]:
        """Return libpq's parameters, which `engine_url` put there: SQLAlchemy would split several hosts again."""
        # the adapters read JSON by our function
        return [], connect_arguments(url) | {"context": self._psycopg_adapters_map}

    def connect(self, *_arguments: Any, context: Any = None, **parameters: Any) -> Any:
        """Open a session and set it up. Raises the driver's errors and DatabaseRefused."""

        def open_one() -> psycopg.Connection[Any]:
            return psycopg.connect(**parameters, context=context)

        connection = open_one()
        try:
            set_up(connection, shown(engine_url("postgresql", parameters)), open_one, SEARCH_PATH)
        except BaseException:
            connection.close()
            raise
        return connection


registry.register("postgresql.magnetis", __name__, Dialect.__name__)


def connect(url: str, **parameters: str) -> Engine:
    """Return an engine on the psycopg 3 driver for any postgresql:// URL of libpq. Connects on first use.

    `parameters` are libpq's and override those of the URL. Its sessions have the settings of `session.py`; a database or a
    pooler that cannot have them raises DatabaseRefused on the first use.

    Raises: BadAddress if libpq does not take the URL.
    """
    return sqlalchemy.create_engine(
        # the encoding by name: in a database of SQL_ASCII psycopg gives bytes
        engine_url(
            "postgresql+magnetis",
            DEFAULTS | parameters_of(url) | parameters | {"client_encoding": "utf8"},
        ),
        pool_pre_ping=True,
        pool_size=4,
        max_overflow=32,
        hide_parameters=True,
        json_deserializer=load_stored,
    )


def connect_arguments(url: URL) -> dict[str, str]:
    """Return libpq's parameters from SQLAlchemy's form of them."""
    return {
        str(name): str(value)
        for name, value in (url.translate_connect_args(username="user") | dict(url.query)).items()
    }


def driver_of(connection: sqlalchemy.Connection) -> psycopg.Connection[Any]:
    """Return the driver's own connection, for COPY and pipelines."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def without_password(url: str) -> str:
    """Return the URL with its passwords masked, for messages. Raises BadAddress."""
    return shown(engine_url("postgresql", parameters_of(url)))


@contextmanager
def guarded(engine: Engine, doing: str) -> Iterator[None]:
    """Turn driver errors inside the block into DatabaseUnavailable or DatabaseRefused; `doing` completes "could not …"."""
    try:
        yield
    except (sqlalchemy.exc.DBAPIError, psycopg.Error) as error:
        refused = named(error, doing, shown(engine.url), connect_arguments(engine.url))
        if getattr(getattr(error, "orig", error), "sqlstate", None) == "55P03":
            refused = DatabaseUnavailable(f"{refused} {holders(engine)}")
        raise refused from None
    except sqlalchemy.exc.TimeoutError:
        raise DatabaseUnavailable(
            f"Could not {doing}: no database connection came free in time. Run fewer loads at once."
        ) from None
