"""Create tables for backfills: cached pages, reads of days, forecasts, window limits."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables and the view."""
    op.add_column(
        "api_calls",
        sa.Column(
            "backfill_id",
            sa.Text(),
            nullable=True,
            comment="Dagster backfill that the run belongs to; NULL for any other run.",
        ),
        schema="magnetis_ops",
    )
    op.create_index(
        "ix_api_calls_backfill",
        "api_calls",
        ["backfill_id"],
        unique=False,
        schema="magnetis_ops",
        postgresql_where=sa.text("backfill_id IS NOT NULL"),
    )
    op.create_table(
        "day_reads",
        sa.Column("window_id", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column(
            "age_days",
            sa.Integer(),
            nullable=False,
            comment="Days from the day's end to the reading: 0 is the first night.",
        ),
        sa.Column(
            "first_read",
            sa.Boolean(),
            nullable=False,
            comment="Whether the day had never been done before.",
        ),
        sa.Column(
            "held",
            sa.Integer(),
            nullable=False,
            comment="Rows that the table held for the day then.",
        ),
        sa.Column("inserted", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("deleted", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["window_id"], ["magnetis_ops.windows.id"]),
        sa.PrimaryKeyConstraint("window_id", "day"),
        schema="magnetis_ops",
        comment="What each complete read of a day found: how late rows still come and change. See the view late_changes.",
    )
    op.create_table(
        "pages",
        sa.Column(
            "work", sa.Text(), nullable=False, comment="The run whose retries may use the page."
        ),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("first_day", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column("page", sa.Integer(), nullable=False),
        sa.Column(
            "fetched_at", sa.DateTime(timezone=True), nullable=False, comment="When the call began."
        ),
        sa.Column(
            "body",
            sa.LargeBinary(),
            nullable=False,
            comment="The body as received, compressed by zlib.",
        ),
        sa.PrimaryKeyConstraint("work", "collection", "first_day", "last_day", "page"),
        schema="magnetis_ops",
        comment="Pages of windows that are not committed yet, so that an interrupted reading goes on where it stopped.",
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "window_limits",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column(
            "most_days",
            sa.Integer(),
            nullable=False,
            comment="Longest window that the API answered after it had refused a longer one.",
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="What it said to the longer one."),
        sa.Column(
            "learned_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Forgotten a month later, should the API have changed.",
        ),
        sa.PrimaryKeyConstraint("collection"),
        schema="magnetis_ops",
        comment="How long windows may be, learned from refusals.",
    )
    op.create_table(
        "forecasts",
        sa.Column(
            "work",
            sa.Text(),
            nullable=False,
            comment="Dagster backfill or run that the forecast is for.",
        ),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("first_day", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column(
            "days",
            sa.Integer(),
            nullable=False,
            comment="Days to read between the two, both inclusive.",
        ),
        sa.Column("rows", sa.BigInteger(), nullable=False, comment="Rows announced for them."),
        sa.Column("calls", sa.Integer(), nullable=False, comment="API calls foreseen."),
        sa.Column(
            "planned",
            sa.Boolean(),
            nullable=False,
            comment="By `magnetis plan`, for all days; else by a run, for its own.",
        ),
        sa.Column("forecast_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("work", "collection", "first_day"),
        schema="magnetis_ops",
        comment="What backfills were expected to cost, to be held against what they did.",
    )
    late = "r.inserted + r.changed + r.deleted"
    op.execute(
        "CREATE VIEW magnetis_ops.late_changes AS "
        "SELECT w.collection, r.age_days, count(*) AS reads, sum(r.held) AS held_rows, sum(r.inserted) AS new_rows, "
        "sum(r.changed) AS changed_rows, sum(r.deleted) AS deleted_rows, "
        f"count(*) FILTER (WHERE {late} > 0) AS reads_with_changes, "
        f"round(100 * sum(sum({late})) OVER (PARTITION BY w.collection ORDER BY r.age_days) "
        f"/ nullif(sum(sum({late})) OVER (PARTITION BY w.collection), 0), 1) AS percent_up_to_this_age "
        "FROM magnetis_ops.day_reads AS r JOIN magnetis_ops.windows AS w ON w.id = r.window_id "
        "WHERE NOT r.first_read AND w.read_at > magnetis_ops.now() - interval '90 days' GROUP BY w.collection, r.age_days"
    )
    op.execute(
        "COMMENT ON VIEW magnetis_ops.late_changes IS "
        "'How many rows came, changed or went when days were read again in the last 90 days, by the age of the day in days: "
        "choose MAGNETIS_LOOKBACK_DAYS by it.'"
    )
