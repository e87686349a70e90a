"""Charge every request of a run to the ledger before it is sent, and settle it afterwards."""

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
"""Longest pause that the guard waits out. The API's framework throttles by the minute. After a
longer pause the run retries."""
FRESH_SECONDS = 1.0
"""A charge that waited longer is confirmed by the ledger before its request is sent. Normal pages
wait for milliseconds."""


class Permit(Protocol):
    """Decides whether the run may still request pages.

    After a run was ended from outside, another run may load the same days.
    """

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
    """The charge counts in its quota window for at least this long from `requested_at`."""
    asked: Moment
    """Before the ledger was called; the charge is not older."""
    given: Moment

    def is_fresh(self) -> bool:
        """Return whether the request may be sent without another confirmation by the ledger."""
        now = Moment.now()
        age = self.asked.seconds_until(now)
        return (
            age < self.valid_seconds
            and age < GRANT_SECONDS
            and self.given.seconds_until(now) <= FRESH_SECONDS
        )


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """The run that sends the requests."""

    run_id: str
    """Dagster's run id, or the name of a command."""
    lane: str
    """Lane whose share of the quota the calls use: schedule, settings, manual or backfill."""
    work: str | None = None
    """Name of the work that a run and its retries share (the first run's id); None means the run's
    own id."""
    backfill_id: str | None = None
    """Dagster backfill of the run."""
    resumes: bool = False
    """Whether this run is a retry, which skips the days that the same work completed."""

    @property
    def work_id(self) -> str:
        """The run id in `magnetis_ops.windows` and `days`."""
        return self.work or self.run_id


@dataclass(frozen=True, slots=True)
class _Note:
    """An outcome that the ledger has not recorded yet."""

    number: int
    settlement: Settlement
    noted: asyncio.Future[None]
    again: bool = False


class LedgerGuard:
    """Charges the calls of one run to the ledger.

    Serves one event loop and any number of tasks. Charges and outcomes that arrive while the ledger
    is busy share the next transaction.
    """

    def __init__(
        self, ledger: Ledger, run: RunIdentity, *, trial: bool = False, permit: Permit | None = None
    ) -> None:
        """Create a guard for `run`.

        `trial`: if the key is closed, the calls are trials, which find out whether it is open
        again. `permit` is confirmed, unless fresh, before each charge and each renewal.
        """
        self.ledger = ledger
        self.charged: Counter[tuple[date, date] | None] = Counter()
        """Calls charged so far, by the days that they request."""
        self._run = run
        self._trial = trial
        self._permit = permit
        self._charges: list[tuple[Charge, asyncio.Future[Charged | QuotaExhausted]]] = []
        self._notes: list[_Note] = []
        self._turns: asyncio.Task[None] | None = None
        self._grants: dict[int, _Grant] = {}
        """Charges that are not settled, by number."""

    async def charge(self, call: ApiCall) -> int:
        """Charge `call` and return the number of the charge.

        Waits out a pause of up to PATIENCE_SECONDS.

        Raises: QuotaExhausted for a longer pause; KeyRefused if the API rejected the key and the
        time of the next trial has not come.
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
        """Confirm a charge and return the number under which the request may be sent now.

        The ledger renews a charge that is not fresh. A charge that no longer counts in the current
        quota window is replaced by a new one.
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
                    # Only people retry a run that ended with a rejected key, and they may have
                    # reactivated the key.
                    charge = replace(charge, trial=True)
                    continue
                pause = (charged.available_at - charged.at).total_seconds()
                if pause > PATIENCE_SECONDS:
                    raise KeyRefused(str(charged)) if charged.key_refused else charged
                # random, so that waiting processes do not return in the same instant
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
        """Record the outcome of a charged call.

        An over-quota outcome closes the key for every process.
        """
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
                        # The server ended the session. A lost settlement of a trial call would keep
                        # the key closed for minutes.
                        self._notes.append(replace(note, again=True))
                    else:
                        note.noted.set_exception(error)
            else:
                for (_, answer), charged in zip(charges, answers, strict=True):
                    answer.set_result(charged)
                for note in notes:
                    note.noted.set_result(None)
