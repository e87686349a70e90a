"""Create magnetis_ops: clock, quota, API calls, windows, completed days, quarantine."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the clock, the tables and the view."""
    op.execute(
        "CREATE FUNCTION magnetis_ops.now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()'"
    )
    op.create_table(
        "api_calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key_fingerprint", sa.Text(), nullable=False),
        sa.Column(
            "day", sa.Date(), nullable=False, comment="Quota day that the call is charged to."
        ),
        sa.Column("charged_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "settled_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL: still under way, or the process died before the answer.",
        ),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column(
            "first_day",
            sa.Date(),
            nullable=True,
            comment="First day of the window; NULL where the call has none.",
        ),
        sa.Column("last_day", sa.Date(), nullable=True),
        sa.Column("page", sa.Integer(), nullable=False),
        sa.Column(
            "run_id", sa.Text(), nullable=True, comment="Dagster run, or the command that called."
        ),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column(
            "status", sa.Integer(), nullable=True, comment="HTTP status; NULL where no answer came."
        ),
        sa.Column(
            "error", sa.Text(), nullable=True, comment="Class of the error, NULL on success."
        ),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("milliseconds", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        schema="magnetis_ops",
        comment="One row per call sent to the API, retries included; written before the call leaves.",
    )
    op.create_index(
        "ix_api_calls_key_charged_at",
        "api_calls",
        ["key_fingerprint", "charged_at"],
        unique=False,
        schema="magnetis_ops",
    )
    op.create_index(
        "ix_api_calls_run", "api_calls", ["run_id"], unique=False, schema="magnetis_ops"
    )
    op.create_table(
        "quota_days",
        sa.Column("key_fingerprint", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="Calendar day in MAGNETIS_TIMEZONE."),
        sa.Column(
            "daily_quota",
            sa.Integer(),
            nullable=False,
            comment="Calls allowed on that day, as last configured.",
        ),
        sa.Column(
            "schedule",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Calls charged in lane schedule; never lowered.",
        ),
        sa.Column(
            "settings",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Calls charged in lane settings; never lowered.",
        ),
        sa.Column(
            "manual",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Calls charged in lane manual; never lowered.",
        ),
        sa.Column(
            "backfill",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Calls charged in lane backfill; never lowered.",
        ),
        sa.Column(
            "used_elsewhere",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Calls that others made, as far as the API tells.",
        ),
        sa.PrimaryKeyConstraint("key_fingerprint", "day"),
        schema="magnetis_ops",
        comment="One row per key and day: how the budget was used.",
    )
    op.create_table(
        "quota_keys",
        sa.Column(
            "key_fingerprint",
            sa.Text(),
            nullable=False,
            comment="Twelve hexadecimal digits of the key's SHA-256; never the key.",
        ),
        sa.Column(
            "closed_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="The API said that no call is left until then; set until a trial call goes well.",
        ),
        sa.Column(
            "trial_call",
            sa.BigInteger(),
            nullable=True,
            comment="The call in api_calls that tries whether the API has reopened.",
        ),
        sa.Column(
            "trial_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="The trial is forgotten then, should its process have died.",
        ),
        sa.Column(
            "last_sent",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the last granted call was, or will be, sent.",
        ),
        sa.Column(
            "lanes_last_sent",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="The same by lane.",
        ),
        sa.PrimaryKeyConstraint("key_fingerprint"),
        schema="magnetis_ops",
        comment="One row per key: the lock under which calls are granted.",
    )
    op.create_table(
        "schema_state",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column(
            "applied_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name"),
        schema="magnetis_ops",
        comment="Which catalogue the tables of the schema magnetis were last brought to.",
    )
    op.create_table(
        "windows",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("first_day", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False, comment="Inclusive."),
        sa.Column(
            "read_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When the reading began: what it saw is at least this fresh.",
        ),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "announced",
            sa.Integer(),
            nullable=False,
            comment="meta.total of the window, padding included.",
        ),
        sa.Column("received", sa.Integer(), nullable=False, comment="Distinct rows received."),
        sa.Column("padding", sa.Integer(), nullable=False, comment="Rows outside the asked days."),
        sa.Column(
            "held",
            sa.Integer(),
            nullable=False,
            comment="Rows that the table holds for the asked days.",
        ),
        sa.Column("quarantined", sa.Integer(), nullable=False),
        sa.Column("inserted", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("deleted", sa.Integer(), nullable=False),
        sa.Column("api_calls", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("milliseconds", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        schema="magnetis_ops",
        comment="What has been read: one row per complete window, written with its rows.",
    )
    op.create_index(
        "ix_windows_collection_days",
        "windows",
        ["collection", "first_day", "last_day"],
        unique=False,
        schema="magnetis_ops",
    )
    op.create_table(
        "days",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("window_id", sa.BigInteger(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "announced",
            sa.Integer(),
            nullable=False,
            comment="Distinct rows received for this day in a complete window.",
        ),
        sa.Column(
            "held",
            sa.Integer(),
            nullable=False,
            comment="Rows that the table held for this day when the window was committed.",
        ),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["window_id"],
            ["magnetis_ops.windows.id"],
        ),
        sa.PrimaryKeyConstraint("collection", "day"),
        schema="magnetis_ops",
        comment="Days that are done: the newest complete read of each, written with its rows.",
    )
    op.create_table(
        "quarantine",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column(
            "key",
            sa.Text(),
            nullable=False,
            comment="The row's id, or a digest of it where it has none.",
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("window_id", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["window_id"],
            ["magnetis_ops.windows.id"],
        ),
        sa.PrimaryKeyConstraint("collection", "key"),
        schema="magnetis_ops",
        comment="Rows that could not be placed, whole, with the reason.",
    )

    op.execute(
        "CREATE VIEW magnetis_ops.api_usage_30d AS "
        "SELECT day, key_fingerprint, collection, route, lane, count(*) AS calls, "
        "count(*) FILTER (WHERE status BETWEEN 200 AND 299) AS succeeded, "
        "count(*) FILTER (WHERE status = 429) AS refused_over_quota, "
        "count(*) FILTER (WHERE settled_at IS NOT NULL AND coalesce(status, 500) >= 400 AND coalesce(status, 500) <> 429) "
        "AS failed, "
        "sum(rows) AS rows, sum(bytes) AS bytes, "
        "percentile_cont(0.5) WITHIN GROUP (ORDER BY milliseconds) AS median_milliseconds "
        "FROM magnetis_ops.api_calls WHERE charged_at > magnetis_ops.now() - interval '31 days' "
        "GROUP BY day, key_fingerprint, collection, route, lane"
    )
    op.execute(
        "COMMENT ON VIEW magnetis_ops.api_usage_30d IS 'Calls by day, collection, route and lane, for BI.'"
    )
