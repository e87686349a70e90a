"""Add columns and tables that detect incomplete reads.

They record fingerprints of cached pages, row caps, the source of each table, and stray rows.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = "magnetis_ops"


def upgrade() -> None:
    """Add the columns and tables. Delete cached pages, which have no fingerprint."""
    op.execute("TRUNCATE magnetis_ops.pages")
    op.add_column(
        "pages",
        sa.Column(
            "request",
            sa.Text(),
            nullable=False,
            comment="Fingerprint of key, origin, request and declaration; others are not used.",
        ),
        schema=SCHEMA,
    )
    op.add_column(
        "quota_keys",
        sa.Column(
            "closed_signal",
            sa.Text(),
            nullable=True,
            comment="Status and rate-limit headers of the response that closed the key last.",
        ),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_api_calls_late",
        "api_calls",
        ["key_fingerprint", "settled_at"],
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("settled_at - charged_at > interval '0:05:00'"),
    )
    op.add_column(
        "windows",
        sa.Column(
            "witness_calls",
            sa.Integer(),
            nullable=False,
            server_default="0",
            comment="API calls among them that only verified the window.",
        ),
        schema=SCHEMA,
    )
    op.add_column(
        "window_limits",
        sa.Column(
            "most_rows",
            sa.Integer(),
            nullable=True,
            comment="Rows beyond which the API caps a search, total included; NULL: no cap is known.",
        ),
        schema=SCHEMA,
    )
    op.alter_column(
        "window_limits",
        "most_days",
        nullable=True,
        comment="Longest window that the API answered completely after a longer one failed.",
        schema=SCHEMA,
    )
    op.alter_column(
        "window_limits",
        "reason",
        comment="What the API said to the longer window, or how the limit was detected.",
        schema=SCHEMA,
    )
    op.alter_column(
        "window_limits",
        "learned_at",
        comment="Forgotten a month later, in case the API has changed.",
        schema=SCHEMA,
    )
    op.execute(
        "COMMENT ON TABLE magnetis_ops.window_limits IS "
        "'Limits of one window, learned from refusals and from answers that contradict each other.'"
    )
    op.create_table(
        "sources",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column(
            "key_fingerprint",
            sa.Text(),
            nullable=False,
            comment="Twelve hexadecimal digits of the key's SHA-256; never the key.",
        ),
        sa.Column(
            "origin", sa.Text(), nullable=False, comment="Origin of the API that filled the table."
        ),
        sa.Column("adopted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("collection"),
        schema=SCHEMA,
        comment="Which key and which API filled each table; rows of another key or origin are refused.",
    )
    op.create_table(
        "strays",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column(
            "held", sa.Integer(), nullable=False, comment="Rows that the table holds for the day."
        ),
        sa.PrimaryKeyConstraint("collection", "day"),
        schema=SCHEMA,
        comment="Days without a complete read that hold rows, because the rows moved there from a day that was read.",
    )
