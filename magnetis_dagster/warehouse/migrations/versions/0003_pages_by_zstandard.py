"""Compress cached pages by Zstandard. Pages compressed by zlib are deleted and requested again."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Empty the table."""
    op.execute("TRUNCATE magnetis_ops.pages")
    op.alter_column(
        "pages",
        "body",
        comment="The body as received, compressed by Zstandard.",
        schema="magnetis_ops",
    )
