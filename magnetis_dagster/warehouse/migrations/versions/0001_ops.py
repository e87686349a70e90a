"""The tables of magnetis_ops: quota, calls, windows, days, quarantine."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "api_calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key_fingerprint", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="Quota day that the call is charged to."),
        sa.Column("charged_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "settled_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="NULL: still under way, or the process died before the answer.",
        ),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("first_day", sa.Date(), nullable=True, comment="First day of the window; NULL where the call has none."),
        sa.Column("last_day", sa.Date(), nullable=True),
        sa.Column("page", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True, comment="Dagster run, or the command that called."),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True, comment="HTTP status; NULL where no answer came."),
        sa.Column("error", sa.Text(), nullable=True, comment="Class of the error, NULL on success."),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("milliseconds", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        schema="magnetis_ops",
        comment="One row per call sent to the API, retries included; written before the call leaves.",
    )
    op.create_index("ix_api_calls_key_day", "api_calls", ["key_fingerprint", "day"], unique=False, schema="magnetis_ops")
    op.create_index("ix_api_calls_run", "api_calls", ["run_id"], unique=False, schema="magnetis_ops")
    op.create_table(
        "quota_days",
        sa.Column(
            "key_fingerprint", sa.Text(), nullable=False, comment="Twelve hexadecimal digits of the key's SHA-256; never the key."
        ),
        sa.Column("day", sa.Date(), nullable=False, comment="Quota day: calendar day in MAGNETIS_TIMEZONE."),
        sa.Column("daily_quota", sa.Integer(), nullable=False, comment="Calls allowed on that day, as last configured."),
        sa.Column(
            "used", sa.Integer(), nullable=False, comment="Calls charged; never lowered, since a sent call cannot be taken back."
        ),
        sa.Column(
            "closed_until", sa.DateTime(timezone=True), nullable=True, comment="The API said that no call is left until then."
        ),
        sa.PrimaryKeyConstraint("key_fingerprint", "day"),
        schema="magnetis_ops",
        comment="One row per key and quota day: the budget that every process shares.",
    )
    op.create_table(
        "schema_state",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
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
        sa.Column("announced", sa.Integer(), nullable=False, comment="meta.total of the window, padding included."),
        sa.Column("received", sa.Integer(), nullable=False, comment="Distinct rows received."),
        sa.Column("padding", sa.Integer(), nullable=False, comment="Rows outside the asked days."),
        sa.Column("held", sa.Integer(), nullable=False, comment="Rows that the table holds for the asked days."),
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
        "ix_windows_collection_days", "windows", ["collection", "first_day", "last_day"], unique=False, schema="magnetis_ops"
    )
    op.create_table(
        "days",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("window_id", sa.BigInteger(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("announced", sa.Integer(), nullable=False, comment="Distinct rows received for this day in a complete window."),
        sa.Column(
            "held", sa.Integer(), nullable=False, comment="Rows that the table held for this day when the window was committed."
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
        sa.Column("key", sa.Text(), nullable=False, comment="The row's id, or a digest of it where it has none."),
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
