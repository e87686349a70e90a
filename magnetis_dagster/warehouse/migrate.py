"""Brings a database to the tables of this version and this catalogue.

Users add columns by MAGNETIS_CONFIG that no shipped migration can know. So there are four steps:

1. Alembic's migrations bring `magnetis_ops` from release to release. They also make the changes
   that cannot be derived from the catalogue, such as a rename or another type.
2. Alembic compares the catalogue with `magnetis`, and missing tables and columns are created.
3. The views of those tables are created or replaced, and the roles that read them get their
   rights.
4. Keys and indexes are changed to the declared ones: in one transaction for empty tables,
   concurrently and one by one for others (indexes.py).

Every step determines the missing objects and has transactions of its own, so the next run resumes
one that died. A table is locked only for the change of its columns or of its key.

Only `drop_columns` drops anything but replaced indexes. A column with another type than the
declared one fails the loads of its collection only.
"""

import hashlib
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from alembic import command
from alembic.autogenerate import produce_migrations
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Index, MetaData, Table, text
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement

from magnetis_dagster.catalog import Catalogue, Collection, ColumnType
from magnetis_dagster.catalog.model import INDEXED_CHARACTERS
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import guarded
from magnetis_dagster.database.locks import change_tables
from magnetis_dagster.database.schemas import ensure_schema
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.privacy.plan import Plan
from magnetis_dagster.warehouse.columns import Comparison, TableColumn, compare_columns
from magnetis_dagster.warehouse.foreign_objects import require_own
from magnetis_dagster.warehouse.indexes import (
    TableState,
    build_index,
    build_key,
    complete_empty_table,
    drop_index,
    missing_indexes,
    qualified,
    replace_key,
    replaces_key,
    require_replaceable_keys,
    table_states,
)
from magnetis_dagster.warehouse.merge_lock import lock_collection
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.roles import grant_all
from magnetis_dagster.warehouse.schema import (
    DATA_SCHEMA,
    DIALECT,
    MASKED_SCHEMA,
    OPS_SCHEMA,
    data_metadata,
    ops_metadata,
    replaced_indexes,
    tables_of,
)
from magnetis_dagster.warehouse.settings_changes import ABOUT, VIEW, refresh_view, view_statements
from magnetis_dagster.warehouse.views import (
    declared_statements,
    drop_views,
    own_views,
    refresh_views,
    view_comments,
)
from magnetis_dagster.warehouse.visibility import (
    declared_columns,
    default_plan,
    forget_column,
    has_visibility,
    record_visibility,
    visible_columns,
)

PARIS = ZoneInfo("Europe/Paris")
Progress = Callable[[str], None]
"""Receives a line for each attempt that found a lock taken, and every 10 s of an index build."""
Change = Callable[[Connection], bool]
_MIGRATIONS = Path(__file__).parent / "migrations"
_DEPENDENTS = Queries("columns")["dependents"]
_digests: dict[tuple[str, str, str], str] = {}
"""By catalogue, time zone and plan. One takes 0.2 s of CPU, and each tick of a sensor needs it."""
_ACTION = "bring the tables up to date"


class ColumnInUse(PermanentError):
    """A view or another object uses a column that should be dropped; the text names both."""


class NewerDatabase(PermanentError):
    """A newer version of this program has migrated the database."""


def migrate(
    engine: Engine,
    catalogue: Catalogue,
    progress: Progress = lambda _line: None,
    zone: ZoneInfo = PARIS,
    *,
    connection_name: str = UNNAMED,
    plan: Plan | None = None,
) -> bool:
    """Bring the database to this version and this catalogue; return whether it changed.

    Each connection may have a catalogue and a privacy plan of its own. The tables contain the
    columns of all. `plan` decides which of them the masked views contain; None: the default plan.

    If the database is up to date, it costs three short queries and waits for no lock. `zone` is the
    time zone of local times in views: MAGNETIS_TIMEZONE. Building the indexes of a large table
    takes minutes; its readers and writers continue.

    Raises: ForeignObject, KeyInUse, NewerDatabase, LockBusy, ReservedColumn.
    """
    plan = plan or default_plan(catalogue)
    digest = _digest(catalogue, zone, plan)
    change = partial(change_tables, engine, _ACTION, progress=progress)
    with guarded(engine, _ACTION):
        with engine.connect() as connection:
            names = _applied_by(connection, digest)
            is_declared = has_visibility(connection, connection_name) if names else False
        record = partial(_record, digest=digest, connection_name=connection_name)
        declare = partial(_declare, catalogue=catalogue, plan=plan, connection_name=connection_name)
        if _state_name(connection_name) in names and is_declared:
            return False
        if names:
            return change(
                partial(_join, declare=declare, catalogue=catalogue, zone=zone, record=record)
            )
        if not change(partial(_upgrade_ops, catalogue=catalogue, digest=digest)):
            return False
        for collection in change(partial(_create_tables, catalogue=catalogue)):
            change(partial(_add_columns, collection=collection))
        change(declare)
        change(partial(_replace_views, catalogue=catalogue, zone=zone))
        change(partial(_complete_empty_tables, catalogue=catalogue))
        _complete_tables(engine, catalogue, progress)
        return change(record)


