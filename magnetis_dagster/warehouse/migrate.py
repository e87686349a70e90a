"""Brings a database to the tables of this version and this catalogue.

Users add columns by MAGNETIS_CONFIG that no shipped migration can know. So there are three steps:

1. Alembic's migrations bring `magnetis_ops` from release to release. They also make the changes
   that cannot be derived from the catalogue, such as a rename or another type.
2. Alembic compares the catalogue with `magnetis`, and the missing tables and columns are created.
3. The views of those tables are created or replaced.

Only `drop_columns` drops anything, and only an operator runs it.

A change of a table waits for its lock as described in `database/locks.py`: other sessions proceed
between its attempts, and the error names the session that blocks it. Indexes of tables with rows
are built one by one, after the locks that block readers are released.

A column whose type differs from the declared one does not fail the migration. It fails the loads
of its collection only (`columns.require_declared_types`).
"""

import hashlib
from collections.abc import Callable, MutableMapping
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from alembic import command
from alembic.autogenerate import produce_migrations
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, MetaData, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from magnetis_dagster.catalog import Catalogue, Collection, ColumnType
from magnetis_dagster.catalog.model import INDEXED_CHARACTERS
from magnetis_dagster.database import guarded
from magnetis_dagster.database.locks import change_tables
from magnetis_dagster.database.schemas import ensure_schema
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse import read_only
from magnetis_dagster.warehouse.columns import Comparison, TableColumn, compare_columns
from magnetis_dagster.warehouse.foreign_objects import require_own
from magnetis_dagster.warehouse.merge_lock import lock_collection
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, OPS_SCHEMA, data_metadata
from magnetis_dagster.warehouse.settings_changes import ABOUT, VIEW, view_statements
from magnetis_dagster.warehouse.views import (
    declared_statements,
    drop_view,
    refresh_views,
    view_comments,
    view_name,
)

PARIS = ZoneInfo("Europe/Paris")
_MIGRATIONS = Path(__file__).parent / "migrations"
_DEPENDENTS = Queries("columns")["dependents"]
_digests: dict[int, str] = {}
"""By catalogue and time zone. One takes 0.2 s of CPU, and each tick of a sensor needs it."""
_ADDITIVE = (ops.CreateTableOp, ops.AddColumnOp, ops.CreateIndexOp)


class ColumnInUse(PermanentError):
    """A view or another object uses a column that should be dropped; the text names both."""


class NewerDatabase(PermanentError):
    """A newer version of this program has migrated the database."""


def migrate(
    engine: Engine,
    catalogue: Catalogue,
    progress: Callable[[str], None] = lambda _line: None,
    zone: ZoneInfo = PARIS,
) -> bool:
    """Bring the database to this version and this catalogue; return whether it changed.

    Every process may call this when it starts. If the database is up to date, it costs one query
    and waits for no lock.

    `progress` receives a line for each attempt that found a lock taken.
    `zone` is the time zone of local times in views: MAGNETIS_TIMEZONE.

    Raises: ForeignObject, NewerDatabase, LockBusy, DatabaseUnavailable, DatabaseRefused.
    """
    digest = _digest(catalogue, zone)
    action = "bring the tables up to date"
    with guarded(engine, action):
        with engine.connect() as connection:
            if _applied(connection) == digest:
                return False

        def upgrade(connection: Connection) -> list[ops.CreateIndexOp]:
            if _applied(connection) == digest:
                return []
            return _upgrade(connection, catalogue, zone)

        # after a crash between two indexes, the next run finds the others missing
        for index in change_tables(engine, action, upgrade, progress):
            if collection := catalogue.collections.get(index.table_name):
                # In a transaction of its own: an index contains the old versions of rows that the
                # same transaction updates.
                clear = partial(_clear_too_long, index=index, collection=collection)
                change_tables(engine, action, clear, progress)
            change_tables(engine, action, partial(_create_index, index=index), progress)
        return change_tables(engine, action, partial(_record, digest=digest), progress)


