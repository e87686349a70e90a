"""Kept pages are compressed by Zstandard; those of zlib are dropped, and asked again by the runs that left them."""

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
