"""Dagster's event log in PostgreSQL, with one row for a check that a run plans.

Dagster 1.13 plans each check once for every partition of a ranged run (1.4 kB a row), even if the
check has no partitions. The result, which has none, never replaces those rows: half of what a loaded
day leaves behind (benchmarks/growth.py), and "in progress" in the history of the check.
"""

from dagster import DagsterEventType, EventLogEntry
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster_postgres import PostgresEventLogStorage


class MagnetisEventLogStorage(PostgresEventLogStorage):
    """PostgresEventLogStorage for checks without partitions."""

    def store_asset_check_event(self, event: EventLogEntry, event_id: int | None) -> None:
        """Store a planned check without partitions, so that its result replaces it."""
        if event.dagster_event and event.dagster_event_type == DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED:
            planned = event.dagster_event.asset_check_planned_data
            whole = AssetCheckEvaluationPlanned(asset_key=planned.asset_key, check_name=planned.check_name)
            event = event._replace(dagster_event=event.dagster_event._replace(event_specific_data=whole))
        super().store_asset_check_event(event, event_id)
