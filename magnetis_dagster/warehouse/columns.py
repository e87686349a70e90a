"""Columns of a collection's tables: those of the database compared with those of its declaration."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from magnetis_dagster.catalog import Collection, Kind
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, POSTGRESQL_TYPES, history_name, tables_of

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_TYPES = {kind: type_.compile(dialect=_DIALECT).lower() for kind, type_ in POSTGRESQL_TYPES.items()}
_DECLARABLE = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""Names that an overlay may declare. A column with another name was made by somebody else."""
_COLUMNS = text(
    # the program makes no column with a default; generated columns and identities count as such
    "SELECT c.relname AS table, a.attname AS name, format_type(a.atttypid, NULL) AS type, "
    "NOT (a.attnotnull OR a.atthasdef OR a.attidentity <> '') AS plain "
    "FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
    f"WHERE c.relnamespace = '{DATA_SCHEMA}'::regnamespace AND c.relname = ANY(:tables) AND a.attnum > 0 AND NOT a.attisdropped "
    "ORDER BY c.relname, a.attnum"
)


class SchemaDisagrees(PermanentError):
    """The catalogue declares a column with another type than the database has; the text names both."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table of the schema `magnetis`."""

    table: str
    name: str

    def __str__(self) -> str:
        """Return schema, table and column, separated by dots."""
        return f"{DATA_SCHEMA}.{self.table}.{self.name}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The columns of a collection's tables that differ from its declaration."""

    undeclared: Sequence[TableColumn]
    """Columns that the program made for an earlier declaration."""
    disagreements: Sequence[str]
    """One sentence for each column that has another type than the declared one."""

    def undeclared_in(self, table: str) -> list[str]:
        """Return the names of the undeclared columns of one table."""
        return [column.name for column in self.undeclared if column.table == table]


def compare_columns(connection: Connection, collection: Collection) -> Comparison:
    """Compare the collection's tables with its declaration by one query on PostgreSQL's own tables."""
    typed = {name: _TYPES[column.type] for name, column in collection.columns.items()}
    tables = zip(
        (collection.name, history_name(collection)), _fixed_columns(collection.kind), strict=False
    )
    declared = {table: fixed | typed for table, fixed in tables}
    undeclared, disagreements = [], []
    for table, name, type_, plain in connection.execute(_COLUMNS, {"tables": list(declared)}):
        wanted = declared[table].get(name)
        if wanted is None and plain and _DECLARABLE.fullmatch(name):
            undeclared.append(TableColumn(table, name))
        elif wanted is not None and wanted != type_:
            disagreements.append(
                f"Column {TableColumn(table, name)} is declared as {wanted.upper()}, but the database has {type_.upper()}. A "
                "column keeps its type: declare another column name in MAGNETIS_CONFIG and fill it with `magnetis reparse`; or "
                "remove the declaration, drop the column with `magnetis migrate --drop-columns --yes`, and declare it again."
            )
    return Comparison(undeclared, disagreements)


def made_columns(connection: Connection, collection: Collection) -> dict[str, str]:
    """Return name and type of the columns of the collection's table that this program made, in the table's order."""
    fixed, *_ = _fixed_columns(collection.kind)
    rows = connection.execute(_COLUMNS, {"tables": [collection.name]})
    return {
        name: type_
        for _, name, type_, plain in rows
        if name in fixed or name in collection.columns or (plain and _DECLARABLE.fullmatch(name))
    }


@cache
def _fixed_columns(kind: Kind) -> list[dict[str, str]]:
    """Return name and type of the columns that every collection of the kind has, by table."""
    bare = Collection.model_construct(name="bare", kind=kind, description="", columns={})
    return [
        {column.name: column.type.compile(dialect=_DIALECT).lower() for column in table.columns}
        for table in tables_of(bare)
    ]


def require_declared_types(connection: Connection, collection: Collection) -> None:
    """Raise SchemaDisagrees unless every declared column has its declared type."""
    if disagreements := compare_columns(connection, collection).disagreements:
        raise SchemaDisagrees(" ".join(disagreements))
