"""Read the calls of one day into polars, and summarize them per account.

MAGNETIS_DATABASE_URL="$(magnetis db-url)" python examples/polars_calls.py 2025-03-04
"""

import os
import sys

import polars as pl
import psycopg

QUERY = """
    SELECT account_id, status, duration_seconds FROM magnetis.calls_current WHERE day = %(day)s
"""


def calls_per_account(url: str, day: str) -> pl.DataFrame:
    """Return one row per account: calls, missed calls, and the mean duration in seconds."""
    with psycopg.connect(url) as connection:
        calls = pl.read_database(
            QUERY,
            connection,
            execute_options={"params": {"day": day}},
            infer_schema_length=None,  # from all rows: the first ones may be NULL
        )
    return (
        calls.group_by("account_id")
        .agg(
            pl.len().alias("calls"),
            (pl.col("status") == "missed").sum().alias("missed"),
            pl.col("duration_seconds").mean().alias("mean_seconds"),
        )
        .sort("calls", "account_id", descending=[True, False])
    )


if __name__ == "__main__":
    print(calls_per_account(os.environ["MAGNETIS_DATABASE_URL"], sys.argv[1]))
