"""The entry point of ingestion: one run, its API client, and its collections."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import date, timedelta
from types import TracebackType
from typing import Self

from magnetis_dagster.api import ClientLimits, MagnetisClient
from magnetis_dagster.catalog import Collection
from magnetis_dagster.ingest.pipeline import Pipeline
from magnetis_dagster.ingest.results import WindowResult
from magnetis_dagster.ingest.run_parts import RunParts
from magnetis_dagster.ingest.window_splitter import CHUNK_ROWS
from magnetis_dagster.ingest.windows import Zones
from magnetis_dagster.ingest.worker_threads import WorkerThreads
from magnetis_dagster.quota.guard import LedgerGuard, Permit, RunIdentity
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.warehouse import DayDifference, Warehouse
from magnetis_dagster.warehouse.forecasts import ForecastLine, UnknownBackfill, report


class Ingestion:
    """A context manager that owns the API client of one run.

    Not thread-safe; its methods block.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        ledger: Ledger,
        run: RunIdentity,
        *,
        origin: str,
        key: str,
        zones: Zones,
        concurrency: int = 8,
        limits: ClientLimits | None = None,
        chunk_rows: int = CHUNK_ROWS,
        progress: Callable[[str], None] = lambda _line: None,
        advanced: Callable[[], None] = lambda: None,
        permit: Permit | None = None,
    ) -> None:
        """Create an Ingestion.

        `progress` receives log lines. `advanced` is called after each advance that a retry does not
        repeat. `permit` is confirmed, unless it is fresh, before requests and commits; its errors
        end the load.
        """
        self._progress = progress
        threads = WorkerThreads(progress)
        guard = LedgerGuard(ledger, run, permit=permit)
        client = MagnetisClient(
            origin,
            key,
            guard,
            concurrency=concurrency,
            limits=limits or ClientLimits(),
            # a resumed run may be interrupted again, which loses the requests in flight
            start=1 if run.resumes else None,
            report=threads.report,
        )
        self._parts = RunParts(
            warehouse=warehouse,
            ledger=ledger,
            run=run,
            zones=zones,
            origin=origin,
            client=client,
            guard=guard,
            permit=permit,
            threads=threads,
            concurrency=concurrency,
            chunk_rows=chunk_rows,
            on_advance=advanced,
        )
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Migrate the tables and open the client.

        Raises: DatabaseUnavailable or DatabaseRefused.
        """
        self._parts.warehouse.prepare(self._progress)
        threads = self._parts.threads
        with ExitStack() as stack:
            stack.enter_context(threads)
            threads.run(self._parts.client.__aenter__())
            stack.push(self._close_client)
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client's connections and stop the threads."""
        self._resources.__exit__(kind, error, trace)

    def _close_client(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._parts.threads.run(self._parts.client.__aexit__(kind, error, trace))

    def read_days(self, collection: Collection, days: Sequence[date]) -> Iterator[WindowResult]:
        """Load days of an events collection; yield each window once it is committed.

        Contiguous days form one window while that is cheap to redo: a range that announces more
        than CHUNK_ROWS is split into windows of whole days.

        Raises: OpenDay or ForeignSource before any request, and the errors of the layers below.
        """
        return Pipeline(self._parts, collection).read_days(days)

    def read_snapshot(self, collection: Collection, day: date) -> WindowResult:
        """Load the present state of a collection as the snapshot of `day`.

        A past day that has a snapshot is skipped.

        Raises: PastSnapshot or ForeignSource before any request.
        """
        return Pipeline(self._parts, collection).read_snapshot(day)

    def reconcile(self, collection: Collection, days: Sequence[date]) -> list[DayDifference]:
        """Return the days whose recorded count differs from the table.

        Compares the whole table if yesterday is one of `days`, as in the nightly load, else only
        `days`, as in a backfill.
        """
        is_nightly = self._parts.today() - timedelta(days=1) in days
        return self._parts.warehouse.reconcile(collection, None if is_nightly else days)

    def forecast(self, collection: Collection) -> ForecastLine | None:
        """Return forecast and progress of the collection in the run's backfill."""
        backfill_id = self._parts.run.backfill_id
        if backfill_id is None:
            return None
        try:
            warehouse = self._parts.warehouse
            lines = report(warehouse.engine, backfill_id, connection_name=warehouse.connection_name)
        except UnknownBackfill:
            return None
        return next((line for line in lines if line.collection == collection.name), None)
