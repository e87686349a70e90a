"""Rejects objects under our names that this program did not create, before it changes anything.

It recognises its own tables of every version by their columns and their key.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, MetaData, Row, Table

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, MASKED_SCHEMA, OPS_SCHEMA

_KINDS = {
    "r": "table",
    "p": "table",
    "v": "view",
    "m": "materialized view",
    "S": "sequence",
    "f": "foreign table",
    "c": "type",
}
_TABLES = {"r", "p"}
_SCHEMAS = (DATA_SCHEMA, OPS_SCHEMA, MASKED_SCHEMA)
_OBJECTS = Queries("foreign_objects")["objects"]


class ForeignObject(PermanentError):
    """An object under one of our names is not ours. Nothing was changed."""


def require_own(connection: Connection, metadata: MetaData, views: Mapping[str, str]) -> None:
    """Raise ForeignObject unless this program created every object under one of its names.

    `metadata` has the tables of the schema magnetis. `views` maps names with their schema to
    comments. If magnetis_ops has no record of this program, the schemas may contain only tables of
    magnetis, restored from a backup, and the views.
    """
    tables = {table.name: table for table in metadata.tables.values()}
    indexes = {str(index.name): table.name for table in tables.values() for index in table.indexes}
    found = connection.execute(_OBJECTS, {"schemas": list(_SCHEMAS)}).all()
    ops_tables = {row.name for row in found if row.schema == OPS_SCHEMA and row.kind in _TABLES}
    has_records = {"schema_state", "alembic_version"} <= ops_tables
    foreign = []
    for row in found:
        name = f"{row.schema}.{row.name}"
        described = f"{_KINDS.get(row.kind, row.kind)} {name}"
        if row.schema == DATA_SCHEMA and row.name in tables:
            problem = _difference(row, tables[row.name]) if row.kind in _TABLES else ""
            is_own = problem is None
            described += f" ({problem})" if problem else ""
        elif row.schema == DATA_SCHEMA and row.name in indexes:
            is_own = row.indexed == indexes[row.name]
        elif name in views:
            is_own = row.kind == "v" and row.comment == views[name]
        else:
            is_own = has_records or row.indexed is not None
        if not is_own:
            foreign.append(described)
    if foreign:
        listed = "; ".join([*foreign[:5], "…"] if len(foreign) > 5 else foreign)
        raise ForeignObject(
            f"This program did not create {listed}. It needs these names in the schemas "
            f"{', '.join(_SCHEMAS[:-1])} and {_SCHEMAS[-1]}. Rename or move these objects, or set "
            "MAGNETIS_DATABASE_URL to another database. Nothing was changed or requested."
        )


def _difference(row: Row[Any], table: Table) -> str | None:
    """Return why the database's table is not the declared one, or None if it is."""
    # tables of earlier versions have no `connection`
    required = {c.name for c in table.columns if not c.nullable} - {"connection"}
    if missing := sorted(required - set(row.columns)):
        return f"without {', '.join(missing)}"
    return None if "id" in row.key else "without a primary key on id"
