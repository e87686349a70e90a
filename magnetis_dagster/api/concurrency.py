"""How many calls are under way at once: fewer after trouble, more again as calls go well. Not who may call: that is the gate's."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType

CAREFUL_ROUNDS = 4
"""For each place more after a start below the most: 1,000 pages of 0.2 s in 8 places take 3 s longer than with all at once."""

CHARGED_AHEAD = 2
"""Calls that are charged while all places are taken: a place that waits for the ledger is a call that is not under way."""

_log = logging.getLogger(__name__)


class ConcurrencyLimit:
    """At most `most` places; half as many after each trouble, down to one, and one more after a round of calls that went well.

    Begun with `start` places, it takes CAREFUL_ROUNDS for each one more until it first has all.

    An async context manager for one call; one event loop, any number of tasks.
    """

    def __init__(self, most: int, start: int | None = None) -> None:
        self._most = most
        self.allowed = most if start is None else min(start, most)
        """Calls that may be under way now."""
        self._rounds = 1 if self.allowed == most else CAREFUL_ROUNDS
        self._under_way = 0
        self._turns = 0
        self._waiting: dict[asyncio.Future[None], None] = {}
        """In the order in which they came."""
        self._well = 0
        self._slowed_at = float("-inf")

    @property
    def careful(self) -> bool:
        """Whether it was begun with fewer places than the most, and has not had all yet."""
        return self._rounds > 1

    async def __aenter__(self) -> None:
        """Wait for a place."""
        await self._until(lambda: self._under_way < self.allowed)
        self._under_way += 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the place back."""
        self._under_way -= 1
        self._wake()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until a call may be charged: CHARGED_AHEAD before it has a place, none while `careful`."""
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
        """Note a call that went well."""
        self._well += 1
        if self.allowed < self._most and self._well >= self.allowed * self._rounds:
            self.allowed += 1
            self._well = 0
            if self.allowed == self._most:
                self._rounds = 1
            self._wake()

    def trouble(self, began: float) -> None:
        """Note a 429, a time-out or a 5xx of a call that began at `began` (time.monotonic()).

        Calls that were under way together fail together: that is one trouble.
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
        # all of them look again: they are a few dozen at most, and a place given to a task that is being cancelled would be lost
        for place in self._waiting:
            if not place.done():
                place.set_result(None)
