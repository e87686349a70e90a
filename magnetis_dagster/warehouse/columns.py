"""Compares the columns of a collection's tables with its declaration."""

import re
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection

from magnetis_dagster.catalog import Collection, Kind
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import (
    DATA_SCHEMA,
    declared_types,
    history_name,
    privacy_types,
    tables_of,
    type_name,
)

_QUERIES = Queries("columns")
_DECLARABLE = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""Names that an overlay may declare. Somebody else added a column with any other name."""


class SchemaDisagrees(PermanentError):
    """A declared column has another type in the database; the text names both types."""


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table in the schema `magnetis`."""

    table: str
    name: str

    def __str__(self) -> str:
        """Return schema, table and column, separated by dots."""
        return f"{DATA_SCHEMA}.{self.table}.{self.name}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The columns of a collection's tables that differ from its declaration."""

    undeclared: list[TableColumn]
    """Columns that this program created for an earlier declaration."""
    disagreements: list[str]
    """One message for each column whose type differs from the declared one."""


def compare_columns(connection: Connection, collection: Collection) -> Comparison:
    """Compare the collection's tables with its declaration. Costs one query."""
    names = collection.name, history_name(collection)
    fixed = zip(names, _fixed_columns(collection.kind), strict=False)
    own = declared_types(collection) | privacy_types(collection)
    declared = {table: columns | own for table, columns in fixed}
    undeclared, disagreements = [], []
    found = connection.execute(_QUERIES["columns"], {"tables": list(declared)})
    for table, name, type_, plain in found:
        wanted = declared[table].get(name)
        if wanted is None and plain and _DECLARABLE.fullmatch(name):
            undeclared.append(TableColumn(table, name))
        elif wanted is not None and wanted != type_:
            disagreements.append(
                f"Column {TableColumn(table, name)} is declared as {wanted.upper()}, but the "
                f"database has {type_.upper()}. The type of an existing column cannot change. "
                "Either declare another column name in MAGNETIS_CONFIG and fill it with `magnetis "
                "reparse`. Or remove the declaration, drop the column with `magnetis migrate "
                "--drop-columns --yes`, and declare it again."
            )
    return Comparison(undeclared, disagreements)


def own_columns(connection: Connection, collection: Collection) -> dict[str, str]:
    """Return the types of the table's columns that this program created, in the table's order."""
    fixed, *_ = _fixed_columns(collection.kind)
    rows = connection.execute(_QUERIES["columns"], {"tables": [collection.name]})
    return {
        name: type_
        for _, name, type_, plain in rows
        if name in fixed
        or name in collection.columns
        or name in collection.key_columns.values()
        or (plain and _DECLARABLE.fullmatch(name))
    }


@cache
def _fixed_columns(kind: Kind) -> list[dict[str, str]]:
    """Return the types of the columns that every collection of the kind has, by table."""
    bare = Collection.model_construct(name="bare", kind=kind, description="", columns={})
    return [
        {column.name: type_name(column.type) for column in table.columns}
        for table in tables_of(bare)
    ]


def require_declared_types(connection: Connection, collection: Collection) -> None:
    """Raise SchemaDisagrees unless every declared column has its declared type."""
    if disagreements := compare_columns(connection, collection).disagreements:
        raise SchemaDisagrees(" ".join(disagreements))
