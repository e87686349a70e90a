"""Add indexes, so that pruning a window does not scan the tables that refer to it."""

from alembic import op

revision = "0005"
down_revision = "0004"

SCHEMA = "magnetis_ops"


def upgrade() -> None:
    """Create the indexes."""
    for table in ("days", "quarantine"):
        op.create_index(
            f"ix_{table}_window", table, ["window_id"], schema=SCHEMA, if_not_exists=True
        )
