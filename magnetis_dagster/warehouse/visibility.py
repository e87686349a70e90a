"""Decide which columns and rows the views of the schema magnetis_masked contain.

Connections share the views, but each has its own catalogue and privacy plan. The table
`column_visibility` contains the declarations of each. A column is visible if a connection declares
it, and if none declares it personal. A declaration that was removed stays if it was personal: the
table still contains the values of that connection.

Rows are restricted in the views and not by policies on the tables. A view with
`security_barrier` evaluates this condition before any function of its reader.
"""

from collections.abc import Mapping

from sqlalchemy import Connection

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.privacy.classification import personal_columns
from magnetis_dagster.privacy.plan import CollectionPlan, Plan, build_plan
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import ALL_ACCOUNTS, OPS_SCHEMA

READER, ANALYST = "magnetis_reader", "magnetis_analyst"
"""Roles that read all rows."""
FIXED_COLUMNS = frozenset(
    {"connection", "id", "account_id", "occurred_at", "day"}
    | {"first_seen_at", "last_seen_at", "changed_at"}
)
"""Visible columns that the catalogue does not declare."""
_QUERIES = Queries("visibility")

Visible = Mapping[str, frozenset[str]]
"""Visible columns by collection, without FIXED_COLUMNS."""


def default_plan(catalogue: Catalogue) -> Plan:
    """Return the privacy plan without MAGNETIS_CONFIG."""
    return build_plan(None, "privacy", catalogue)


def declared_visibility(collection: Collection, plan: CollectionPlan) -> dict[str, bool]:
    """Return whether each declared column is visible, by name.

    Columns for caller keys are visible. The table may lack them.
    """
    personal = personal_columns(collection, plan)
    keys = dict.fromkeys(collection.key_columns.values(), True)
    return keys | {name: name not in personal for name in collection.columns}


def declared_columns(catalogue: Catalogue, plan: Plan) -> Visible:
    """Return the visible columns if there is only one connection."""
    return {
        name: frozenset(
            column
            for column, visible in declared_visibility(each, plan.of(name)).items()
            if visible
        )
        for name, each in catalogue.collections.items()
    }


def record_visibility(
    connection: Connection, catalogue: Catalogue, plan: Plan, connection_name: str
) -> None:
    """Record the declarations of a connection, in the caller's transaction."""
    rows = [
        (name, column, visible)
        for name, each in catalogue.collections.items()
        for column, visible in declared_visibility(each, plan.of(name)).items()
    ]
    parameters = {
        "connection": connection_name,
        "collections": [collection for collection, _, _ in rows],
        "names": [name for _, name, _ in rows],
        "visible": [visible for _, _, visible in rows],
    }
    connection.execute(_QUERIES["forget"], parameters)
    connection.execute(_QUERIES["record"], parameters)


def has_visibility(connection: Connection, connection_name: str) -> bool:
    """Return whether a connection has recorded declarations. They may have been deleted."""
    return bool(connection.execute(_QUERIES["recorded"], {"connection": connection_name}).scalar())


def forget_column(connection: Connection, collection: str, name: str) -> None:
    """Delete all declarations of a column that is dropped from the table."""
    connection.execute(_QUERIES["forget_column"], {"collection": collection, "name": name})


def visible_columns(connection: Connection) -> Visible:
    """Return the visible columns of all collections that any connection declares."""
    return {
        collection: frozenset(names)
        for collection, names in connection.execute(_QUERIES["visible"])
    }


def may_read(rows: str) -> str:
    """Return the condition that the reader of a view may read the row of the alias `rows`.

    The owner of the tables, superusers and members of READER and ANALYST read all rows. Other
    roles read those of magnetis_ops.row_access. All subqueries are evaluated once per query.
    """
    # pg_has_role and current_user apply to the role that reads the view, not to its owner
    access = f"{OPS_SCHEMA}.row_access"
    granted = f'FROM {access} AS a WHERE a."role_name" = CAST(current_user AS text)'
    return (
        "((SELECT pg_catalog.pg_has_role(o.relowner, 'USAGE') OR EXISTS ("
        "SELECT FROM pg_catalog.pg_roles AS r "
        f"WHERE r.rolname IN ('{ANALYST}', '{READER}') AND pg_catalog.pg_has_role(r.oid, 'USAGE')) "
        f"FROM pg_catalog.pg_class AS o WHERE o.oid = CAST('{access}' AS regclass)) "
        f'OR {rows}."connection" IN ('
        f'SELECT a."connection" {granted} AND a."account_id" = \'{ALL_ACCOUNTS}\') '
        f'OR ({rows}."connection", {rows}."account_id") IN ('
        f'SELECT a."connection", a."account_id" {granted}))'
    )
