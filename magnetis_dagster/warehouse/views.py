"""Creates three views per collection, for people who write SQL: `_current`, `_distinct`, masked.

`magnetis.<collection>_current` omits deleted rows and `payload`. It adds each time of a row in
MAGNETIS_TIMEZONE, and the names of account, network and entity. Its columns are in the table's
order. Usually columns are only added, so the view is replaced in place, and its grants and
dependent views persist.

`magnetis.<collection>_distinct` has the same columns and each id once. Keys with overlapping scopes
return the same rows, so they are in the table once per connection.

`magnetis_masked.<collection>` has the rows of `_current` that its reader may read, without personal
columns. A phone number or address is represented by its caller key. See visibility.py.
"""

from collections.abc import Container, Iterable, Mapping
from zoneinfo import ZoneInfo

import sqlalchemy.exc
from sqlalchemy import Connection, text

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.columns import own_columns
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import (
    DATA_SCHEMA,
    MASKED_SCHEMA,
    OPS_SCHEMA,
    tables_of,
    type_name,
)
from magnetis_dagster.warehouse.visibility import (
    FIXED_COLUMNS,
    Visible,
    may_read,
    visible_columns,
)

_QUERIES = Queries("views")
_HIDDEN = {"id", "account_id", "payload", "deleted_at"} | {
    *("masked", "payload_masked", "mentioned_keys")
}
_TIMES_OF_READS = ("first_seen_at", "last_seen_at", "changed_at")
_COLLECTIONS = {"a": "accounts", "n": "networks", "e": "entities"}
"""Collections that are joined to the row `t` and to those before them, by alias."""
_NAMES = {
    "account_name": ["t.account_name", "a.name"],
    "network_name": ["t.network_name", "a.network_name", "n.name"],
    "entity_name": ["t.entity_name", "a.entity_name", "n.entity_name", "e.name"],
}
"""Sources of each column of a view, in order."""
_UNRANKED = 2**31 - 1
"""Rank of connections that are not declared: after all others."""
_KEYS = {"a": ["t.account_id"], "n": ["a.network_id"], "e": ["a.entity_id", "n.entity_id"]}
_NO_VALUE = "CAST(NULL AS text)"
_INVALID_TABLE_DEFINITION, _DEPENDENT_OBJECTS = "42P16", "2BP01"

Types = Mapping[str, str]
"""Column of a table to its type, in the table's order."""


class ViewInUse(PermanentError):
    """A view must be recreated, but another object uses it; the text names both."""


def view_name(collection: Collection) -> str:
    """Return the name of the collection's view, without its schema."""
    return f"{collection.name}_current"


def distinct_name(collection: Collection) -> str:
    """Return the name of the collection's view without duplicates, without its schema."""
    return f"{collection.name}_distinct"


def masked_name(collection: Collection) -> str:
    """Return the name of the collection's view without personal data, with its schema."""
    return f"{MASKED_SCHEMA}.{collection.name}"


def masked_comment(table: str) -> str:
    """Return the comment of the masked view of a collection."""
    # never change this text, as in _comment
    return (
        f"Rows of {DATA_SCHEMA}.{table} that the API still returns and that the reader may read, "
        "without personal data."
    )


def own_views(collection: Collection) -> list[str]:
    """Return the names of the collection's views, with their schemas."""
    return list(_comments(collection))


def _comments(collection: Collection) -> dict[str, str]:
    """Return the comments of the collection's views, by their names with schema."""
    return {
        f"{DATA_SCHEMA}.{view_name(collection)}": _comment(collection),
        f"{DATA_SCHEMA}.{distinct_name(collection)}": _distinct_comment(collection),
        masked_name(collection): masked_comment(collection.name),
    }


def view_comments(catalogue: Catalogue) -> dict[str, str]:
    """Return the comments of all views, by which this program recognises its own views."""
    return {
        view: comment
        for each in catalogue.collections.values()
        for view, comment in _comments(each).items()
    }


