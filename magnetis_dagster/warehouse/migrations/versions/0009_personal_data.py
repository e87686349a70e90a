"""Create the tables for erasures, suppressions, retention and the secrets of caller keys."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

SCHEMA = "magnetis_ops"
_moment = sa.DateTime(timezone=True)


def _connection(comment: str) -> sa.Column[str]:
    return sa.Column(
        "connection", sa.Text(), nullable=False, server_default="magnetis", comment=comment
    )


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "erasures",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("requested_at", _moment, nullable=False),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=False,
            comment="Why the person is erased, without personal data.",
        ),
        sa.Column(
            "expires_on", sa.Date(), comment="Day on which the suppression ends; NULL: never."
        ),
        sa.Column("completed_at", _moment, comment="NULL: not every place is masked yet."),
        sa.PrimaryKeyConstraint("id"),
        schema=SCHEMA,
        if_not_exists=True,
        comment="Erasures of persons; written before the first change, so that each one is "
        "completed.",
    )
    op.create_table(
        "erasure_steps",
        sa.Column("erasure_id", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False, comment="Table with its schema."),
        sa.Column(
            "rows",
            sa.BigInteger(),
            nullable=False,
            comment="Rows masked or deleted in all runs of the step.",
        ),
        sa.Column("done_at", _moment, nullable=False),
        _connection("Connection that the row belongs to."),
        sa.ForeignKeyConstraint(["erasure_id"], [f"{SCHEMA}.erasures.id"]),
        sa.PrimaryKeyConstraint("erasure_id", "connection", "place"),
        schema=SCHEMA,
        if_not_exists=True,
        comment="Rows that each erasure masked, by place.",
    )
    op.create_table(
        "suppressions",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column(
            "person_key", sa.Text(), nullable=False, comment="Caller key of the number or address."
        ),
        sa.Column("erasure_id", sa.BigInteger(), nullable=False),
        sa.Column("suppressed_at", _moment, nullable=False),
        sa.Column(
            "expires_on", sa.Date(), comment="Day on which the suppression ends; NULL: never."
        ),
        _connection("Connection that the caller key belongs to."),
        sa.ForeignKeyConstraint(["erasure_id"], [f"{SCHEMA}.erasures.id"]),
        sa.PrimaryKeyConstraint("id"),
        schema=SCHEMA,
        if_not_exists=True,
        comment="Erased persons. Loads mask them, so that no read restores an erased person.",
    )
    op.create_index(
        "uq_suppressions_key",
        "suppressions",
        ["connection", "person_key"],
        unique=True,
        schema=SCHEMA,
        if_not_exists=True,
    )
    op.create_table(
        "retention",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column(
            "keyed",
            sa.Text(),
            nullable=False,
            comment="Digest of what the caller keys of the rows depend on.",
        ),
        sa.Column("rules", sa.Text(), comment="Digest of plan, declaration and active secret."),
        sa.Column(
            "masked_on",
            sa.Date(),
            comment="Local day of the run: every row that was old enough is masked.",
        ),
        _connection("Connection that the row belongs to."),
        sa.PrimaryKeyConstraint("connection", "collection"),
        schema=SCHEMA,
        if_not_exists=True,
        comment="Newest complete run of retention for each collection.",
    )
    op.create_table(
        "privacy_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column(
            "proof",
            sa.Text(),
            nullable=False,
            comment="Keyed hash of a constant: shows that a secret is the same.",
        ),
        sa.Column("first_used_at", _moment, nullable=False),
        sa.PrimaryKeyConstraint("key_id"),
        schema=SCHEMA,
        if_not_exists=True,
        comment="Secrets that caller keys were computed with, by id; never a secret.",
    )
