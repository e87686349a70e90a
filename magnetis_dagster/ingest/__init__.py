"""Load windows of one collection from the API into the warehouse, under quota.

No SQL, no HTTP, no Dagster. `Ingestion` is the entry point; `pipeline.py` describes the flow.
"""

from magnetis_dagster.ingest.errors import (
    FilterIgnored,
    IncompleteResponse,
    IncompleteWindow,
    OpenDay,
    PastSnapshot,
    RepeatedIds,
    UnplaceableRows,
)
from magnetis_dagster.ingest.ingestion import Ingestion
from magnetis_dagster.ingest.results import DayResult, WindowResult
from magnetis_dagster.ingest.windows import Window, Zones
from magnetis_dagster.quota.guard import LedgerGuard, Permit, RunIdentity

__all__ = [
    "DayResult",
    "FilterIgnored",
    "IncompleteResponse",
    "IncompleteWindow",
    "Ingestion",
    "LedgerGuard",
    "OpenDay",
    "PastSnapshot",
    "Permit",
    "RepeatedIds",
    "RunIdentity",
    "UnplaceableRows",
    "Window",
    "WindowResult",
    "Zones",
]