def _comment(collection: Collection) -> str:
    # never change this text: with another one, existing views would count as somebody else's
    return (
        f"Rows of {DATA_SCHEMA}.{collection.name} that the API still returns, with local times and "
        "the names of account, network and entity."
    )


def _distinct_comment(collection: Collection) -> str:
    # never change this text, for the same reason
    return (
        f"Rows of {DATA_SCHEMA}.{view_name(collection)} with each id once: from the connection "
        "with the widest scope that has it."
    )


def declared_statements(catalogue: Catalogue, zone: ZoneInfo, visible: Visible) -> list[str]:
    """Return the statements for tables with the declared columns and no others."""
    collections = catalogue.collections.values()
    types = {
        each.name: {column.name: type_name(column.type) for column in tables_of(each)[0].columns}
        for each in collections
    }
    return [
        select for each in collections for select in _selects(each, types, zone, visible).values()
    ]


def refresh_views(connection: Connection, catalogue: Catalogue, zone: ZoneInfo) -> None:
    """Create or replace the views, in the caller's transaction.

    Raises: ViewInUse if a view loses a column and another object uses the view: the column has
    disappeared from the table, or is personal now.
    """
    collections = catalogue.collections.values()
    types = {each.name: own_columns(connection, each) for each in collections}
    visible = visible_columns(connection)
    for each in collections:
        for view, select in _selects(each, types, zone, visible).items():
            _replace(connection, view, select, _comments(each)[view])


def drop_views(connection: Connection, collection: Collection) -> list[str]:
    """Drop the collection's views; return the statements that would repeat their grants.

    Raises: ViewInUse if another object uses a view.
    """
    return [grant for view in _comments(collection) for grant in _drop_view(connection, view)]


def _drop_view(connection: Connection, view: str) -> list[str]:
    grants = [str(grant) for grant in connection.scalars(_QUERIES["grants"], {"view": view})]
    if _execute_unless(connection, f"DROP VIEW {view}", _DEPENDENT_OBJECTS):
        return grants
    users = [f"the view {user}" for user in connection.scalars(_QUERIES["users"], {"view": view})]
    raise ViewInUse(
        f"The view {view} must be recreated, but it is used by "
        f"{', '.join(users) or 'another object'}. Nothing was changed. Drop the dependent "
        "objects, run the command again, then recreate them."
    )


def _replace(connection: Connection, view: str, select: str, comment: str) -> None:
    # without the option, a function of the reader may see rows before the view's condition does
    option = " WITH (security_barrier)" if view.startswith(f"{MASKED_SCHEMA}.") else ""
    definition = f"VIEW {view}{option} AS {select}"
    replace = f"CREATE OR REPLACE {definition}"
    if not _execute_unless(connection, replace, _INVALID_TABLE_DEFINITION):
        grants = _drop_view(connection, view)
        for statement in (f"CREATE {definition}", *grants):
            connection.execute(text(statement))
    connection.execute(text(f"COMMENT ON VIEW {view} IS '{comment}'"))


def _execute_unless(connection: Connection, statement: str, sqlstate: str) -> bool:
    """Execute a statement; return False, without its effects, if it fails with `sqlstate`."""
    try:
        with connection.begin_nested():
            connection.execute(text(statement))
    except sqlalchemy.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != sqlstate:
            raise
        return False
    return True


def _selects(
    collection: Collection, types: Mapping[str, Types], zone: ZoneInfo, visible: Visible
) -> dict[str, str]:
    """Return the definition of each view of the collection, by its name with schema."""
    rows, current = _current(collection, types, zone)
    shown = {name: _visible(own, visible.get(name, ())) for name, own in types.items()}
    _, masked = _current(collection, shown, zone, omit_unknown=True)
    current_view, distinct_view, masked_view = _comments(collection)
    return {
        current_view: current,
        distinct_view: f"{current} AND {_is_preferred(collection, rows)}",
        masked_view: f"{masked} AND {may_read(rows)}",
    }


