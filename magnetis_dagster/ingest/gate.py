"""The gate between client and ledger: every call of a run is charged here before it is sent, and settled afterwards."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date

from magnetis_dagster.api import Call, Outcome
from magnetis_dagster.database import DatabaseUnwell
from magnetis_dagster.quota.ledger import Charge, Charged, Ledger, QuotaExhausted, Settlement

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


@dataclass(frozen=True, slots=True)
class _Note:
    """An outcome that waits for its turn."""

    number: int
    settlement: Settlement
    noted: asyncio.Future[None]
    again: bool = False


class LedgerGate:
    """Charges the calls of one run to the ledger.

    One event loop, any number of tasks: what they ask for while the ledger is busy is asked for in one transaction afterwards.
    """

    def __init__(self, ledger: Ledger, run: RunIdentity) -> None:
        self.ledger = ledger
        self.charged: Counter[tuple[date, date] | None] = Counter()
        """Calls charged so far, by the days that they read."""
        self._run = run
        self._charges: list[tuple[Charge, asyncio.Future[Charged | QuotaExhausted]]] = []
        self._notes: list[_Note] = []
        self._turns: asyncio.Task[None] | None = None

    async def charge(self, call: Call) -> int:
        """Return the number of the charge. Waits out a pause of up to a minute; raises QuotaExhausted for a longer one."""
        first, last = call.days or (None, None)
        charge = Charge(
            collection=call.collection,
            route=call.route,
            page=call.page,
            lane=self._run.lane,
            run_id=self._run.run_id,
            backfill_id=self._run.backfill_id,
            first_day=first,
            last_day=last,
        )
        while True:
            answer: asyncio.Future[Charged | QuotaExhausted] = asyncio.get_running_loop().create_future()
            self._charges.append((charge, answer))
            self._take_turns()
            charged = await asyncio.shield(answer)
            if isinstance(charged, QuotaExhausted):
                pause = (charged.available_at - charged.at).total_seconds()
                if pause > PATIENCE_SECONDS:
                    raise charged
                # spread, so that waiting processes do not come back in the same instant
                await asyncio.sleep(max(0.0, pause) + random.uniform(0.05, 0.5))  # noqa: S311 - not a secret
            else:
                self.charged[call.days] += 1
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
        note = _Note(charge, settlement, asyncio.get_running_loop().create_future())
        self._notes.append(note)
        self._take_turns()
        await asyncio.shield(note.noted)

    def _take_turns(self) -> None:
        if self._turns is None or self._turns.done():
            self._turns = asyncio.create_task(self._turn_by_turn())

    async def _turn_by_turn(self) -> None:
        while self._charges or self._notes:
            charges, self._charges = self._charges, []
            notes, self._notes = self._notes, []
            outcomes = {note.number: note.settlement for note in notes}
            try:
                answers = await asyncio.to_thread(self.ledger.turn, [charge for charge, _ in charges], outcomes)
            except Exception as error:  # noqa: BLE001 - raised where it was asked for
                for _, answer in charges:
                    answer.set_exception(error)
                for note in notes:
                    if isinstance(error, DatabaseUnwell) and not note.again:
                        # a session that the server has ended; lost, the note on a trial call would keep the key closed for minutes
                        self._notes.append(replace(note, again=True))
                    else:
                        note.noted.set_exception(error)
            else:
                for (_, answer), charged in zip(charges, answers, strict=True):
                    answer.set_result(charged)
                for note in notes:
                    note.noted.set_result(None)
