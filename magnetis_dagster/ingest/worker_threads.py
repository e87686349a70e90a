"""The threads of a load: one fetches, one commits, the caller's gets results.

The fetch thread runs the event loop. Log lines and results are delivered in the caller's thread,
because Dagster logs and interrupts a step there.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

StagedT = TypeVar("StagedT")
ResultT = TypeVar("ResultT")


class WorkerThreads:
    """A context manager that owns the fetch and the commit thread.

    `report` and `call` may be called from any thread, the other methods from the caller's.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._inbox: SimpleQueue[Callable[[], None] | Future[Any]] = SimpleQueue()
        self._task: asyncio.Task[Any] | None = None
        self._is_stopped = False

    def __enter__(self) -> Self:
        """Start the fetch thread and its event loop."""
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="fetch")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the fetch thread and close its event loop."""
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine in the fetch thread and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def report(self, line: str) -> None:
        """Log a line in the caller's thread."""
        self.call(partial(self._log, line))

    def call(self, function: Callable[[], None]) -> None:
        """Call a function in the caller's thread."""
        self._inbox.put(function)

    def commit_each(
        self,
        staged: AsyncGenerator[StagedT, None],
        commit: Callable[[StagedT], ResultT],
        discard: Callable[[StagedT], None],
    ) -> Iterator[ResultT]:
        """Yield the result of `commit` for each item, and fetch the next one meanwhile.

        If a fetch fails, the item before it is committed and yielded first. If the caller leaves,
        a running commit completes, an uncommitted item is discarded, and `staged` is closed.
        """
        inbox = self._inbox
        fetching: Future[StagedT | None] | None = self._fetch_next(staged)
        fetched: Future[StagedT | None] | None = None
        committing: Future[ResultT] | None = None
        with ThreadPoolExecutor(1, "commit") as committer:
            try:
                while True:
                    if fetched and not committing:
                        item, fetched = fetched.result(), None
                        if item is None:
                            return
                        committing = committer.submit(commit, item)
                        committing.add_done_callback(inbox.put)
                        fetching = self._fetch_next(staged)
                    message = inbox.get()
                    if not isinstance(message, Future):
                        message()
                    elif message is fetching:
                        fetching, fetched = None, fetching
                    elif message is committing:
                        committed, committing = committing, None
                        if committed.exception() and fetching:
                            # the pages in flight are charged: receive and keep them for the retry
                            wait([fetching])
                        yield committed.result()
            finally:
                last = self._cancel(fetching) if fetching else fetched
                self.run(staged.aclose())
                has_result = last and not last.cancelled() and not last.exception()
                if last and has_result and (item := last.result()) is not None:
                    discard(item)

    def _fetch_next(self, staged: AsyncGenerator[StagedT, None]) -> Future[StagedT | None]:
        fetching = asyncio.run_coroutine_threadsafe(self._next(staged), self._loop)
        fetching.add_done_callback(self._inbox.put)
        return fetching

    async def _next(self, staged: AsyncGenerator[StagedT, None]) -> StagedT | None:
        self._task = asyncio.current_task()
        try:
            if self._is_stopped:
                raise asyncio.CancelledError
            return await anext(staged, None)
        finally:
            self._task = None

    def _cancel(self, fetching: Future[StagedT | None]) -> Future[StagedT | None]:
        """Cancel a fetch and wait for its end."""

        def cancel() -> None:
            if self._task:
                self._task.cancel()

        # in this order: a fetch that starts after `cancel` ran sees the flag
        self._is_stopped = True
        self._loop.call_soon_threadsafe(cancel)
        wait([fetching])
        self._is_stopped = False
        return fetching
