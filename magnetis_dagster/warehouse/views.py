"""One view `magnetis.<collection>_current` per collection, for people who write SQL.

A view leaves out deleted rows and `payload`, shows each time of the row in MAGNETIS_TIMEZONE too, and adds the names of account,
network and entity. Its columns are those of the table, in the table's order: columns are only ever added to a table, so the view is
replaced in place, and grants on it and views on top of it stay.
"""

from collections.abc import Mapping
from zoneinfo import ZoneInfo

import sqlalchemy.exc
from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.columns import made_columns
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, tables_of

SUFFIX = "_current"
_HIDDEN = ("payload", "deleted_at")
_TIMES_OF_READS = ("first_seen_at", "last_seen_at", "changed_at")
_COLLECTIONS = {"a": "accounts", "n": "networks", "e": "entities"}
_ALIASES = {name: alias for alias, name in _COLLECTIONS.items()}
_CHAIN = ("t", *_COLLECTIONS)
"""Aliases, each joined to those before it: row, account, network, entity."""
_INVALID_TABLE_DEFINITION, _DEPENDENT_OBJECTS = "42P16", "2BP01"
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]

Types = Mapping[str, str]
"""Column of a table to its type, in the table's order."""


class ViewInUse(PermanentError):
    """A view must be made again, and an object of the database uses it; the text names both."""


def view_name(collection: Collection) -> str:
    """Return the name of the collection's view, without its schema."""
    return f"{collection.name}{SUFFIX}"


def view_comments(catalogue: Catalogue) -> dict[str, str]:
    """Return view with its schema to its comment, by which this program recognises its own views."""
    return {
        f"{DATA_SCHEMA}.{view_name(each)}": _comment(each)
        for each in catalogue.collections.values()
    }


def _comment(collection: Collection) -> str:
    return (
        f"Rows of {DATA_SCHEMA}.{collection.name} that the API still returns, with local times and the names of account, "
        "network and entity."
    )


def declared_statements(catalogue: Catalogue, zone: ZoneInfo) -> list[str]:
    """Return the statements for tables that have the declared columns and no others."""
    types = {
        collection.name: {
            column.name: column.type.compile(dialect=_DIALECT).lower()
            for column in tables_of(collection)[0].columns
        }
        for collection in catalogue.collections.values()
    }
    return [_select(collection, types, zone) for collection in catalogue.collections.values()]


def refresh_views(connection: Connection, catalogue: Catalogue, zone: ZoneInfo) -> None:
    """Create the views, or replace those whose statement differs, in the caller's transaction.

    Raises ViewInUse if a column has disappeared from a table and an object uses the view.
    """
    types = {
        collection.name: made_columns(connection, collection)
        for collection in catalogue.collections.values()
    }
    for collection in catalogue.collections.values():
        _replace(connection, collection, _select(collection, types, zone))


def drop_view(connection: Connection, collection: Collection) -> list[str]:
    """Drop the collection's view; return the statements that grant again what was granted on it. Raises ViewInUse."""
    grants = _grants(connection, f"{DATA_SCHEMA}.{view_name(collection)}")
    try:
        with connection.begin_nested():
            connection.execute(text(f"DROP VIEW {DATA_SCHEMA}.{view_name(collection)}"))
    except sqlalchemy.exc.DBAPIError as error:
        if _sqlstate(error) != _DEPENDENT_OBJECTS:
            raise
        raise ViewInUse(
            f"The view {DATA_SCHEMA}.{view_name(collection)} must be recreated, and is used by "
            f"{', '.join(_users(connection, collection))}. Nothing was changed. Drop what uses the view, run the command again, "
            "then create it again."
        ) from None
    return grants


def _replace(connection: Connection, collection: Collection, select: str) -> None:
    view = f"{DATA_SCHEMA}.{view_name(collection)}"
    try:
        with connection.begin_nested():
            connection.execute(text(f"CREATE OR REPLACE VIEW {view} AS {select}"))
    except sqlalchemy.exc.DBAPIError as error:
        if _sqlstate(error) != _INVALID_TABLE_DEFINITION:
            raise
        grants = drop_view(connection, collection)
        connection.execute(text(f"CREATE VIEW {view} AS {select}"))
        for grant in grants:
            connection.execute(text(grant))
    connection.execute(text(f"COMMENT ON VIEW {view} IS '{_comment(collection)}'"))


