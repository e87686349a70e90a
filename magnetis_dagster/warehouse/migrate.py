"""Bringing a database to the tables of this version: versioned migrations, then what the catalogue adds.

Three steps, since users add columns by MAGNETIS_CONFIG that no shipped migration can know: alembic's scripts move `magnetis_ops`
(and anything that cannot be derived: a rename, a type) from release to release; alembic's comparison of the catalogue with the
database then creates the tables and columns that are missing in `magnetis`; the views of those tables follow. Only `drop_columns`
drops anything, and only when somebody runs it.

A change of tables waits for locks as `database/locks.py` does: others pass between its attempts, and the error names who is in
the way. Indexes of tables with rows are built one by one, after the locks that keep readers out are released.

A column that the database has with another type than the declared one stops nobody here: loading its collection does
(`columns.require_declared_types`), and the other collections load.
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
_ADDITIVE = (ops.CreateTableOp, ops.AddColumnOp, ops.CreateIndexOp)
_DEPENDENTS = text(
    # a view depends on a column through its rule
    "SELECT DISTINCT a.attname, coalesce('the view ' || n.nspname || '.' || v.relname, "
    "pg_describe_object(d.classid, d.objid, d.objsubid)) AS what "
    "FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
    "LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid "
    "LEFT JOIN pg_class AS v ON v.oid = r.ev_class LEFT JOIN pg_namespace AS n ON n.oid = v.relnamespace "
    "WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = CAST(:table AS regclass) AND d.deptype = 'n' "
    "AND a.attname = ANY(:names) ORDER BY 1, 2"
)
"""Objects without which a column cannot be dropped; its indexes go with it."""


class ColumnInUse(PermanentError):
    """A view, or another object of the database, uses a column that is to be dropped; the text names both."""


class NewerDatabase(PermanentError):
    """The database was brought to a version that this program does not know."""


def migrate(
    engine: Engine,
    catalogue: Catalogue,
    progress: Callable[[str], None] = lambda _line: None,
    zone: ZoneInfo = PARIS,
) -> bool:
    """Bring the database to this version and this catalogue; return whether anything was done.

    `zone` is that of the local times in views: MAGNETIS_TIMEZONE.
    Safe to call from every process at start: where the database is up to date it costs one query, and waits for no lock.
    `progress` receives a line for each attempt that found a lock taken.
    Raises ForeignObject, NewerDatabase, LockBusy, DatabaseUnavailable, DatabaseRefused.
    """
    metadata = data_metadata(catalogue)
    views = view_statements(catalogue)
    digest = _digest(metadata, [*views, *declared_statements(catalogue, zone)])
    doing = "bring the tables up to date"
    with guarded(engine, doing):
        with engine.connect() as connection:
            if _applied(connection) == digest:
                return False

        def upgrade(connection: Connection) -> list[ops.CreateIndexOp]:
            return (
                []
                if _applied(connection) == digest
                else _upgrade(connection, catalogue, metadata, views, zone)
            )

        for index in change_tables(engine, doing, upgrade, progress):
            # of a crash between two indexes the next run finds the rest missing
            if collection := catalogue.collections.get(index.table_name):
                # before: an index contains the old versions of rows that its own transaction updates
                change_tables(
                    engine,
                    doing,
                    partial(_clear_too_long, index=index, collection=collection),
                    progress,
                )
            change_tables(engine, doing, partial(_create_index, index=index), progress)
        return change_tables(engine, doing, partial(_record, digest=digest), progress)


def _upgrade(
    connection: Connection,
    catalogue: Catalogue,
    metadata: MetaData,
    views: list[str],
    zone: ZoneInfo,
) -> list[ops.CreateIndexOp]:
    """Bring tables, columns and views up to date; return the indexes that tables with rows lack."""
    require_own(connection, metadata, {VIEW: ABOUT} | view_comments(catalogue))
    for schema in (DATA_SCHEMA, OPS_SCHEMA):
        ensure_schema(connection, schema)
    for name in sorted(catalogue.collections):
        # a merge locks tables in an order of its own
        lock_collection(connection, catalogue[name])
    try:
        command.upgrade(_config(connection), "head")
    except CommandError:
        raise NewerDatabase(
            "The tables of magnetis_ops were made by a newer version of magnetis_dagster, which this one does not know. "
            "Install that version or a later one; nothing was changed."
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
    for statement in views:
        connection.execute(text(statement))
    refresh_views(connection, catalogue, zone)
    read_only.grant(connection)
    return later


def _clear_too_long(
    connection: Connection, index: ops.CreateIndexOp, collection: Collection
) -> None:
    """Set texts to NULL that the index would reject, as if their rows were received again; `payload` keeps them."""
    names = {
        column if isinstance(column, str) else getattr(column, "name", "")
        for column in index.columns
    }
    indexed = names & collection.indexed & collection.columns.keys()
    for name in sorted(
        name for name in indexed if collection.columns[name].type is ColumnType.TEXT
    ):
        too_long = f'length("{name}") > {INDEXED_CHARACTERS}'
        connection.execute(
            text(f'UPDATE {DATA_SCHEMA}.{index.table_name} SET "{name}" = NULL WHERE {too_long}')
        )


def _create_index(connection: Connection, index: ops.CreateIndexOp) -> None:
    index.if_not_exists = True
    Operations(MigrationContext.configure(connection)).invoke(index)


def _record(connection: Connection, digest: str) -> bool:
    """Record what the tables were brought to; return whether no other process has."""
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
    """Compare the columns of every collection with its declaration. Raises DatabaseUnavailable, DatabaseRefused."""
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
    """Drop the columns that the catalogue no longer declares, all of them or none; return them. Migrate before.

    Raises ColumnInUse, LockBusy, DatabaseUnavailable, DatabaseRefused.
    """

    def drop(connection: Connection) -> list[TableColumn]:
        dropped: list[TableColumn] = []
        for collection in (catalogue[name] for name in sorted(catalogue.collections)):
            if compare_columns(connection, collection).undeclared:
                lock_collection(connection, collection)
                dropped += compare_columns(connection, collection).undeclared
        ours = {
            f"the view {DATA_SCHEMA}.{view_name(each)}": each
            for each in catalogue.collections.values()
        }
        found = [
            (column, what)
            for column in dropped
            for _, what in connection.execute(
                _DEPENDENTS, {"table": f"{DATA_SCHEMA}.{column.table}", "names": [column.name]}
            )
        ]
        uses = [f"{column} is used by {what}" for column, what in found if what not in ours]
        if uses:
            raise ColumnInUse(
                f"{'; '.join(uses)}. No column was dropped. Change or drop what uses them, then run "
                "`magnetis migrate --drop-columns --yes` again."
            )
        used = {what: ours[what] for _, what in found}
        grants = [
            grant for collection in used.values() for grant in drop_view(connection, collection)
        ]
        for column in dropped:
            connection.execute(
                text(f'ALTER TABLE {DATA_SCHEMA}.{column.table} DROP COLUMN "{column.name}"')
            )
        if used:
            refresh_views(connection, catalogue, zone)
        for grant in grants:
            connection.execute(text(grant))
        return dropped

    with guarded(engine, "drop columns"):
        return change_tables(engine, "drop columns", drop, progress)


def differences(connection: Connection, metadata: MetaData) -> list[ops.MigrateOperation]:
    """Return the operations that would bring the tables of `metadata`'s schema to it, table operations flattened."""
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
    # not by to_regclass: after the wait for the lock it may still answer from the session's cache, and all is done twice
    there = (
        "SELECT 1 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = :schema AND c.relname = 'schema_state'"
    )
    if connection.execute(text(there), {"schema": OPS_SCHEMA}).scalar() is None:
        return None
    found = connection.execute(
        text(f"SELECT digest FROM {OPS_SCHEMA}.schema_state WHERE name = 'catalogue'")
    ).scalar()
    return str(found) if found else None


def _digest(metadata: MetaData, views: list[str]) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    statements = [
        str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables
    ]
    statements += [
        str(CreateIndex(index).compile(dialect=dialect))
        for table in metadata.sorted_tables
        for index in sorted(table.indexes, key=str)
    ]
    head = sorted(
        path.name for path in (Path(__file__).parent / "migrations" / "versions").glob("*.py")
    )
    return hashlib.sha256("\n".join(statements + views + head).encode()).hexdigest()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
