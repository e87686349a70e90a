"""One window of one collection: from the API to the warehouse, under quota. No SQL, no HTTP, no Dagster."""

from magnetis_dagster.ingest.pipeline import DayResult, Ingestion, PastSnapshot, WindowResult
from magnetis_dagster.ingest.window_reader import FilterIgnored, IncompleteWindow, UnplaceableRows
from magnetis_dagster.ingest.windows import Window, Zones
from magnetis_dagster.quota.guard import LedgerGuard, Permit, RunIdentity

__all__ = [
    "DayResult",
    "FilterIgnored",
    "IncompleteWindow",
    "Ingestion",
    "LedgerGuard",
    "PastSnapshot",
    "Permit",
    "RunIdentity",
    "UnplaceableRows",
    "Window",
    "WindowResult",
    "Zones",
]
