"""Replace comments of tables and columns in magnetis_ops. Nothing else changes."""

from alembic import op

revision = "0007"
down_revision = "0006"

SCHEMA = "magnetis_ops"
TABLES = {
    "quota_keys": "One row per key. Its row lock serializes the granting of requests.",
    "quota_days": "One row per key and quota day: the API calls charged, by lane.",
    "api_calls": "One row per request, retries included; written before the request is sent.",
    "windows": "One row per complete window, committed with its rows.",
    "days": "Completed days: the newest complete read of each, committed with its rows.",
    "day_reads": "Rows that each complete read of a day changed. See the view late_changes.",
    "pages": "Pages of uncommitted windows. An interrupted read resumes with them.",
    "window_limits": "Limits of a window, learned from refusals and contradictory responses.",
    "sources": "Key and API origin that filled each table; rows of others are refused.",
    "strays": "Days without a complete read, with rows that moved there from other days.",
    "forecasts": "Forecast API calls of backfills, for comparison with the calls they made.",
    "quarantine": "Rows that could not be placed, complete and with the reason.",
    "schema_state": "Digest of the catalogue that the tables of the schema magnetis match.",
}
COLUMNS = {
    "quota_keys": {
        "closed_until": "The API refuses requests until then. NULL after a successful trial.",
        "trial_call": "Request in api_calls that tests whether the API accepts requests again.",
        "trial_until": "The trial expires then, in case its process has died.",
        "last_sent": "Time at which the last granted request was, or will be, sent.",
        "lanes_last_sent": "The same time for each lane.",
        "closed_signal": "Status and rate-limit headers of the last response that closed the key.",
    },
    "quota_days": {
        "daily_quota": "API calls allowed on that day, as last configured.",
        "schedule": "API calls charged in lane schedule; never lowered.",
        "settings": "API calls charged in lane settings; never lowered.",
        "manual": "API calls charged in lane manual; never lowered.",
        "backfill": "API calls charged in lane backfill; never lowered.",
        "used_elsewhere": "API calls that other programs made, as reported by the API.",
    },
    "api_calls": {
        "day": "Quota day that the request is charged to.",
        "settled_at": "NULL: in flight, or the process died before the response.",
        "first_day": "First day of the window; NULL if the request has none.",
        "run_id": "Dagster run or command that sent the request.",
        "status": "HTTP status; NULL if there was no response.",
    },
    "windows": {
        "read_at": "Start of the read: its rows are at least this fresh.",
        "padding": "Rows outside the requested days.",
        "held": "Rows that the table contains for the requested days.",
    },
    "days": {"held": "Rows that the table contains for this day."},
    "day_reads": {
        "age_days": "Days from the end of the day to the read: 0 is the first night.",
        "first_read": "Whether this is the first complete read of the day.",
        "held": "Rows that the table contained for the day after this read.",
    },
    "pages": {
        "work": "Run whose retries may use the page.",
        "fetched_at": "Start of the request.",
        "request": "Fingerprint of key, origin, request and declaration.",
    },
    "window_limits": {
        "most_rows": "Rows beyond which the API caps a window, total included; NULL: no known cap.",
        "reason": "The API's response to the longer window, or how the limit was detected.",
        "learned_at": "The limit expires 30 days later, in case the API has changed.",
    },
    "strays": {"held": "Rows that the table contains for the day."},
    "forecasts": {
        "rows": "Rows announced for these days.",
        "calls": "API calls forecast.",
        "planned": "true: by `magnetis plan`, for all days; false: by a run, for its own days.",
    },
    "quarantine": {"key": "The row's id, or a digest of the row if it has no id."},
}


def upgrade() -> None:
    """Replace the comments."""
    for table, comment in TABLES.items():
        op.create_table_comment(table, comment, schema=SCHEMA)
    for table, comments in COLUMNS.items():
        for column, comment in comments.items():
            op.alter_column(table, column, comment=comment, schema=SCHEMA)