def _upgrade_ops(connection: Connection, catalogue: Catalogue, digest: str) -> bool:
    """Update magnetis_ops; return False if another process has finished the whole migration."""
    if _applied_by(connection, digest):
        return False
    metadata = data_metadata(catalogue)
    require_own(connection, metadata, {VIEW: ABOUT} | view_comments(catalogue))
    require_replaceable_keys(connection, _all_tables(catalogue))
    for schema in (DATA_SCHEMA, OPS_SCHEMA, MASKED_SCHEMA):
        ensure_schema(connection, schema)
    for collection in _sorted_collections(catalogue):
        # a merge locks the tables of a collection in another order
        lock_collection(connection, collection)
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS))
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise NewerDatabase(
            "The tables of magnetis_ops were made by a newer version of magnetis_dagster. Install "
            "that version or a later one. Nothing was changed."
        ) from None
    return True


def _create_tables(connection: Connection, catalogue: Catalogue) -> list[Collection]:
    """Create missing tables; return the collections whose tables lack columns."""
    missing = differences(connection, data_metadata(catalogue))
    new = {each.table_name for each in missing if isinstance(each, ops.CreateTableOp)}
    operations = Operations(MigrationContext.configure(connection))
    for each in missing:
        is_index = isinstance(each, ops.CreateIndexOp) and each.table_name in new
        if isinstance(each, ops.CreateTableOp) or is_index:
            operations.invoke(each)
    lacking = {each.table_name for each in missing if isinstance(each, ops.AddColumnOp)}
    return [
        collection
        for collection in _sorted_collections(catalogue)
        if lacking & {table.name for table in tables_of(collection)}
    ]


def _add_columns(connection: Connection, collection: Collection) -> None:
    metadata = MetaData(schema=DATA_SCHEMA)
    tables_of(collection, metadata)
    missing = differences(connection, metadata, only_declared=True)
    lock_collection(connection, collection)
    operations = Operations(MigrationContext.configure(connection))
    for each in missing:
        if isinstance(each, ops.AddColumnOp):
            operations.invoke(each)


def _declare(
    connection: Connection, catalogue: Catalogue, plan: Plan, connection_name: str
) -> bool:
    """Record what the connection declares; return whether other columns are visible now."""
    before = visible_columns(connection)
    record_visibility(connection, catalogue, plan, connection_name)
    return visible_columns(connection) != before


def _join(
    connection: Connection,
    declare: Change,
    record: Change,
    catalogue: Catalogue,
    zone: ZoneInfo,
) -> bool:
    """Record a connection whose tables exist already; return whether views changed."""
    changes_views = declare(connection)
    if changes_views:
        _replace_views(connection, catalogue, zone)
    record(connection)
    return changes_views


def _replace_views(connection: Connection, catalogue: Catalogue, zone: ZoneInfo) -> None:
    refresh_view(connection, catalogue)
    refresh_views(connection, catalogue, zone)
    grant_all(connection)


def _complete_empty_tables(connection: Connection, catalogue: Catalogue) -> None:
    """Bring keys and indexes of tables without rows to the declaration."""
    replaced = replaced_indexes(catalogue)
    states = table_states(connection)
    empty = {
        table.name: table
        for table in _all_tables(catalogue)
        if states[qualified(table)].is_empty
        and _is_incomplete(table, states[qualified(table)], replaced)
    }
    for collection in _sorted_collections(catalogue):
        if any(table.name in empty for table in tables_of(collection)):
            lock_collection(connection, collection)
    for table in empty.values():
        complete_empty_table(connection, table, states[qualified(table)], replaced)


def _is_incomplete(table: Table, state: TableState, replaced: Mapping[str, str]) -> bool:
    surplus = [name for name in state.valid if name in replaced]
    return replaces_key(table, state) or bool(missing_indexes(table, state) or surplus)


