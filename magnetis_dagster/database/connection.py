"""Connecting, and what the server's errors mean to the person who reads the run.

PostgreSQL puts rows into the DETAIL and CONTEXT of its errors ("Failing row contains (…)", "COPY incoming, line 7: …"), and rows
are personal data. So a driver error never leaves this package: `guarded` replaces it by one that carries the SQLSTATE and its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import ConnectionPoolEntry

from magnetis_dagster.errors import NeedsChange, TryAgain
from magnetis_dagster.exact_json import load_stored

_NEEDS_CHANGE = {
    "28": "the server refused the user or the password: correct MAGNETIS_DATABASE_URL",
    "3D": "the database named in MAGNETIS_DATABASE_URL does not exist: create it, or correct the URL",
    "42501": "the database user lacks a privilege: it must own (or be allowed to create) the schemas magnetis and magnetis_ops",
    "53100": "the disk of the database server is full: free space there, then run again",
    "42": "the tables are not as this version expects: the catalogue and the database disagree",
    "22": "a value does not fit its column: please report which collection this was",
    "23": "a row breaks a rule of its table: please report which collection this was",
}
_UNCONNECTED = {
    "root certificate file": "PGSSLMODE wants the server's certificate checked, and no authority is known: set PGSSLROOTCERT to a "
    "file of certificates (/etc/ssl/certs/ca-certificates.crt has the public authorities)",
    "certificate verify failed": "the server's certificate is by no authority of the file that PGSSLROOTCERT names",
    "does not match host name": "the server's certificate is for another host: MAGNETIS_DATABASE_URL must name the one in it",
    "does not support ssl": "PGSSLMODE wants TLS, and the server has none: set it up there, or lower PGSSLMODE",
    "password authentication failed": _NEEDS_CHANGE["28"],
    "no password supplied": _NEEDS_CHANGE["28"],
    "no pg_hba.conf entry": "the server lets this user in with TLS only, or not from here: see PGSSLMODE, and its pg_hba.conf",
}
"""What libpq says in lower case where no session came about, for which there is no SQLSTATE; what to do."""
_TRY_AGAIN = {
    "53300": "the server has no connection left: raise max_connections or run fewer loads at once",
    "53": "the server lacks resources",
    "57": "the server is shutting down or restarting",
    "40": "another transaction was in the way",
    "55P03": "a lock was not had in time: another load of the same collection is running",
    "08": "the connection broke",
}


class DatabaseUnwell(TryAgain):
    """PostgreSQL could not be reached, went away, or was busy. Nothing half written is left behind."""


class DatabaseRefused(NeedsChange):
    """PostgreSQL refused what was asked, and will refuse it again until somebody changes something."""


def connect(url: str) -> Engine:
    """Return an engine on the psycopg 3 driver for any postgresql:// URL; sessions run in UTC. Connects on first use.

    A connection to a database that does not keep its texts in UTF-8 raises DatabaseRefused: it could not hold every name, or
    (SQL_ASCII) would not notice what it cannot read back.
    """
    parsed = _driver_url(url)
    engine = sqlalchemy.create_engine(
        parsed,
        pool_pre_ping=True,
        pool_size=4,
        max_overflow=32,
        hide_parameters=True,
        json_deserializer=load_stored,
        # the encoding by name: in one of SQL_ASCII psycopg gives bytes, and SQLAlchemy fails before `_session` can say why
        connect_args={"connect_timeout": 10, "application_name": "magnetis_dagster", "client_encoding": "utf8"},
    )

    @sqlalchemy.event.listens_for(engine, "connect")
    def _session(connection: psycopg.Connection[object], _record: ConnectionPoolEntry) -> None:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            connection.close()
            raise DatabaseRefused(
                f"The database at {_shown(parsed)} has the encoding {encoding}, and UTF8 is needed. Make one by "
                "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in MAGNETIS_DATABASE_URL."
            )
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    return engine


def driver_of(connection: sqlalchemy.Connection) -> psycopg.Connection[Any]:
    """Return the driver's own connection, for COPY and pipelines."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def _driver_url(url: str) -> URL:
    return make_url(url.replace("postgres://", "postgresql://", 1)).set(drivername="postgresql+psycopg")


def without_password(url: str) -> str:
    """Return the URL with its passwords masked, for messages."""
    return _shown(_driver_url(url))


def _shown(url: URL) -> str:
    # libpq takes a password as a query parameter too, and SQLAlchemy masks only the one before the @
    masked = {name: "***" for name in ("password", "sslpassword") if name in url.query}
    return url.set(drivername="postgresql").update_query_dict(masked).render_as_string(hide_password=True)


@contextmanager
def guarded(engine: Engine, doing: str) -> Iterator[None]:
    """Turn driver errors inside the block into DatabaseUnwell or DatabaseRefused; `doing` completes "could not …"."""
    try:
        yield
    except (sqlalchemy.exc.DBAPIError, psycopg.Error) as error:
        raise named(error, doing, engine) from None
    except sqlalchemy.exc.TimeoutError:
        raise DatabaseUnwell(f"Could not {doing}: no database connection came free in time. Run fewer loads at once.") from None


def named(error: BaseException, doing: str, engine: Engine) -> DatabaseUnwell | DatabaseRefused:
    """Return our error for the driver's `error`, free of rows, statements and passwords."""
    original = getattr(error, "orig", None) or error
    state: str | None = getattr(original, "sqlstate", None)
    where = _shown(engine.url)
    if state is None and isinstance(original, psycopg.DataError):
        return DatabaseRefused(f"Could not {doing} at {where}: {_NEEDS_CHANGE['22']} ({type(original).__name__} of the driver).")
    if state is None:
        text = str(original).lower()
        if advice := next((advice for phrase, advice in _UNCONNECTED.items() if phrase in text), None):
            return DatabaseRefused(f"Could not {doing} at {where}: {advice}.")
        if "does not exist" in text and "database" in text:
            return DatabaseRefused(f"Could not {doing} at {where}: {_NEEDS_CHANGE['3D']}.")
        return DatabaseUnwell(
            f"Could not {doing}: PostgreSQL at {where} cannot be reached ({type(original).__name__}). "
            "Check that the server runs and that MAGNETIS_DATABASE_URL names it; nothing half written is left behind."
        )
    name = f"SQLSTATE {state}, {type(original).__name__}"
    for family, kind in ((_NEEDS_CHANGE, DatabaseRefused), (_TRY_AGAIN, DatabaseUnwell)):
        for prefix in (state, state[:2]):
            if prefix in family and not (kind is DatabaseRefused and state in _TRY_AGAIN):
                return kind(f"Could not {doing} at {where}: {family[prefix]} ({name}). Nothing half written is left behind.")
    return DatabaseUnwell(f"Could not {doing} at {where}: PostgreSQL answered {name}. Nothing half written is left behind.")
