"""Charge every request of a run to the ledger before it is sent, then settle it."""

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
"""Longest pause that the guard waits out: the API's framework throttles by the minute."""
FRESH_SECONDS = 1.0
"""A charge that waited longer is confirmed before its request is sent. Pages wait milliseconds."""


class Permit(Protocol):
    """Decides whether the run may still request pages.

    After a run was ended from outside, another run may load the same days.
    """

    def is_fresh(self) -> bool:
        """Return whether the last confirmation is recent enough."""

    def confirm(self) -> None:
        """Confirm that the run continues; raise if it was ended."""


@dataclass(frozen=True, slots=True)
class _Grant:
    """A charge whose request is not settled yet."""

    charge: Charge
    valid_seconds: float
    """The charge counts in its quota window for at least this long from `requested_at`."""
    requested_at: Moment
    """Before the ledger was called; the charge is not older."""
    granted_at: Moment

    def is_fresh(self) -> bool:
        """Return whether the request may be sent without another confirmation."""
        now = Moment.now()
        is_valid = self.requested_at.seconds_until(now) < min(self.valid_seconds, GRANT_SECONDS)
        return is_valid and self.granted_at.seconds_until(now) <= FRESH_SECONDS


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """The run that sends the requests."""

    run_id: str
    """Dagster's run id, or the name of a command."""
    lane: str
    """Lane whose share of the quota the calls use: schedule, settings, manual or backfill."""
    work: str | None = None
    """Work that a run and its retries share: the first run's id. None: the run's own id."""
    backfill_id: str | None = None
    resumes: bool = False
    """Whether this run is a retry, which skips the days that the same work completed."""

    @property
    def work_id(self) -> str:
        """The run id in `magnetis_ops.windows` and `days`."""
        return self.work or self.run_id


@dataclass(frozen=True, slots=True)
class _PendingSettlement:
    number: int
    settlement: Settlement
    recorded: asyncio.Future[None]
    is_retry: bool = False


class LedgerGuard:
    """Charges the calls of one run to the ledger.

    Serves one event loop. Charges and outcomes that arrive while the ledger is busy share the next
    transaction.
    """

    def __init__(
        self, ledger: Ledger, run: RunIdentity, *, trial: bool = False, permit: Permit | None = None
    ) -> None:
        """`trial`: if the key is closed, the calls are trials, which find out whether it reopened.

        `permit` is confirmed, unless fresh, before each charge and each renewal.
        """
        self.ledger = ledger
        self.charged: Counter[tuple[date, date] | None] = Counter()
        self._run = run
        self._trial = trial
        self._permit = permit
        self._charges: list[tuple[Charge, asyncio.Future[Charged | QuotaExhausted]]] = []
        self._settlements: list[_PendingSettlement] = []
        self._worker: asyncio.Task[None] | None = None
        self._grants: dict[int, _Grant] = {}

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
        return await self._grant(charge)

    async def confirm(self, charge: int) -> int:
        """Confirm a charge and return the number under which the request may be sent now.

        The ledger renews a charge that is not fresh, or replaces one of an earlier quota window.
        """
        while not (grant := self._grants[charge]).is_fresh():
            charge = await self._grant(replace(grant.charge, renews=charge))
        return charge

    async def _grant(self, charge: Charge) -> int:
        while True:
            if self._permit and not self._permit.is_fresh():
                await asyncio.to_thread(self._permit.confirm)
            requested_at = Moment.now()
            granted = await self._charge(charge)
            if charge.renews is not None:
                del self._grants[charge.renews]  # renewed, or settled by the ledger
            if isinstance(granted, QuotaExhausted):
                charge = await self._after_refusal(charge, granted)
                continue
            self._grants[granted.number] = _Grant(
                replace(charge, renews=None, trial=self._trial),
                granted.valid_seconds,
                requested_at,
                Moment.now(),
            )
            if granted.number != charge.renews:
                first, last = charge.first_day, charge.last_day
                self.charged[(first, last) if first and last else None] += 1
            await asyncio.sleep(granted.pause)
            return granted.number

    async def _charge(self, charge: Charge) -> Charged | QuotaExhausted:
        answer: asyncio.Future[Charged | QuotaExhausted] = asyncio.Future()
        self._charges.append((charge, answer))
        self._start_worker()
        return await asyncio.shield(answer)

    async def _after_refusal(self, charge: Charge, refusal: QuotaExhausted) -> Charge:
        """Wait out a short pause and return the next charge to try; raise after a refusal."""
        charge = replace(charge, renews=None)
        if refusal.key_refused and self._run.resumes and not charge.trial:
            # only people retry such a run, and they may have reactivated the key
            return replace(charge, trial=True)
        pause = (refusal.available_at - refusal.at).total_seconds()
        if pause > PATIENCE_SECONDS:
            raise KeyRefused(str(refusal)) if refusal.key_refused else refusal
        # random, so that waiting processes do not return in the same instant
        spread = random.uniform(0.05, 0.5)  # noqa: S311 - not a secret
        await asyncio.sleep(max(0.0, pause) + spread)
        return charge

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        """Record the outcome of a charged call."""
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
        recorded: asyncio.Future[None] = asyncio.Future()
        self._settlements.append(_PendingSettlement(charge, settlement, recorded))
        self._start_worker()
        await asyncio.shield(recorded)

    def _start_worker(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._process_batches())

    async def _process_batches(self) -> None:
        while self._charges or self._settlements:
            charges, self._charges = self._charges, []
            pending, self._settlements = self._settlements, []
            outcomes = {each.number: each.settlement for each in pending}
            try:
                answers = await asyncio.to_thread(
                    self.ledger.charge_and_settle, [charge for charge, _ in charges], outcomes
                )
            except Exception as error:  # noqa: BLE001 - raised in the waiting tasks
                for _, answer in charges:
                    answer.set_exception(error)
                for each in pending:
                    if isinstance(error, DatabaseUnavailable) and not each.is_retry:
                        # a lost settlement of a trial call would keep the key closed for minutes
                        self._settlements.append(replace(each, is_retry=True))
                    else:
                        each.recorded.set_exception(error)
            else:
                for (_, answer), charged in zip(charges, answers, strict=True):
                    answer.set_result(charged)
                for each in pending:
                    each.recorded.set_result(None)
