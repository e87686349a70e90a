"""The gate between client and ledger: every call of a run is charged here before it is sent, and settled afterwards."""

import asyncio
import random
from dataclasses import dataclass

from magnetis_dagster.api import Call, Outcome
from magnetis_dagster.database import DatabaseUnwell
from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.quota.ledger import Charge, Ledger, QuotaExhausted, Settlement

PATIENCE_SECONDS = 60.0
"""A pause that the API asks for is waited out here up to this long (its framework throttles by the minute); beyond it the run
gives way."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Who is asking."""

    run_id: str
    """Dagster's run id, or the name of a command."""
    lane: str
    """Whose share of the quota the calls come from: schedule, settings, manual or backfill."""
    work: str | None = None
    """Name of the work that a run and its retries share (the first run's id); the run's own id where None."""
    backfill_id: str | None = None
    """Dagster backfill that the run belongs to."""
    resumes: bool = False
    """Whether this is a retry: days that the same work has finished are not read again."""

    @property
    def work_id(self) -> str:
        """What `magnetis_ops.windows` and `days` carry as their run."""
        return self.work or self.run_id


class LedgerGate:
    """Charges the calls of one run to the ledger. `window` is what is being read, for the ledger's rows."""

    def __init__(self, ledger: Ledger, run: RunIdentity) -> None:
        self.ledger = ledger
        self.window: Window | None = None
        self.charged = 0
        """Calls charged so far."""
        self._run = run

    async def charge(self, call: Call) -> int:
        """Return the number of the charge. Waits out a pause of up to a minute; raises QuotaExhausted for a longer one."""
        charge = Charge(
            collection=call.collection,
            route=call.route,
            page=call.page,
            lane=self._run.lane,
            run_id=self._run.run_id,
            backfill_id=self._run.backfill_id,
            first_day=self.window.first if self.window else None,
            last_day=self.window.last if self.window else None,
        )
        while True:
            try:
                charged = await asyncio.to_thread(self.ledger.charge, charge)
            except QuotaExhausted as exhausted:
                pause = (exhausted.available_at - exhausted.at).total_seconds()
                if pause > PATIENCE_SECONDS:
                    raise
                # spread, so that waiting processes do not come back in the same instant
                await asyncio.sleep(max(0.0, pause) + random.uniform(0.05, 0.5))  # noqa: S311 - not a secret
            else:
                self.charged += 1
                await asyncio.sleep(charged.pause)
                return charged.number

    async def settle(self, charge: int, outcome: Outcome) -> None:
        """Note the outcome; when the API says that no call is left, the ledger closes the key for every process."""
        settlement = Settlement(
            status=outcome.status,
            error=outcome.error,
            rows=outcome.rows,
            size=outcome.bytes,
            milliseconds=outcome.milliseconds,
            remaining=outcome.remaining,
            over_quota=outcome.over_quota,
            retry_after=outcome.retry_after,
        )
        try:
            await asyncio.to_thread(self.ledger.settle, charge, settlement)
        except DatabaseUnwell:
            # a session that the server has ended; lost, the note on a trial call would keep the key closed for minutes
            await asyncio.to_thread(self.ledger.settle, charge, settlement)
