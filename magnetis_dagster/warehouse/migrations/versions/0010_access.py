"""Create `row_access` and `column_visibility`, which the views of magnetis_masked need."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

SCHEMA = "magnetis_ops"


def upgrade() -> None:
    """Create the two tables."""
    op.create_table(
        "row_access",
        sa.Column(
            "role_name",
            sa.Text(),
            nullable=False,
            comment="Database role, such as that of a customer.",
        ),
        sa.Column(
            "connection",
            sa.Text(),
            nullable=False,
            comment="Connection whose rows the role may read.",
        ),
        sa.Column(
            "account_id",
            sa.Text(),
            nullable=False,
            server_default="*",
            comment="Account whose rows the role may read; `*`: all rows of the connection.",
        ),
        sa.PrimaryKeyConstraint("role_name", "connection", "account_id"),
        schema=SCHEMA,
        if_not_exists=True,
        comment="Rows of the schema magnetis_masked that a role may read.",
    )
    op.create_table(
        "column_visibility",
        sa.Column(
            "connection",
            sa.Text(),
            nullable=False,
            comment="Connection whose catalogue declares the column.",
        ),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the column."),
        sa.Column(
            "visible",
            sa.Boolean(),
            nullable=False,
            comment="Whether it contains no personal data. The views of magnetis_masked contain "
            "the columns that no connection declares personal.",
        ),
        sa.PrimaryKeyConstraint("connection", "collection", "name"),
        schema=SCHEMA,
        if_not_exists=True,
        comment="Columns that the catalogue and the privacy plan of a connection declare.",
    )
