"""Limit the requests in flight.

The limit halves after failures and grows after successes. The quota guard decides whether a request
may be sent at all.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType

CAUTIOUS_ROUNDS = 4
"""Rounds of successful calls for each additional slot after a cautious start. 1,000 pages of 0.2 s
on 8 slots take 3 s longer than with all slots at the start."""

CHARGED_AHEAD = 2
"""Calls that are charged while all slots are taken, so that no slot waits for the ledger."""

_log = logging.getLogger(__name__)


class ConcurrencyLimit:
    """Grants at most `most` slots for requests in flight.

    Each failure halves the slots, down to one. A round of successful calls adds one. A limit that
    begins with `start` slots needs CAUTIOUS_ROUNDS rounds for each additional slot until all are
    available.

    An async context manager for one call; one event loop, any number of tasks.
    """

    def __init__(self, most: int, start: int | None = None) -> None:
        self._most = most
        self.allowed = most if start is None else min(start, most)
        """Calls that may be in flight now."""
        self._rounds = 1 if self.allowed == most else CAUTIOUS_ROUNDS
        self._in_flight = 0
        self._turns = 0
        self._waiting: dict[asyncio.Future[None], None] = {}
        """Waiting tasks in order of arrival."""
        self._successes = 0
        self._reduced_at = float("-inf")

    @property
    def is_cautious(self) -> bool:
        """Whether the limit began below `most` and has not reached it yet."""
        return self._rounds > 1

    async def __aenter__(self) -> None:
        """Wait for a free slot."""
        await self._wait_until(lambda: self._in_flight < self.allowed)
        self._in_flight += 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the slot."""
        self._in_flight -= 1
        self._wake()

    @asynccontextmanager
    async def charging_turn(self) -> AsyncIterator[None]:
        """Wait until a call may be charged, CHARGED_AHEAD calls before its slot is free.

        While `is_cautious`, no call is charged ahead.
        """
        await self._wait_until(
            lambda: self._turns < self.allowed + (0 if self.is_cautious else CHARGED_AHEAD)
        )
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1
            self._wake()

    def record_success(self) -> None:
        """Count a successful call."""
        self._successes += 1
        if self.allowed < self._most and self._successes >= self.allowed * self._rounds:
            self.allowed += 1
            self._successes = 0
            if self.allowed == self._most:
                self._rounds = 1
            self._wake()

    def record_failure(self, began: float) -> None:
        """Halve the slots after a 429, a time-out or a 5xx.

        `began`: when the failed call began (time.monotonic()). Calls that were in flight together
        fail together and count as one failure.
        """
        if began <= self._reduced_at or self.allowed == 1:
            return
        reduced = self.allowed // 2
        _log.info("Reducing requests in flight from %d to %d", self.allowed, reduced)
        self.allowed = reduced
        self._successes = 0
        self._reduced_at = time.monotonic()

    async def _wait_until(self, is_free: Callable[[], bool]) -> None:
        while not is_free():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting[waiter] = None
            try:
                await waiter
            finally:
                del self._waiting[waiter]

    def _wake(self) -> None:
        # Wake all of them, a few dozen at most. A slot given to a task that is being cancelled
        # would be lost.
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