def _select(collection: Collection, types: Mapping[str, Types], zone: ZoneInfo) -> str:
    rows = _ALIASES.get(collection.name, "t")
    chain = [
        alias
        for alias in _CHAIN[_CHAIN.index(rows) :]
        if alias == rows or _COLLECTIONS[alias] in types
    ]
    own = types[collection.name]
    columns_of = {alias: types[_COLLECTIONS[alias]] for alias in chain if alias != rows} | {
        rows: own
    }

    def first(*members: tuple[str, str]) -> str:
        """Return the first of the (alias, column) that is not NULL, of those that exist."""
        found = [
            f'CAST({alias}."{name}" AS text)'
            for alias, name in members
            if name in columns_of.get(alias, ())
        ]
        return f"coalesce({', '.join(found)})" if found else "CAST(NULL AS text)"

    names = {
        "account_name": first(("t", "account_name"), ("a", "name")),
        "network_name": first(("t", "network_name"), ("a", "network_name"), ("n", "name")),
        "entity_name": first(
            ("t", "entity_name"), ("a", "entity_name"), ("n", "entity_name"), ("e", "name")
        ),
    }
    shown = dict(list(names.items())[_CHAIN.index(rows) :])
    columns = [
        f'{rows}."id"',
        f'{rows}."account_id"',
        *(f"{expression} AS {name}" for name, expression in shown.items()),
    ]
    for name, type_ in own.items():
        if name in {"id", "account_id", *shown, *_HIDDEN}:
            continue
        columns.append(f'{rows}."{name}"')
        local = f"{name}_local"
        if type_ == "timestamp with time zone" and name not in _TIMES_OF_READS and local not in own:
            columns.append(f'{rows}."{name}" AT TIME ZONE \'{zone.key}\' AS "{local}"')
    keys = {
        "a": first(("t", "account_id")),
        "n": first(("a", "network_id")),
        "e": first(("a", "entity_id"), ("n", "entity_id")),
    }
    joins = [
        f'LEFT JOIN {DATA_SCHEMA}.{_COLLECTIONS[alias]} AS {alias} ON {alias}."id" = {keys[alias]}'
        for alias in chain[1:]
    ]
    of = f"{DATA_SCHEMA}.{collection.name} AS {rows}"
    return " ".join(
        [f"SELECT {', '.join(columns)} FROM {of}", *joins, f'WHERE {rows}."deleted_at" IS NULL']
    )


def _users(connection: Connection, collection: Collection) -> list[str]:
    """Return the views that use the collection's view."""
    statement = (
        "SELECT DISTINCT format('%I.%I', n.nspname, v.relname) FROM pg_depend AS d "
        "JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid JOIN pg_class AS v ON v.oid = r.ev_class "
        "JOIN pg_namespace AS n ON n.oid = v.relnamespace "
        "WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = CAST(:view AS regclass) AND v.oid <> d.refobjid ORDER BY 1"
    )
    users = connection.execute(text(statement), {"view": f"{DATA_SCHEMA}.{view_name(collection)}"})
    return [f"the view {user}" for (user,) in users] or ["another object"]


def _grants(connection: Connection, view: str) -> list[str]:
    """Return the statements that grant again what is granted on the view."""
    statement = (
        "SELECT DISTINCT format('GRANT %s ON %s TO %s%s', g.privilege_type, CAST(:view AS regclass), "
        "CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END, "
        "CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) "
        "FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g "
        "WHERE c.oid = CAST(:view AS regclass) AND g.grantee <> c.relowner"
    )
    return [str(grant) for (grant,) in connection.execute(text(statement), {"view": view})]


def _sqlstate(error: sqlalchemy.exc.DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
