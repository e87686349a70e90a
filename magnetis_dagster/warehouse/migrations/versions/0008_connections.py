"""Add `connection` to the tables about rows, days, requests and quota; create `connections`.

Rows of earlier versions belong to the unnamed connection, `magnetis`. Adding a column with a
constant default rewrites no row. The tables whose key changes are small; `api_calls`, `windows` and
`day_reads` may be large, and `migrate.py` builds their indexes concurrently.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = "magnetis_ops"
OWNER = "Connection that the row belongs to."
LAST_CHARGED = "Connection that charged the last API call. Connections may share a key."
COLUMNS = {
    # quota_keys first, as in a grant, so that the two do not wait for each other
    "quota_keys": LAST_CHARGED,
    "quota_days": LAST_CHARGED,
    "api_calls": "Connection that charged the request.",
    "windows": "Connection whose key read the window.",
    "days": OWNER,
    "pages": "Connection whose key fetched the page.",
    "window_limits": "Connection to whose key the limit applies.",
    "sources": "Connection that the key belongs to.",
    "strays": OWNER,
    "forecasts": "Connection that the forecast is for.",
    "quarantine": OWNER,
}
KEYS = {
    "days": ["collection", "day"],
    "pages": ["work", "collection", "first_day", "last_day", "page"],
    "window_limits": ["collection"],
    "sources": ["collection"],
    "strays": ["collection", "day"],
    "forecasts": ["work", "collection", "first_day"],
    "quarantine": ["collection", "key"],
}
"""Primary keys before this migration; `connection` becomes their first column."""


def upgrade() -> None:
    """Add the columns, replace the keys and the views, create the table."""
    for table, comment in COLUMNS.items():
        op.add_column(
            table,
            sa.Column(
                "connection", sa.Text(), nullable=False, server_default="magnetis", comment=comment
            ),
            schema=SCHEMA,
            if_not_exists=True,
        )
    for table, columns in KEYS.items():
        op.drop_constraint(f"{table}_pkey", table, schema=SCHEMA)
        op.create_primary_key(f"{table}_pkey", table, ["connection", *columns], schema=SCHEMA)
    op.create_table_comment(
        "sources",
        "Key and API origin that filled each table per connection; rows of others are refused.",
        schema=SCHEMA,
    )
    _create_connections()
    _replace_views()


def _create_connections() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "connections",
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="Name of the connection: `connection` in other tables.",
        ),
        sa.Column(
            "scope",
            sa.Text(),
            comment="Where the key was created, as declared: organization, entity, network or account.",
        ),
        sa.Column(
            "rank",
            sa.Integer(),
            comment="1 is the widest scope, whose rows the views _distinct prefer; NULL: ranks "
            "last.",
        ),
        sa.Column(
            "key_expires",
            sa.Date(),
            comment="Last day on which the key is valid, as declared.",
        ),
        sa.Column(
            "declared_in",
            sa.Text(),
            comment="`MAGNETIS_CONFIG`, or `component` for one of a defs.yaml file.",
        ),
        sa.Column(
            "declared_at",
            moment,
            comment="Time of the first declaration; NULL: rows without a declaration.",
        ),
        sa.Column(
            "removed_at",
            moment,
            comment="Time at which the declaration was removed; its rows stay.",
        ),
        sa.PrimaryKeyConstraint("name"),
        schema=SCHEMA,
        if_not_exists=True,
        comment="API keys that load into this database, one row per name.",
    )
    # the views _distinct compare fewer rows if the connection is known
    op.execute(
        "INSERT INTO magnetis_ops.connections (name) "
        "SELECT 'magnetis' WHERE EXISTS (SELECT FROM magnetis_ops.windows) ON CONFLICT DO NOTHING"
    )


def _replace_views() -> None:
    op.execute(
        "CREATE OR REPLACE VIEW magnetis_ops.api_usage_30d AS "
        "SELECT day, key_fingerprint, collection, route, lane, count(*) AS calls, "
        "count(*) FILTER (WHERE status BETWEEN 200 AND 299) AS succeeded, "
        "count(*) FILTER (WHERE status = 429) AS refused_over_quota, "
        "count(*) FILTER (WHERE settled_at IS NOT NULL AND coalesce(status, 500) >= 400 "
        "AND coalesce(status, 500) <> 429) AS failed, "
        "sum(rows) AS rows, sum(bytes) AS bytes, "
        "percentile_cont(0.5) WITHIN GROUP (ORDER BY milliseconds) AS median_milliseconds, "
        "connection "
        "FROM magnetis_ops.api_calls WHERE charged_at > magnetis_ops.now() - interval '31 days' "
        "GROUP BY day, key_fingerprint, collection, route, lane, connection"
    )
    late = "r.inserted + r.changed + r.deleted"
    op.execute(
        "CREATE OR REPLACE VIEW magnetis_ops.late_changes AS "
        "SELECT w.collection, r.age_days, count(*) AS reads, sum(r.held) AS held_rows, "
        "sum(r.inserted) AS new_rows, sum(r.changed) AS changed_rows, "
        "sum(r.deleted) AS deleted_rows, "
        f"count(*) FILTER (WHERE {late} > 0) AS reads_with_changes, "
        f"round(100 * sum(sum({late})) "
        "OVER (PARTITION BY w.connection, w.collection ORDER BY r.age_days) "
        f"/ nullif(sum(sum({late})) OVER (PARTITION BY w.connection, w.collection), 0), 1) "
        "AS percent_up_to_this_age, "
        "w.connection "
        "FROM magnetis_ops.day_reads AS r JOIN magnetis_ops.windows AS w ON w.id = r.window_id "
        "WHERE NOT r.first_read AND w.read_at > magnetis_ops.now() - interval '90 days' "
        "GROUP BY w.connection, w.collection, r.age_days"
    )
