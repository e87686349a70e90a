"""The parts that all collections of one run share."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from magnetis_dagster.api import MagnetisClient
from magnetis_dagster.catalog import Collection
from magnetis_dagster.ingest.windows import Zones, request_fingerprint
from magnetis_dagster.ingest.worker_threads import WorkerThreads
from magnetis_dagster.quota.guard import LedgerGuard, Permit, RunIdentity
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.warehouse import PageCache, Warehouse


@dataclass(slots=True)
class RunParts:
    """The run, and what its pipelines use."""

    warehouse: Warehouse
    ledger: Ledger
    run: RunIdentity
    zones: Zones
    origin: str
    client: MagnetisClient
    guard: LedgerGuard
    permit: Permit | None
    threads: WorkerThreads
    concurrency: int
    chunk_rows: int
    on_advance: Callable[[], None]
    """Called after each advance that a retry of the run does not repeat."""

    def today(self) -> date:
        """Return the current day in the partition zone, by the database's clock."""
        return self.warehouse.now().astimezone(self.zones.partition).date()

    def page_cache(self, collection: Collection) -> PageCache:
        """Return the cache of the collection's pages that this work has received."""
        fingerprint = request_fingerprint(
            collection,
            self.zones,
            key_fingerprint=self.ledger.key_fingerprint,
            origin=self.origin,
        )
        return self.warehouse.page_cache(collection, self.run.work_id, fingerprint)
