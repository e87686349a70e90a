"""One window of one collection: from the API to the warehouse, under quota. No SQL, no HTTP, no Dagster."""

from magnetis_dagster.ingest.gate import LedgerGate, Permit, RunIdentity
from magnetis_dagster.ingest.ingestion import DayResult, Ingestion, PastSnapshot, WindowResult
from magnetis_dagster.ingest.reading import FilterIgnored, IncompleteWindow, Unplaceable
from magnetis_dagster.ingest.windows import Window, Zones

__all__ = [
    "DayResult",
    "FilterIgnored",
    "IncompleteWindow",
    "Ingestion",
    "LedgerGate",
    "PastSnapshot",
    "Permit",
    "RunIdentity",
    "Unplaceable",
    "Window",
    "WindowResult",
    "Zones",
]
