"""An asset of your own that depends on `magnetis/calls`, day by day.

`automation_condition` starts it when a day of calls is loaded or corrected. The start and the time
zone are those of MAGNETIS_START_DATE and MAGNETIS_TIMEZONE, so that each day has one parent.
"""

import os

import dagster as dg
import psycopg


@dg.asset(
    key=["acme", "missed_calls"],
    deps=[dg.AssetKey(["magnetis", "calls"])],
    partitions_def=dg.DailyPartitionsDefinition("2024-01-01", timezone="Europe/Paris"),
    automation_condition=dg.AutomationCondition.eager(),
)
def missed_calls(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Missed calls per account and day."""
    day = context.partition_key
    with psycopg.connect(os.environ["MAGNETIS_DATABASE_URL"]) as connection:
        connection.execute("DELETE FROM acme.missed_calls WHERE day = %s", [day])
        written = connection.execute(
            "INSERT INTO acme.missed_calls (day, account_id, calls) "
            "SELECT day, account_id, count(*) FROM magnetis.calls_current "
            "WHERE day = %s AND status = 'missed' GROUP BY day, account_id",
            [day],
        )
    return dg.MaterializeResult(metadata={"dagster/row_count": written.rowcount})
