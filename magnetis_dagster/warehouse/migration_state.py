"""Compares a database with the tables of this version and a catalogue. Changes nothing."""

from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import ops
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import guarded, has_table
from magnetis_dagster.warehouse.indexes import (
    missing_indexes,
    qualified,
    replaces_key,
    table_states,
)
from magnetis_dagster.warehouse.migrate import differences
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, OPS_SCHEMA, data_metadata, ops_metadata

_MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class MigrationState:
    """The changes that `magnetis migrate` would make."""

    revision: str | None
    """Migration that the database has; None for a database without tables."""
    is_newer: bool
    """Whether that migration belongs to a later version of this program."""
    pending: tuple[str, ...]
    """Migrations that are not applied, oldest first."""
    missing: tuple[str, ...]
    """Names of declared tables that do not exist; of columns, keys and indexes of existing ones."""

    @property
    def is_current(self) -> bool:
        """Whether it would change nothing."""
        return not (self.is_newer or self.pending or self.missing)


def migration_state(engine: Engine, catalogue: Catalogue) -> MigrationState:
    """Return the state of the tables. Raises DatabaseUnavailable, DatabaseRefused."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    revisions = [each.revision for each in script.walk_revisions()][::-1]
    with guarded(engine, "compare the tables"), engine.connect() as connection:
        if not has_table(connection, f"{OPS_SCHEMA}.alembic_version"):
            return MigrationState(None, False, tuple(revisions), ())
        context = MigrationContext.configure(connection, opts={"version_table_schema": OPS_SCHEMA})
        revision = context.get_current_revision()
        if revision is None:
            return MigrationState(None, False, tuple(revisions), ())
        if revision not in revisions:
            return MigrationState(revision, True, (), ())
        pending = revisions[revisions.index(revision) + 1 :]
        missing = _missing(connection, catalogue)
    return MigrationState(revision, False, tuple(pending), tuple(missing))


def _missing(connection: Connection, catalogue: Catalogue) -> list[str]:
    metadata = data_metadata(catalogue)
    missing = []
    for each in differences(connection, metadata):
        if isinstance(each, ops.CreateTableOp):
            missing.append(f"{DATA_SCHEMA}.{each.table_name}")
        elif isinstance(each, ops.AddColumnOp):
            missing.append(f"{DATA_SCHEMA}.{each.table_name}.{each.column.name}")
    states = table_states(connection)
    for table in (*metadata.sorted_tables, *ops_metadata.sorted_tables):
        if (state := states.get(qualified(table))) is None:
            continue
        if replaces_key(table, state):
            missing.append(f"the primary key of {state.name}")
        missing += [f"the index {each.name}" for each in missing_indexes(table, state)]
    return missing
