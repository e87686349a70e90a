"""Dagster's storage, in the schema `dagster` of the database at MAGNETIS_DATABASE_URL.

`dagster.yaml` names this class, so every Dagster command in the project uses the same database.
"""

import time
from collections.abc import Mapping
from functools import partial
from json import dumps
from typing import Any, Self

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import Engine, text
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import URL

from magnetis_dagster.dagster_support.event_log_storage import MagnetisEventLogStorage

SCHEMA = "dagster"
POOL_SIZE = 1
"""Database sessions that each process keeps open: a run writes its events one by one."""
CREATION_SECONDS = 3.0
"""Seconds to wait for the other tables if some of Dagster's are missing."""
MAX_OVERFLOW = 40
"""Additional sessions for the threads of a daemon or a code location; they need far fewer."""


_SHAPES = {"runs": "run_body", "event_logs": "event", "jobs": "job_body"}
"""Tables that exist in every version of Dagster, and one column of each."""


_RELATIONS = text(
    "SELECT c.relname, c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM pg_attribute AS a "
    "WHERE a.attrelid = c.oid AND a.attname = CAST(:shapes AS jsonb) ->> c.relname) AS dagsters "
    "FROM pg_namespace AS n JOIN pg_class AS c "
    "ON c.relnamespace = n.oid AND c.relkind NOT IN ('i', 'I', 'S') "
    "WHERE n.nspname = :schema ORDER BY 1"
)
"""Tables and other objects of the schema, and whether Dagster created each."""


class StorageDialect(PGDialect_psycopg2):
    """SQLAlchemy's dialect for psycopg2 with our session settings and error texts.

    Every engine that Dagster creates uses it. So its tables are in the schema `dagster` even behind
    a pooler, which may ignore startup options.
    """

    driver = "psycopg2"
    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> tuple[list[Any], dict[str, Any]]:
        """Return the libpq parameters that `engine_url` put into the URL."""
        from magnetis_dagster.database.connection import connect_arguments

        return [], connect_arguments(url)

    def connect(self, *_arguments: Any, **parameters: Any) -> Any:
        """Open a session and set it up.

        Raises: DatabaseRefused; OperationalError with our text, which Dagster retries.
        """
        from magnetis_dagster.database import DatabaseRefused
        from magnetis_dagster.database.address import mask_passwords
        from magnetis_dagster.database.refusals import translate_error
        from magnetis_dagster.database.session import set_up

        where = mask_passwords(parameters)
        driver = self.loaded_dbapi
        connection = None
        try:
            connection = driver.connect(**parameters)
            set_up(connection, where, lambda: driver.connect(**parameters), SCHEMA, in_use=True)
        except Exception as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, driver.Error):
                raise
            ours = translate_error(error, "open Dagster's storage", where, parameters)
            if isinstance(ours, DatabaseRefused):
                raise ours from None
            raise driver.OperationalError(str(ours)) from None
        return connection


registry.register("postgresql.magnetis_dagster", __name__, StorageDialect.__name__)


class MagnetisInstanceStorage(DagsterPostgresStorage):
    """DagsterPostgresStorage at MAGNETIS_DATABASE_URL; if that is unset, at the embedded server."""

    def __init__(self, postgres_url: str, **rest: Any) -> None:
        super().__init__(postgres_url, **rest)
        self._event_log_storage = MagnetisEventLogStorage(
            postgres_url, should_autocreate_tables=False
        )

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no fields: the environment contains the address."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Return the storage; create the schema if it is missing.

        Raises: SettingsError; ForeignObject; DatabaseUnavailable; DatabaseRefused.
        """
        from magnetis_dagster.dagster_support.heartbeat_storage import HeartbeatRunStorage
        from magnetis_dagster.database import guarded
        from magnetis_dagster.database.address import engine_url, parameters_of
        from magnetis_dagster.database.connection import DEFAULTS
        from magnetis_dagster.database.locks import change_tables
        from magnetis_dagster.database.schemas import ensure_schema
        from magnetis_dagster.settings import Settings
        from magnetis_dagster.wiring import database_url, open_engine

        settings = Settings.load()
        doing = "open Dagster's storage"
        parameters = DEFAULTS | parameters_of(database_url(settings)) | {"client_encoding": "utf8"}
        url = engine_url("postgresql+magnetis_dagster", parameters)

        address = url.render_as_string(hide_password=False)
        with open_engine(settings) as engine, guarded(engine, doing):
            if not _are_created(engine):
                change_tables(engine, doing, partial(ensure_schema, schema=SCHEMA))
                # Dagster creates missing tables; two concurrent processes would fail
                change_tables(engine, doing, lambda _connection: cls(address))
        storage = cls(address, inst_data=inst_data)
        storage._run_storage = HeartbeatRunStorage(
            storage.postgres_url, should_autocreate_tables=False
        )
        storage.share_pool()
        return storage

    def share_pool(self) -> None:
        """Let the three storages share a pool of database sessions.

        Dagster's own engines open a session for each statement. That was over half of Dagster's
        overhead per partition (benchmarks/dagster_share.py). Dagster's alternative,
        optimize_for_webserver, returns sessions that a restart of the server has closed. A
        webserver still uses it.
        """
        from dagster_postgres.utils import create_pg_engine

        engine = create_pg_engine(
            self.postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_size=POOL_SIZE,
            max_overflow=MAX_OVERFLOW,
            pool_pre_ping=True,
        )
        # no public parameter sets it; tests/integration/defs/test_instance.py checks its use
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine  # noqa: SLF001


def _are_created(engine: Engine) -> bool:
    """Return whether Dagster's tables exist; wait if another process may be creating them.

    Dagster creates them in several transactions, and several code servers may start together.

    Raises: ForeignObject if the schema contains only tables that Dagster did not create.
    """
    from magnetis_dagster.warehouse.foreign_objects import ForeignObject

    end = time.monotonic() + CREATION_SECONDS
    while True:
        with engine.connect() as connection:
            parameters = {"schema": SCHEMA, "shapes": dumps(_SHAPES)}
            relations: dict[str, bool] = dict(connection.execute(_RELATIONS, parameters).all())
        if relations and not any(relations.values()):
            wrong = list(relations)
        else:
            wrong = [name for name in _SHAPES if relations.get(name) is False]
        if not wrong:
            return all(relations.get(name) for name in _SHAPES)
        if time.monotonic() >= end:
            raise ForeignObject(
                f"Dagster did not create {', '.join(f'{SCHEMA}.{name}' for name in wrong[:5])}. It "
                f"needs the schema {SCHEMA} for itself. Rename or move these objects, or set "
                "MAGNETIS_DATABASE_URL to another database. Nothing was changed."
            )
        time.sleep(0.2)
