"""Create SQLAlchemy engines with uniform sessions, and translate their errors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import Connection, Executable, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import URL, Engine

from magnetis_dagster.database.address import engine_url, mask_passwords, parameters_of
from magnetis_dagster.database.locks import holders
from magnetis_dagster.database.refusals import DatabaseUnavailable, translate_error
from magnetis_dagster.database.session import set_up
from magnetis_dagster.exact_json import load_stored

DEFAULTS = {"connect_timeout": "10", "application_name": "magnetis_dagster"}
"""libpq parameters that a URL may override."""
SEARCH_PATH = "public"
"""Searched after pg_catalog, so no user's function shadows a built-in one.

Every statement of this package qualifies its table names with a schema.
"""


class Dialect(PGDialect_psycopg):
    """SQLAlchemy's dialect for psycopg 3.

    It accepts every libpq parameter and configures sessions.
    """

    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> tuple[list[Any], dict[str, Any]]:
        """Return the libpq parameters that `engine_url` stored in the URL.

        SQLAlchemy's own method would split a list of several hosts again.
        """
        # the adapters of this context decode JSON with `load_stored`
        return [], connect_arguments(url) | {"context": self._psycopg_adapters_map}

    def connect(self, *_arguments: Any, context: Any = None, **parameters: Any) -> Any:
        """Open a session and configure it.

        Raises: DatabaseRefused if the session cannot have the settings; the driver's errors.
        """

        def open_one() -> psycopg.Connection[Any]:
            return psycopg.connect(**parameters, context=context)

        connection = open_one()
        try:
            set_up(
                connection,
                mask_passwords(engine_url("postgresql", parameters)),
                open_one,
                SEARCH_PATH,
            )
        except BaseException:
            connection.close()
            raise
        return connection


registry.register("postgresql.magnetis", __name__, Dialect.__name__)


def connect(url: str, **parameters: str) -> Engine:
    """Return an engine on psycopg 3 for any postgresql:// URL that libpq accepts.

    Connects on first use. `parameters` are libpq parameters and override those of the URL. Each
    session gets the settings of `session.py`. If the database or a connection pooler does not allow
    them, the first use raises DatabaseRefused.

    Raises: BadAddress if libpq rejects the URL.
    """
    return sqlalchemy.create_engine(
        # name the encoding: psycopg returns bytes from a SQL_ASCII database
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
    """Return the libpq parameters in a SQLAlchemy URL."""
    return {
        str(name): str(value)
        for name, value in (url.translate_connect_args(username="user") | dict(url.query)).items()
    }


def driver_of(connection: sqlalchemy.Connection) -> psycopg.Connection[Any]:
    """Return the driver's own connection, for COPY and pipeline mode."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def without_password(url: str) -> str:
    """Return the URL with its passwords masked, for messages.

    Raises: BadAddress if libpq rejects the URL.
    """
    return mask_passwords(engine_url("postgresql", parameters_of(url)))


@contextmanager
def guarded(engine: Engine, action: str) -> Iterator[None]:
    """Translate driver errors to DatabaseUnavailable or DatabaseRefused.

    `action` completes the sentence "Could not …".
    """
    try:
        yield
    except (sqlalchemy.exc.DBAPIError, psycopg.Error) as error:
        translated = translate_error(
            error, action, mask_passwords(engine.url), connect_arguments(engine.url)
        )
        if getattr(getattr(error, "orig", error), "sqlstate", None) == "55P03":
            translated = DatabaseUnavailable(f"{translated} {holders(engine)}")
        raise translated from None
    except sqlalchemy.exc.TimeoutError:
        raise DatabaseUnavailable(
            f"Could not {action}: timed out waiting for a free database connection. "
            "Run fewer loads in parallel."
        ) from None


def has_table(connection: Connection, name: str) -> bool:
    """Return whether a table exists; `name` includes its schema."""
    statement = text("SELECT to_regclass(:name) IS NOT NULL")
    return bool(connection.execute(statement, {"name": name}).scalar_one())


def fetch(
    engine: Engine, action: str, statement: Executable, parameters: Mapping[str, Any] | None = None
) -> Sequence[Any]:
    """Execute a statement in a session of its own; return its rows. `action`: see `guarded`."""
    with guarded(engine, action), engine.connect() as connection:
        return connection.execute(statement, parameters).all()


def write(
    engine: Engine, action: str, statement: Executable, parameters: Mapping[str, Any] | None = None
) -> Sequence[Any]:
    """Execute and commit a statement; return the rows of its RETURNING. `action`: see `guarded`."""
    with guarded(engine, action), engine.begin() as connection:
        result = connection.execute(statement, parameters)
        return result.all() if result.returns_rows else ()
