"""Limit the requests in flight: halve the limit after errors, raise it after successes.

The quota guard decides whether a request may be sent at all.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType

CAREFUL_ROUNDS = 4
"""Rounds of successful calls for each additional slot after a cautious start. 1,000 pages of 0.2 s
on 8 slots take 3 s longer than with all slots at the start."""

CHARGED_AHEAD = 2
"""Calls that are charged while all slots are taken, so that no slot waits for the ledger."""

_log = logging.getLogger(__name__)


class ConcurrencyLimit:
    """Grants at most `most` slots for requests in flight.

    Each failure halves the slots, down to one. A round of successful calls adds one. A limit that
    begins with `start` slots needs CAREFUL_ROUNDS rounds for each additional slot until all are
    available.

    An async context manager for one call; one event loop, any number of tasks.
    """

    def __init__(self, most: int, start: int | None = None) -> None:
        self._most = most
        self.allowed = most if start is None else min(start, most)
        """Calls that may be in flight now."""
        self._rounds = 1 if self.allowed == most else CAREFUL_ROUNDS
        self._under_way = 0
        self._turns = 0
        self._waiting: dict[asyncio.Future[None], None] = {}
        """Waiting tasks in order of arrival."""
        self._well = 0
        self._slowed_at = float("-inf")

    @property
    def careful(self) -> bool:
        """Whether the limit began below `most` and has not reached it yet."""
        return self._rounds > 1

    async def __aenter__(self) -> None:
        """Wait for a free slot."""
        await self._until(lambda: self._under_way < self.allowed)
        self._under_way += 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the slot."""
        self._under_way -= 1
        self._wake()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a call may be charged, CHARGED_AHEAD calls before its slot is free.

        While `careful`, no call is charged ahead.
        """
        await self._until(
            lambda: self._turns < self.allowed + (0 if self.careful else CHARGED_AHEAD)
        )
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1
            self._wake()

    def went_well(self) -> None:
        """Count a successful call."""
        self._well += 1
        if self.allowed < self._most and self._well >= self.allowed * self._rounds:
            self.allowed += 1
            self._well = 0
            if self.allowed == self._most:
                self._rounds = 1
            self._wake()

    def trouble(self, began: float) -> None:
        """Halve the slots after a 429, a time-out or a 5xx.

        `began`: when the failed call began (time.monotonic()). Calls that were in flight together
        fail together and count as one failure.
        """
        if began <= self._slowed_at or self.allowed == 1:
            return
        slower = self.allowed // 2
        _log.info("Slower: %d calls at once instead of %d", slower, self.allowed)
        self.allowed = slower
        self._well = 0
        self._slowed_at = time.monotonic()

    async def _until(self, free: Callable[[], bool]) -> None:
        while not free():
            place = asyncio.get_running_loop().create_future()
            self._waiting[place] = None
            try:
                await place
            finally:
                del self._waiting[place]

    def _wake(self) -> None:
        # Wake all of them, a few dozen at most. A slot given to a task that is being cancelled
        # would be lost.
        for place in self._waiting:
            if not place.done():
                place.set_result(None)
