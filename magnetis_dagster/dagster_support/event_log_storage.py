"""Dagster's event log in PostgreSQL, with one row per planned check, and usable by read-only roles.

Dagster 1.13 stores a planned check once for every partition of a ranged run (1.4 kB a row). The
result of a check without partitions never replaces these rows. They take half of the storage of a
loaded day, and remain "in progress" in the check's history (docs/decisions/0024-retention.md).
"""

from functools import cached_property

from dagster import DagsterEventType, EventLogEntry
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationPlanned,
)
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import text


class MagnetisEventLogStorage(PostgresEventLogStorage):
    """PostgresEventLogStorage for checks without partitions and for read-only roles."""

    def can_write_asset_status_cache(self) -> bool:
        """Return whether this role may update the cache of partition states.

        Dagster updates it whenever it displays them. A read-only role works without the cache.
        """
        return super().can_write_asset_status_cache() and self._may_update_assets

    @cached_property
    def _may_update_assets(self) -> bool:
        with self.index_connection() as connection:
            privilege = text(
                "SELECT has_column_privilege('asset_keys', 'cached_status_data', 'UPDATE')"
            )
            return bool(connection.execute(privilege).scalar_one())

    def store_asset_check_event(self, event: EventLogEntry, event_id: int | None) -> None:
        """Store a planned check without partitions, so that its result replaces it."""
        if (
            event.dagster_event
            and event.dagster_event_type == DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
        ):
            planned = event.dagster_event.asset_check_planned_data
            whole = AssetCheckEvaluationPlanned(
                asset_key=planned.asset_key, check_name=planned.check_name
            )
            event = event._replace(
                dagster_event=event.dagster_event._replace(event_specific_data=whole)
            )
        super().store_asset_check_event(event, event_id)
