"""Reading, committing and telling at once: what is read next does not wait until what was read before is committed and told.

Three threads: one reads, and runs the event loop; one commits; the caller's is told, line by line and result by result, since
Dagster logs and interrupts a step in its own thread.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

R = TypeVar("R")
T = TypeVar("T")


class ReadingThread:
    """A context manager whose event loop runs all the time. `tell` belongs to what it reads, the rest to the caller's thread."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._inbox: SimpleQueue[str | Callable[[], None] | Future[Any]] = SimpleQueue()
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        """Start the thread and its event loop."""
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="reading")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End both."""
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what `coroutine` returns in the event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def tell(self, line: str) -> None:
        """Have the caller told a line of progress."""
        self._inbox.put(line)

    def call(self, function: Callable[[], None]) -> None:
        """Have `function` called in the caller's thread; of what is read and of what is committed."""
        self._inbox.put(function)

    def committed(
        self, reads: AsyncGenerator[R, None], commit: Callable[[R], T], discard: Callable[[R], None]
    ) -> Iterator[T]:
        """Yield what `commit` returns for each of `reads` as soon as it does, while the next one is being read.

        When a reading fails, what was read before it is still committed and yielded, and the failure is raised then. What is read
        and not committed when the caller leaves is discarded, and `reads` closed; a commit that has begun goes to its end.
        """
        inbox = self._inbox = SimpleQueue()
        reading: Future[R | None] | None = self._begin(reads)
        read: Future[R | None] | None = None
        committing: Future[T] | None = None
        with ThreadPoolExecutor(1, "commit") as committer:
            try:
                while True:
                    if read and not committing:
                        window, read = read.result(), None
                        if window is None:
                            return
                        committing = committer.submit(commit, window)
                        committing.add_done_callback(inbox.put)
                        reading = self._begin(reads)
                    item = inbox.get()
                    if isinstance(item, str):
                        self._told(item)
                    elif not isinstance(item, Future):
                        item()
                    elif item is reading:
                        reading, read = None, reading
                    else:
                        assert committing
                        done, committing = committing, None
                        if done.exception() and reading:
                            wait(
                                [reading]
                            )  # the pages under way are paid for: they are received, and kept for the next try
                        yield done.result()
            finally:
                left = self._stop(reading) if reading else read
                self.run(reads.aclose())
                if (
                    left
                    and not left.cancelled()
                    and not left.exception()
                    and (window := left.result()) is not None
                ):
                    discard(window)

    def _begin(self, reads: AsyncGenerator[R, None]) -> Future[R | None]:
        reading = asyncio.run_coroutine_threadsafe(self._next(reads), self._loop)
        reading.add_done_callback(self._inbox.put)
        return reading

    async def _next(self, reads: AsyncGenerator[R, None]) -> R | None:
        self._task = asyncio.current_task()
        try:
            if self._stopped:
                raise asyncio.CancelledError
            return await anext(reads, None)
        finally:
            self._task = None

    def _stop(self, reading: Future[R | None]) -> Future[R | None]:
        """Cancel what is being read, and wait for its end."""

        def cancel() -> None:
            if self._task:
                self._task.cancel()

        # in this order: what begins behind `cancel` finds itself stopped
        self._stopped = True
        self._loop.call_soon_threadsafe(cancel)
        wait([reading])
        self._stopped = False
        return reading