def _visible(types: Types, visible: Container[str]) -> Types:
    return {
        name: type_ for name, type_ in types.items() if name in FIXED_COLUMNS or name in visible
    }


def _is_preferred(collection: Collection, rows: str) -> str:
    """Return the condition that no connection of a better rank has the row `rows`.

    The first comparison is the whole cost for the connection that ranks first. The rows of others
    cost one search of the primary key per better connection; nothing is sorted or hashed.
    """
    order = f'coalesce({{0}}."rank", {_UNRANKED}), {{0}}."name" COLLATE "C"'
    own = (
        f'(SELECT r."rank" FROM {OPS_SCHEMA}.connections AS r WHERE r."name" = {rows}."connection")'
    )
    return (
        f'({rows}."connection" = (SELECT f."name" FROM {OPS_SCHEMA}.connections AS f '
        f"ORDER BY {order.format('f')} LIMIT 1) "
        f"OR NOT EXISTS (SELECT FROM {OPS_SCHEMA}.connections AS b "
        f"JOIN {DATA_SCHEMA}.{collection.name} AS o "
        f'ON o."connection" = b."name" AND o."id" = {rows}."id" '
        'WHERE o."deleted_at" IS NULL '
        f"AND ({order.format('b')}) < "
        f'(coalesce({own}, {_UNRANKED}), {rows}."connection" COLLATE "C")))'
    )


def _current(
    collection: Collection,
    types: Mapping[str, Types],
    zone: ZoneInfo,
    *,
    omit_unknown: bool = False,
) -> tuple[str, str]:
    """Return the alias of the collection's rows, and the definition of its view `_current`.

    `types` are the columns that it may contain. `omit_unknown`: omit names without a source.
    """
    joinable = list(_COLLECTIONS.values())
    start = joinable.index(collection.name) + 1 if collection.name in joinable else 0
    rows = ("t", *_COLLECTIONS)[start]
    own = types[collection.name]
    later = list(_COLLECTIONS.items())[start:]
    columns_of = {rows: own} | {alias: types[name] for alias, name in later if name in types}
    names = {name: _first(columns_of, sources) for name, sources in list(_NAMES.items())[start:]}
    if omit_unknown:
        names = {name: each for name, each in names.items() if each != _NO_VALUE}
    columns = [f'{rows}."id"', f'{rows}."account_id"']
    columns += [f"{expression} AS {name}" for name, expression in names.items()]
    for name, type_ in own.items():
        if name in _HIDDEN or name in names:
            continue
        columns.append(f'{rows}."{name}"')
        local = f"{name}_local"
        if type_ == "timestamp with time zone" and name not in _TIMES_OF_READS and local not in own:
            columns.append(f'{rows}."{name}" AT TIME ZONE \'{zone.key}\' AS "{local}"')
    parts = [f"SELECT {', '.join(columns)} FROM {DATA_SCHEMA}.{collection.name} AS {rows}"]
    for alias in list(columns_of)[1:]:
        table, key = f"{DATA_SCHEMA}.{_COLLECTIONS[alias]}", _first(columns_of, _KEYS[alias])
        same = f'{alias}."connection" = {rows}."connection"'
        parts.append(f'LEFT JOIN {table} AS {alias} ON {same} AND {alias}."id" = {key}')
    return rows, " ".join([*parts, f'WHERE {rows}."deleted_at" IS NULL'])


def _first(columns_of: Mapping[str, Types], sources: Iterable[str]) -> str:
    """Return SQL for the first value that is not NULL, of those `alias.column` that exist."""
    found = []
    for alias, name in (source.split(".") for source in sources):
        if name in columns_of.get(alias, ()):
            found.append(f'CAST({alias}."{name}" AS text)')
    return f"coalesce({', '.join(found)})" if found else _NO_VALUE
