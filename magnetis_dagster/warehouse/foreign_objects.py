"""Objects of others under our names: rejected before anything is altered.

Tables of this program are recognised by their columns and their key, so that databases of every earlier version are.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, MetaData, text

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, OPS_SCHEMA

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
_OBJECTS = text("""
    SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, t.relname AS indexed,
        obj_description(c.oid, 'pg_class') AS comment,
        ARRAY(SELECT a.attname::text FROM pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
        ARRAY(SELECT a.attname::text FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
              WHERE i.indrelid = c.oid AND i.indisprimary) AS key
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_index AS i ON i.indexrelid = c.oid LEFT JOIN pg_class AS t ON t.oid = i.indrelid
    WHERE n.nspname = ANY(:schemas)
    UNION ALL
    SELECT n.nspname, t.typname, 'c', NULL, NULL, '{}', '{}' FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
    WHERE n.nspname = ANY(:schemas) AND t.typtype IN ('d', 'e', 'r')
    UNION ALL
    SELECT n.nspname, p.proname, 'function', NULL, NULL, '{}', '{}'
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = ANY(:schemas)
    ORDER BY 1, 2
""")


class ForeignObject(PermanentError):
    """The database contains an object under one of our names that this program did not create; nothing was changed."""


def require_own(connection: Connection, metadata: MetaData, views: Mapping[str, str]) -> None:
    """Raise ForeignObject unless this program created whatever has a name of a table, an index or a view of ours.

    `metadata` has the tables of the schema magnetis; `views` maps names with their schema to comments.
    Where magnetis_ops has no record of this program, both schemas must be empty, tables of a restored magnetis aside.
    """
    tables = {table.name: table for table in metadata.tables.values()}
    indexes = {str(index.name): table.name for table in tables.values() for index in table.indexes}
    found = connection.execute(_OBJECTS, {"schemas": [DATA_SCHEMA, OPS_SCHEMA]}).all()
    known = {"schema_state", "alembic_version"} <= {
        row.name for row in found if row.schema == OPS_SCHEMA and row.kind in _TABLES
    }
    foreign = []
    for row in found:
        name, is_data = f"{row.schema}.{row.name}", row.schema == DATA_SCHEMA
        kind = _KINDS.get(row.kind, row.kind)
        if is_data and row.name in tables:
            required = {column.name for column in tables[row.name].columns if not column.nullable}
            if row.kind not in _TABLES:
                foreign.append(f"{kind} {name}")
            elif not (required <= set(row.columns) and "id" in row.key):
                lacks = sorted(required - set(row.columns))
                foreign.append(
                    f"table {name} ({'without ' + ', '.join(lacks) if lacks else 'without a primary key on id'})"
                )
        elif is_data and row.name in indexes:
            if row.indexed != indexes[row.name]:
                foreign.append(f"{kind} {name}")
        elif name in views:
            if row.kind != "v" or row.comment != views[name]:
                foreign.append(f"{kind} {name}")
        elif not known and row.indexed is None:
            foreign.append(f"{kind} {name}")
    if foreign:
        raise ForeignObject(
            f"This program did not create {'; '.join(foreign[:5])}{'; …' if len(foreign) > 5 else ''}. It needs these names in the "
            f"schemas {DATA_SCHEMA} and {OPS_SCHEMA} for itself. Rename or move them, or set MAGNETIS_DATABASE_URL to another "
            "database. Nothing was changed, and nothing was requested."
        )
