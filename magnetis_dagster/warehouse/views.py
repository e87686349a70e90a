"""Creates a view `magnetis.<collection>_current` per collection, for people who write SQL.

A view omits deleted rows and `payload`. It adds each time of a row in MAGNETIS_TIMEZONE, and the
names of account, network and entity. Its columns are in the table's order. Usually columns are only
added to a table, so the view is replaced in place, and its grants and dependent views persist.
"""

from collections.abc import Mapping
from zoneinfo import ZoneInfo

import sqlalchemy.exc
from sqlalchemy import Connection, text

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.columns import own_columns
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, tables_of, type_name

_QUERIES = Queries("views")
SUFFIX = "_current"
_HIDDEN = ("payload", "deleted_at")
_TIMES_OF_READS = ("first_seen_at", "last_seen_at", "changed_at")
_COLLECTIONS = {"a": "accounts", "n": "networks", "e": "entities"}
_ALIASES = {name: alias for alias, name in _COLLECTIONS.items()}
_CHAIN = ("t", *_COLLECTIONS)
"""Aliases of row, account, network and entity. Each is joined to those before it."""
_INVALID_TABLE_DEFINITION, _DEPENDENT_OBJECTS = "42P16", "2BP01"

Types = Mapping[str, str]
"""Column of a table to its type, in the table's order."""


class ViewInUse(PermanentError):
    """A view must be recreated, but another object uses it; the text names both."""


def view_name(collection: Collection) -> str:
    """Return the name of the collection's view, without its schema."""
    return f"{collection.name}{SUFFIX}"


def view_comments(catalogue: Catalogue) -> dict[str, str]:
    """Return the comments of all views, by which this program recognises its own views."""
    return {
        f"{DATA_SCHEMA}.{view_name(each)}": _comment(each)
        for each in catalogue.collections.values()
    }


def _comment(collection: Collection) -> str:
    # never change this text: with another one, existing views would count as somebody else's
    return (
        f"Rows of {DATA_SCHEMA}.{collection.name} that the API still returns, with local times and "
        "the names of account, network and entity."
    )


def declared_statements(catalogue: Catalogue, zone: ZoneInfo) -> list[str]:
    """Return the statements for tables with the declared columns and no others."""
    types = {
        collection.name: {
            column.name: type_name(column.type) for column in tables_of(collection)[0].columns
        }
        for collection in catalogue.collections.values()
    }
    return [_select(collection, types, zone) for collection in catalogue.collections.values()]


def refresh_views(connection: Connection, catalogue: Catalogue, zone: ZoneInfo) -> None:
    """Create or replace the views, in the caller's transaction.

    Raises: ViewInUse if a column has disappeared from a table and another object uses its view.
    """
    types = {
        collection.name: own_columns(connection, collection)
        for collection in catalogue.collections.values()
    }
    for collection in catalogue.collections.values():
        _replace(connection, collection, _select(collection, types, zone))


def drop_view(connection: Connection, collection: Collection) -> list[str]:
    """Drop the collection's view; return the statements that would repeat its grants.

    Raises: ViewInUse if another object uses the view.
    """
    view = f"{DATA_SCHEMA}.{view_name(collection)}"
    grants = [str(grant) for grant in connection.scalars(_QUERIES["grants"], {"view": view})]
    try:
        with connection.begin_nested():
            connection.execute(text(f"DROP VIEW {view}"))
    except sqlalchemy.exc.DBAPIError as error:
        if _sqlstate(error) != _DEPENDENT_OBJECTS:
            raise
        users = [
            f"the view {user}" for user in connection.scalars(_QUERIES["users"], {"view": view})
        ]
        raise ViewInUse(
            f"The view {view} must be recreated, but it is used by "
            f"{', '.join(users) or 'another object'}. Nothing was changed. Drop the dependent "
            "objects, run the command again, then recreate them."
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
    later = _CHAIN[_CHAIN.index(rows) :]
    chain = [alias for alias in later if alias == rows or _COLLECTIONS[alias] in types]
    own = types[collection.name]
    columns_of = {alias: types[_COLLECTIONS[alias]] for alias in chain if alias != rows}
    columns_of[rows] = own
    names = dict(list(_names(columns_of).items())[_CHAIN.index(rows) :])
    columns = [
        f'{rows}."id"',
        f'{rows}."account_id"',
        *(f"{expression} AS {name}" for name, expression in names.items()),
    ]
    for name, type_ in own.items():
        if name in {"id", "account_id", *names, *_HIDDEN}:
            continue
        columns.append(f'{rows}."{name}"')
        local = f"{name}_local"
        if type_ == "timestamp with time zone" and name not in _TIMES_OF_READS and local not in own:
            columns.append(f'{rows}."{name}" AT TIME ZONE \'{zone.key}\' AS "{local}"')
    keys = {
        "a": _first(columns_of, ("t", "account_id")),
        "n": _first(columns_of, ("a", "network_id")),
        "e": _first(columns_of, ("a", "entity_id"), ("n", "entity_id")),
    }
    joins = [
        f'LEFT JOIN {DATA_SCHEMA}.{_COLLECTIONS[alias]} AS {alias} ON {alias}."id" = {keys[alias]}'
        for alias in chain[1:]
    ]
    of = f"{DATA_SCHEMA}.{collection.name} AS {rows}"
    return " ".join(
        [f"SELECT {', '.join(columns)} FROM {of}", *joins, f'WHERE {rows}."deleted_at" IS NULL']
    )


def _names(columns_of: Mapping[str, Types]) -> dict[str, str]:
    """Return SQL for the names of account, network and entity, by column of the view."""
    return {
        "account_name": _first(columns_of, ("t", "account_name"), ("a", "name")),
        "network_name": _first(
            columns_of, ("t", "network_name"), ("a", "network_name"), ("n", "name")
        ),
        "entity_name": _first(
            columns_of,
            ("t", "entity_name"),
            ("a", "entity_name"),
            ("n", "entity_name"),
            ("e", "name"),
        ),
    }


def _first(columns_of: Mapping[str, Types], *members: tuple[str, str]) -> str:
    """Return SQL for the first value that is not NULL, of those (alias, column) that exist."""
    found = [
        f'CAST({alias}."{name}" AS text)'
        for alias, name in members
        if name in columns_of.get(alias, ())
    ]
    return f"coalesce({', '.join(found)})" if found else "CAST(NULL AS text)"


def _sqlstate(error: sqlalchemy.exc.DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