def _upgrade(
    connection: Connection, catalogue: Catalogue, zone: ZoneInfo
) -> list[ops.CreateIndexOp]:
    """Update tables, columns and views; return the missing indexes of tables with rows."""
    metadata = data_metadata(catalogue)
    require_own(connection, metadata, {VIEW: ABOUT} | view_comments(catalogue))
    for schema in (DATA_SCHEMA, OPS_SCHEMA):
        ensure_schema(connection, schema)
    for name in sorted(catalogue.collections):
        # a merge locks the tables of a collection in another order
        lock_collection(connection, catalogue[name])
    try:
        command.upgrade(_config(connection), "head")
    except CommandError:
        raise NewerDatabase(
            "The tables of magnetis_ops were made by a newer version of magnetis_dagster. Install "
            "that version or a later one. Nothing was changed."
        ) from None
    missing = [
        operation
        for operation in differences(connection, metadata)
        if isinstance(operation, _ADDITIVE)
    ]
    new = {
        operation.table_name for operation in missing if isinstance(operation, ops.CreateTableOp)
    }
    later = [
        operation
        for operation in missing
        if isinstance(operation, ops.CreateIndexOp) and operation.table_name not in new
    ]
    operations = Operations(MigrationContext.configure(connection))
    for operation in missing:
        if operation not in later:
            operations.invoke(operation)
    for statement in view_statements(catalogue):
        connection.execute(text(statement))
    refresh_views(connection, catalogue, zone)
    read_only.grant(connection)
    return later


def _clear_too_long(
    connection: Connection, index: ops.CreateIndexOp, collection: Collection
) -> None:
    """Set texts to NULL that are too long for the index, as the row parser does."""
    names = {
        column if isinstance(column, str) else getattr(column, "name", "")
        for column in index.columns
    }
    indexed = names & collection.indexed & collection.columns.keys()
    texts = [name for name in indexed if collection.columns[name].type is ColumnType.TEXT]
    for name in sorted(texts):
        too_long = f'length("{name}") > {INDEXED_CHARACTERS}'
        connection.execute(
            text(f'UPDATE {DATA_SCHEMA}.{index.table_name} SET "{name}" = NULL WHERE {too_long}')
        )


def _create_index(connection: Connection, index: ops.CreateIndexOp) -> None:
    index.if_not_exists = True
    Operations(MigrationContext.configure(connection)).invoke(index)


def _record(connection: Connection, digest: str) -> bool:
    """Record the digest of the tables; return False if another process has done so."""
    if _applied(connection) == digest:
        return False
    connection.execute(
        text(
            f"INSERT INTO {OPS_SCHEMA}.schema_state (name, digest) VALUES ('catalogue', :digest) "
            "ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, applied_at = now()"
        ),
        {"digest": digest},
    )
    return True


