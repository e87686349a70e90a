"""Copy calls into DuckDB with dlt: each run copies what changed since the previous one.

    MAGNETIS_DATABASE_URL="$(magnetis db-url)" python examples/dlt_calls.py

`last_seen_at` is the last read that changed a row. A deleted row has `deleted_at` instead, so the
cursor is the later of the two, and dlt removes the row from the copy (`hard_delete`). The view
`calls_current` would not do: it omits deleted rows, and the copy would keep them.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dlt
import psycopg
from psycopg.rows import dict_row

LAG_SECONDS = 86_400
"""A read that began earlier may be committed later: each run repeats the last day of changes."""
QUERY = """
    SELECT connection, id, account_id, day, occurred_at, status, duration_seconds, deleted_at,
           greatest(last_seen_at, deleted_at) AS touched_at
    FROM magnetis.calls
    WHERE greatest(last_seen_at, deleted_at) >= %s
"""
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)


@dlt.resource(
    primary_key=("connection", "id"),
    write_disposition="merge",
    columns={"deleted_at": {"data_type": "timestamp", "hard_delete": True}},
)
def calls(
    touched_at: Any = dlt.sources.incremental(  # noqa: B008 - dlt reads it from the signature
        "touched_at", initial_value=BEGINNING, lag=LAG_SECONDS
    ),
) -> Iterator[list[dict[str, Any]]]:
    """Yield the changed calls, 5,000 at a time."""
    url = os.environ["MAGNETIS_DATABASE_URL"]
    with (
        psycopg.connect(url, row_factory=dict_row) as connection,
        connection.cursor("calls") as cursor,  # a named cursor: the server keeps the rows
    ):
        cursor.execute(QUERY, [touched_at.last_value])
        while rows := cursor.fetchmany(5_000):
            yield rows


if __name__ == "__main__":
    pipeline = dlt.pipeline(
        "magnetis_calls",
        destination=dlt.destinations.duckdb("copy.duckdb"),
        dataset_name="magnetis",
    )
    print(pipeline.run(calls))