def _complete_tables(engine: Engine, catalogue: Catalogue, progress: Progress) -> None:
    """Bring keys and indexes of tables with rows to the declaration, concurrently."""
    with engine.connect() as connection:
        states = table_states(connection)
    change = partial(change_tables, engine, _ACTION, progress=progress)
    for table in _all_tables(catalogue):
        state = states[qualified(table)]
        collection = catalogue.collections.get(table.name)
        for index in missing_indexes(table, state):
            if collection:
                # In a transaction of its own: an index contains the old versions of rows that the
                # same transaction updates.
                change(partial(_clear_too_long, index=index, collection=collection))
            build_index(engine, _ACTION, index, progress)
        if replaces_key(table, state):
            build_key(engine, _ACTION, table, progress)
            change(partial(_replace_key, table=table, catalogue=catalogue))
    replaced = replaced_indexes(catalogue)
    for table in _all_tables(catalogue):
        state = states[qualified(table)]
        for name in (*state.valid, *state.invalid):
            if name in replaced:
                drop_index(engine, _ACTION, str(table.schema), name)


def _replace_key(connection: Connection, table: Table, catalogue: Catalogue) -> None:
    for collection in _sorted_collections(catalogue):
        if any(each.name == table.name for each in tables_of(collection)):
            lock_collection(connection, collection)
    replace_key(connection, table)


def _all_tables(catalogue: Catalogue) -> list[Table]:
    return [*data_metadata(catalogue).tables.values(), *ops_metadata.tables.values()]


def _sorted_collections(catalogue: Catalogue) -> list[Collection]:
    return [catalogue[name] for name in sorted(catalogue.collections)]


def _clear_too_long(connection: Connection, index: Index, collection: Collection) -> None:
    """Set texts to NULL that are too long for the index, as the row parser does."""
    names = {column.name for column in index.columns}
    for name in sorted(names & collection.indexed & collection.columns.keys()):
        if collection.columns[name].type is ColumnType.TEXT:
            table = f"{DATA_SCHEMA}.{collection.name}"
            too_long = f'length("{name}") > {INDEXED_CHARACTERS}'
            connection.execute(text(f'UPDATE {table} SET "{name}" = NULL WHERE {too_long}'))


def _record(connection: Connection, digest: str, connection_name: str) -> bool:
    if _state_name(connection_name) in _applied_by(connection, digest):
        return False
    version, _, _ = digest.partition(" ")
    connection.execute(
        # another version may have changed what the catalogues of other connections had created
        text(f"DELETE FROM {OPS_SCHEMA}.schema_state WHERE split_part(digest, ' ', 1) <> :version"),
        {"version": version},
    )
    connection.execute(
        text(
            f"INSERT INTO {OPS_SCHEMA}.schema_state (name, digest) VALUES (:name, :digest) "
            "ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, applied_at = now()"
        ),
        {"name": _state_name(connection_name), "digest": digest},
    )
    return True


def _state_name(connection_name: str) -> str:
    return "catalogue" if connection_name == UNNAMED else f"catalogue of {connection_name}"


def compare(engine: Engine, catalogue: Catalogue) -> Comparison:
    """Compare the columns of every collection with its declaration."""
    found = Comparison([], [])
    with guarded(engine, "compare the columns"), engine.connect() as connection:
        for collection in _sorted_collections(catalogue):
            compared = compare_columns(connection, collection)
            found.undeclared.extend(compared.undeclared)
            found.disagreements.extend(compared.disagreements)
    return found


def drop_columns(
    engine: Engine,
    catalogue: Catalogue,
    progress: Progress = lambda _line: None,
    zone: ZoneInfo = PARIS,
) -> list[TableColumn]:
    """Drop the columns that the catalogue no longer declares, all or none; return them.

    Call `migrate` before.

    Raises: ColumnInUse, LockBusy.
    """
    with guarded(engine, "drop columns"):
        drop = partial(_drop_columns, catalogue=catalogue, zone=zone)
        return change_tables(engine, "drop columns", drop, progress)


