"""Dagster's own storage, in the schema `dagster` of the same database: one address for everything, no second variable.

`dagster.yaml` names this class, so every Dagster command in the project finds the instance, with the embedded server too.
"""

from collections.abc import Mapping
from typing import Any, Self

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

SCHEMA = "dagster"


class MagnetisInstanceStorage(DagsterPostgresStorage):
    """DagsterPostgresStorage at MAGNETIS_DATABASE_URL, or at the embedded server where that is not set."""

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
        return cls(postgres_url=url.render_as_string(hide_password=False), inst_data=inst_data)
