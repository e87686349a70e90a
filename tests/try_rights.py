"""Try each kind of statement on every table of our schemas and print the allowed ones.

It changes nothing. It needs only psycopg, because the compose tests pipe it into containers.
"""

import json
import sys

import psycopg
from psycopg.sql import SQL, Identifier

SCHEMAS = ("magnetis", "magnetis_ops", "dagster")
STATEMENTS = {
    "select": "SELECT FROM {table} LIMIT 0",
    "insert": "INSERT INTO {table} SELECT * FROM {table} WHERE false",
    "update": "UPDATE {table} SET {column} = {column} WHERE false",
    "delete": "DELETE FROM {table} WHERE false",
    "create": "CREATE TABLE {schema}.tried ()",
    "alter": "ALTER TABLE {table} ADD COLUMN tried int",
}
# every role may read pg_attribute; information_schema shows only the role's own objects
TABLES = """
    SELECT n.nspname, c.relname, min(a.attname)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attidentity = '' AND a.attgenerated = ''
    WHERE n.nspname = ANY(%s) AND c.relkind = 'r' GROUP BY 1, 2 ORDER BY 1, 2
"""


def tried(connection: psycopg.Connection) -> dict[str, list[str]]:
    """Return the allowed kinds of statement by schema.

    Raises: ValueError if the tables of a schema differ.
    """
    tables = connection.execute(TABLES, [list(SCHEMAS)]).fetchall()
    connection.rollback()
    allowed: dict[tuple[str, str], set[bool]] = {}
    for schema, table, column in tables:
        names = {
            "schema": Identifier(schema),
            "table": Identifier(schema, table),
            "column": Identifier(column),
        }
        for kind, statement in STATEMENTS.items():
            try:
                connection.execute(SQL(statement).format(**names))  # type: ignore[arg-type]
                allowed.setdefault((schema, kind), set()).add(True)
            except psycopg.errors.InsufficientPrivilege:
                allowed.setdefault((schema, kind), set()).add(False)
            finally:
                connection.rollback()
    if mixed := [key for key, answers in allowed.items() if len(answers) > 1]:
        raise ValueError(f"allowed on some tables only: {mixed}")
    found: dict[str, list[str]] = {}
    for schema, kind in sorted(key for key, answers in allowed.items() if answers == {True}):
        found.setdefault(schema, []).append(kind)
    return found


if __name__ == "__main__":
    from magnetis_dagster.settings import Settings

    with psycopg.connect(Settings.load().database_address or "") as connection:
        json.dump({"role": connection.info.user, "allowed": tried(connection)}, sys.stdout)