def _drop_columns(
    connection: Connection, catalogue: Catalogue, zone: ZoneInfo
) -> list[TableColumn]:
    dropped: list[TableColumn] = []
    for collection in _sorted_collections(catalogue):
        if compare_columns(connection, collection).undeclared:
            lock_collection(connection, collection)
            dropped += compare_columns(connection, collection).undeclared
    collections = {
        f"the view {name}": each
        for each in catalogue.collections.values()
        for name in own_views(each)
    }
    uses: list[str] = []
    affected: dict[str, Collection] = {}
    for column in dropped:
        names = {"table": f"{DATA_SCHEMA}.{column.table}", "names": [column.name]}
        for _, what in connection.execute(_DEPENDENTS, names):
            if what in collections:
                affected[collections[what].name] = collections[what]
            else:
                uses.append(f"{column} is used by {what}")
    if uses:
        raise ColumnInUse(
            f"{'; '.join(uses)}. No column was dropped. Change or drop the dependent objects, then "
            "run `magnetis migrate --drop-columns --yes` again."
        )
    grants = [grant for each in affected.values() for grant in drop_views(connection, each)]
    if dropped:  # a catalogue that declared them before no longer matches the tables
        connection.execute(text(f"DELETE FROM {OPS_SCHEMA}.schema_state"))
    for column in dropped:
        table = f"{DATA_SCHEMA}.{column.table}"
        connection.execute(text(f'ALTER TABLE {table} DROP COLUMN "{column.name}"'))
        forget_column(connection, column.table, column.name)
    if affected:
        refresh_views(connection, catalogue, zone)
    for grant in grants:
        connection.execute(text(grant))
    return dropped


def differences(
    connection: Connection, metadata: MetaData, *, only_declared: bool = False
) -> list[ops.MigrateOperation]:
    """Return the operations, as a flat list, that would bring the schema's tables to `metadata`.

    `only_declared`: ignore other tables. Primary keys are not compared.
    """
    declared = {table.name for table in metadata.tables.values()}

    def include(name: str | None, kind: str, parents: MutableMapping[str, str | None]) -> bool:
        if kind == "schema":
            return name == metadata.schema
        if kind == "table" and only_declared and name not in declared:
            return False
        return parents.get("schema_name") == metadata.schema and name != "alembic_version"

    context = MigrationContext.configure(
        connection,
        opts={
            "target_metadata": metadata,
            "include_schemas": True,
            "include_name": include,
            "compare_type": True,
        },
    )
    upgrade = produce_migrations(context, metadata).upgrade_ops
    found: list[ops.MigrateOperation] = []
    for operation in upgrade.ops if upgrade else ():
        found.extend(operation.ops if isinstance(operation, ops.ModifyTableOps) else [operation])
    return found


def _applied_by(connection: Connection, digest: str) -> set[str]:
    """Return the names in schema_state of the connections whose newest catalogue has the digest."""
    # Not by to_regclass: after the wait for the lock, it may still return a result from the
    # session's cache, and everything would be done twice.
    exists = (
        "SELECT 1 FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = :schema AND c.relname = 'schema_state'"
    )
    if connection.execute(text(exists), {"schema": OPS_SCHEMA}).scalar() is None:
        return set()
    same = text(f"SELECT name FROM {OPS_SCHEMA}.schema_state WHERE digest = :digest")
    return set(connection.scalars(same, {"digest": digest}))


def _digest(catalogue: Catalogue, zone: ZoneInfo, plan: Plan) -> str:
    """Return the digest of everything that `migrate` creates for a catalogue and a plan.

    Its first word is that of this version's migrations.
    """
    # of the plan, only the classes of members matter here
    members = {name: plan.of(name).members for name in catalogue.collections}
    key = catalogue.model_dump_json(serialize_as_any=True), zone.key, repr(members)
    if key not in _digests:
        _digests[key] = _compose_digest(catalogue, zone, plan)
    return _digests[key]


def _compose_digest(catalogue: Catalogue, zone: ZoneInfo, plan: Plan) -> str:
    tables = data_metadata(catalogue).sorted_tables
    indexes = [index for table in tables for index in sorted(table.indexes, key=str)]
    created: list[DDLElement] = [*map(CreateTable, tables), *map(CreateIndex, indexes)]
    statements = [str(each.compile(dialect=DIALECT)) for each in created]
    visible = declared_columns(catalogue, plan)
    statements += [*view_statements(catalogue), *declared_statements(catalogue, zone, visible)]
    # the tables may lack a visible column, such as a caller key
    statements.append(repr(sorted((name, sorted(columns)) for name, columns in visible.items())))
    migrations = sorted(path.name for path in (_MIGRATIONS / "versions").glob("*.py"))
    return f"{_hash(migrations)[:12]} {_hash(statements)}"


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
