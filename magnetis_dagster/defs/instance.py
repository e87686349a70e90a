"""Dagster's own storage, in the schema `dagster` of the same database: one address for everything, no second variable.

`dagster.yaml` names this class, so every Dagster command in the project finds the instance, with the embedded server too.
"""

from collections.abc import Mapping
from typing import Any, Self

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from magnetis_dagster.defs.event_log import MagnetisEventLogStorage

SCHEMA = "dagster"
CONNECTIONS = 1
"""Kept open by each process: a run writes its events one by one, and what it needs beyond is opened and closed again."""
MORE_CONNECTIONS = 40
"""As the threads of a daemon or a code location may ask for at once; far more than they do."""


class MagnetisInstanceStorage(DagsterPostgresStorage):
    """DagsterPostgresStorage at MAGNETIS_DATABASE_URL, or at the embedded server where that is not set."""

    def __init__(self, postgres_url: str, **rest: Any) -> None:
        super().__init__(postgres_url, **rest)
        self._event_log_storage = MagnetisEventLogStorage(postgres_url, should_autocreate_tables=False)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no fields: the environment says where."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:  # noqa: ARG003 - Dagster's signature
        """Return the storage; makes the schema where it is missing. Raises SettingsError, DatabaseUnwell, DatabaseRefused."""
        from sqlalchemy import text
        from sqlalchemy.engine import make_url

        from magnetis_dagster.database import guarded
        from magnetis_dagster.settings import Settings
        from magnetis_dagster.wiring import database_url, open_engine

        settings = Settings.load()
        with open_engine(settings) as engine, guarded(engine, "open Dagster's storage"), engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        url = make_url(database_url(settings))
        # psycopg2 by name: with a bare postgresql:// SQLAlchemy 2.1 takes psycopg 3, and dagster-postgres' NOTIFY fails on it
        url = url.set(drivername="postgresql+psycopg2").update_query_dict({"options": f"-csearch_path={SCHEMA}"})
        storage = cls(postgres_url=url.render_as_string(hide_password=False), inst_data=inst_data)
        storage.keep_connections()
        return storage

    def keep_connections(self) -> None:
        """Let the three storages share a pool of connections.

        Dagster's own engines open one for each statement, and PostgreSQL forks a process for it: over half of what Dagster adds to
        a partition (benchmarks/dagster_share.py). Its remedy, optimize_for_webserver, hands out connections that a restart of
        the server has closed. A webserver replaces these engines by that remedy.
        """
        from dagster_postgres.utils import create_pg_engine

        engine = create_pg_engine(
            self.postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_size=CONNECTIONS,
            max_overflow=MORE_CONNECTIONS,
            pool_pre_ping=True,
        )
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine  # noqa: SLF001 - the three have no other place for it; tests/defs/test_instance.py holds that it is used
