"""The gate between client and ledger: every call of a run is charged here before it is sent, and settled afterwards."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from typing import Protocol

from magnetis_dagster.api_calls import GRANT_SECONDS, ApiCall, CallOutcome
from magnetis_dagster.clocks import Moment
from magnetis_dagster.database import DatabaseUnavailable
from magnetis_dagster.errors import KeyRefused
from magnetis_dagster.quota.ledger import Charge, Charged, Ledger, QuotaExhausted, Settlement

PATIENCE_SECONDS = 60.0
"""A pause that the API asks for is waited out here up to this long (its framework throttles by the minute); beyond it the run
gives way."""
FRESH_SECONDS = 1.0
"""A grant that waited longer is confirmed at the ledger before its request is sent; normal pages wait for milliseconds."""


class Permit(Protocol):
    """Decides whether the run may still request pages: once it was ended from outside, another run may do its work."""

    def is_fresh(self) -> bool:
        """Return whether the last confirmation is recent enough."""

    def confirm(self) -> None:
        """Confirm again; raise if the run was ended."""


@dataclass(frozen=True, slots=True)
class _Grant:
    """A charge whose request is not settled yet."""

    charge: Charge
    days: tuple[date, date] | None
    valid_seconds: float
    """From `asked`: the quota window of the charge certainly lasts that long."""
    asked: Moment
    """Before the ledger was asked; the charge is not older."""
    given: Moment

    def is_fresh(self) -> bool:
        """Whether the request may be sent without asking the ledger again."""
        now = Moment.now()
        age = self.asked.seconds_until(now)
        return (
            age < self.valid_seconds
            and age < GRANT_SECONDS
            and self.given.seconds_until(now) <= FRESH_SECONDS
        )


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


class LedgerGuard:
    """Charges the calls of one run to the ledger.

    One event loop, any number of tasks: what they ask for while the ledger is busy is asked for in one transaction afterwards.
    """

    def __init__(
        self, ledger: Ledger, run: RunIdentity, *, trial: bool = False, permit: Permit | None = None
    ) -> None:
        """`trial`: if the key is closed, the calls are trials that tell whether it is open again. `permit` is confirmed, if it is
        not fresh, before each charge and each renewal."""
        self.ledger = ledger
        self.charged: Counter[tuple[date, date] | None] = Counter()
        """Calls charged so far, by the days that they read."""
        self._run = run
        self._trial = trial
        self._permit = permit
        self._charges: list[tuple[Charge, asyncio.Future[Charged | QuotaExhausted]]] = []
        self._notes: list[_Note] = []
        self._turns: asyncio.Task[None] | None = None
        self._grants: dict[int, _Grant] = {}
        """By the number of the charge; those that are not settled."""

    async def charge(self, call: ApiCall) -> int:
        """Return the number of the charge. Waits out a pause of up to a minute; raises QuotaExhausted for a longer one.

        Raises KeyRefused if the API has refused the key, and it is too early to try it again.
        """
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
            trial=self._trial,
        )
        return await self._grant(charge, call.days)

    async def confirm(self, charge: int) -> int:
        """Return the number under which the request may be sent now.

        A grant that is not fresh is renewed by the ledger; if it no longer counts in the present quota window, it is charged again.
        """
        while not (grant := self._grants[charge]).is_fresh():
            charge = await self._grant(replace(grant.charge, renews=charge), grant.days)
        return charge

    async def _grant(self, charge: Charge, days: tuple[date, date] | None) -> int:
        while True:
            if self._permit and not self._permit.is_fresh():
                await asyncio.to_thread(self._permit.confirm)
            asked = Moment.now()
            answer: asyncio.Future[Charged | QuotaExhausted] = (
                asyncio.get_running_loop().create_future()
            )
            self._charges.append((charge, answer))
            self._take_turns()
            charged = await asyncio.shield(answer)
            if charge.renews is not None:
                del self._grants[charge.renews]  # renewed, or settled by the ledger
            if isinstance(charged, QuotaExhausted):
                charge = replace(charge, renews=None)
                if charged.key_refused and self._run.resumes and not charge.trial:
                    # a run that ended with a refused key is retried by people only, who may have activated the key again
                    charge = replace(charge, trial=True)
                    continue
                pause = (charged.available_at - charged.at).total_seconds()
                if pause > PATIENCE_SECONDS:
                    raise KeyRefused(str(charged)) if charged.key_refused else charged
                # spread, so that waiting processes do not come back in the same instant
                await asyncio.sleep(max(0.0, pause) + random.uniform(0.05, 0.5))  # noqa: S311 - not a secret
            else:
                self._grants[charged.number] = _Grant(
                    replace(charge, renews=None, trial=self._trial),
                    days,
                    charged.valid_seconds,
                    asked,
                    Moment.now(),
                )
                if charged.number != charge.renews:
                    self.charged[days] += 1
                await asyncio.sleep(charged.pause)
                return charged.number

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        """Note the outcome; when the API says that no call is left, the ledger closes the key for every process."""
        if self._grants.pop(charge, None) is None:
            return  # not renewed, so the ledger has settled it
        limit = outcome.rate_limit
        remaining = outcome.remaining
        if remaining is None and limit is not None:
            remaining = limit.remaining_today(self.ledger.policy.limit)
        settlement = Settlement(
            status=outcome.status,
            error=outcome.error,
            rows=outcome.rows,
            size=outcome.bytes,
            milliseconds=outcome.milliseconds,
            remaining=remaining,
            over_quota=outcome.over_quota,
            throttled=limit is not None and limit.is_throttle,
            key_refused=outcome.key_refused,
            retry_after=outcome.retry_after,
            signal=f"HTTP {outcome.status}{f', {limit.signal}' if limit else ''}",
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
                answers = await asyncio.to_thread(
                    self.ledger.turn, [charge for charge, _ in charges], outcomes
                )
            except Exception as error:  # noqa: BLE001 - raised where it was asked for
                for _, answer in charges:
                    answer.set_exception(error)
                for note in notes:
                    if isinstance(error, DatabaseUnavailable) and not note.again:
                        # a session that the server has ended; lost, the note on a trial call would keep the key closed for minutes
                        self._notes.append(replace(note, again=True))
                    else:
                        note.noted.set_exception(error)
            else:
                for (_, answer), charged in zip(charges, answers, strict=True):
                    answer.set_result(charged)
                for note in notes:
                    note.noted.set_result(None)