def compare(engine: Engine, catalogue: Catalogue) -> Comparison:
    """Compare the columns of every collection with its declaration.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "compare the columns"), engine.connect() as connection:
        found = [
            compare_columns(connection, catalogue[name]) for name in sorted(catalogue.collections)
        ]
    return Comparison(
        undeclared=[column for each in found for column in each.undeclared],
        disagreements=[sentence for each in found for sentence in each.disagreements],
    )


def drop_columns(
    engine: Engine,
    catalogue: Catalogue,
    progress: Callable[[str], None] = lambda _line: None,
    zone: ZoneInfo = PARIS,
) -> list[TableColumn]:
    """Drop the columns that the catalogue no longer declares, all or none; return them.

    Call `migrate` before.

    Raises: ColumnInUse, LockBusy, DatabaseUnavailable, DatabaseRefused.
    """

    with guarded(engine, "drop columns"):
        drop = partial(_drop_columns, catalogue=catalogue, zone=zone)
        return change_tables(engine, "drop columns", drop, progress)


def _drop_columns(
    connection: Connection, catalogue: Catalogue, zone: ZoneInfo
) -> list[TableColumn]:
    dropped: list[TableColumn] = []
    for collection in (catalogue[name] for name in sorted(catalogue.collections)):
        if compare_columns(connection, collection).undeclared:
            lock_collection(connection, collection)
            dropped += compare_columns(connection, collection).undeclared
    own_views = {
        f"the view {DATA_SCHEMA}.{view_name(each)}": each for each in catalogue.collections.values()
    }
    dependents = _dependents(connection, dropped)
    uses = [f"{column} is used by {what}" for column, what in dependents if what not in own_views]
    if uses:
        raise ColumnInUse(
            f"{'; '.join(uses)}. No column was dropped. Change or drop the dependent objects, then "
            "run `magnetis migrate --drop-columns --yes` again."
        )
    affected = {what: own_views[what] for _, what in dependents}
    grants = [
        grant for collection in affected.values() for grant in drop_view(connection, collection)
    ]
    for column in dropped:
        connection.execute(
            text(f'ALTER TABLE {DATA_SCHEMA}.{column.table} DROP COLUMN "{column.name}"')
        )
    if affected:
        refresh_views(connection, catalogue, zone)
    for grant in grants:
        connection.execute(text(grant))
    return dropped


def _dependents(
    connection: Connection, columns: list[TableColumn]
) -> list[tuple[TableColumn, str]]:
    """Return each column with a description of each object that uses it."""
    return [
        (column, what)
        for column in columns
        for _, what in connection.execute(
            _DEPENDENTS, {"table": f"{DATA_SCHEMA}.{column.table}", "names": [column.name]}
        )
    ]


def differences(connection: Connection, metadata: MetaData) -> list[ops.MigrateOperation]:
    """Return the operations, as a flat list, that would bring the schema's tables to `metadata`."""
    schema = metadata.schema
    context = MigrationContext.configure(
        connection,
        opts={
            "target_metadata": metadata,
            "include_schemas": True,
            "include_name": _only(schema),
            "compare_type": True,
        },
    )
    upgrade = produce_migrations(context, metadata).upgrade_ops
    found: list[ops.MigrateOperation] = []
    for operation in upgrade.ops if upgrade else ():
        found.extend(operation.ops if isinstance(operation, ops.ModifyTableOps) else [operation])
    return found


def _only(schema: str | None) -> Callable[[str | None, str, MutableMapping[str, str | None]], bool]:
    def include(name: str | None, kind: str, parents: MutableMapping[str, str | None]) -> bool:
        if kind == "schema":
            return name == schema
        return parents.get("schema_name") == schema and name != "alembic_version"

    return include


def _applied(connection: Connection) -> str | None:
    # Not by to_regclass: after the wait for the lock, it may still return a result from the
    # session's cache, and everything would be done twice.
    exists = (
        "SELECT 1 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = :schema AND c.relname = 'schema_state'"
    )
    if connection.execute(text(exists), {"schema": OPS_SCHEMA}).scalar() is None:
        return None
    found = connection.execute(
        text(f"SELECT digest FROM {OPS_SCHEMA}.schema_state WHERE name = 'catalogue'")
    ).scalar()
    return str(found) if found else None


def _digest(catalogue: Catalogue, zone: ZoneInfo) -> str:
    """Return the digest of everything that `migrate` creates for a catalogue."""
    key = hash((catalogue.model_dump_json(), zone.key))
    if key not in _digests:
        _digests[key] = _compose_digest(catalogue, zone)
    return _digests[key]


def _compose_digest(catalogue: Catalogue, zone: ZoneInfo) -> str:
    metadata = data_metadata(catalogue)
    views = [*view_statements(catalogue), *declared_statements(catalogue, zone)]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    tables = [str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    indexes = [
        str(CreateIndex(index).compile(dialect=dialect))
        for table in metadata.sorted_tables
        for index in sorted(table.indexes, key=str)
    ]
    migrations = sorted(path.name for path in (_MIGRATIONS / "versions").glob("*.py"))
    return hashlib.sha256("\n".join(tables + indexes + views + migrations).encode()).hexdigest()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config
