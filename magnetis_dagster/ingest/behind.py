"""Reading, committing and telling at once: what is read next does not wait until what was read before is committed and told.

Three threads: one reads, and owns the event loop; one commits; the caller's is told, line by line and result by result, since
Dagster logs and interrupts a step in its own thread.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

R = TypeVar("R")
T = TypeVar("T")


class ReadingThread:
    """A context manager. `committed` belongs to the caller's thread; `run` and `tell` to what it reads."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._inbox: SimpleQueue[str | Future[Any]] = SimpleQueue()
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        """Start the thread and its event loop."""
        self._thread = ThreadPoolExecutor(1, "reading")
        self._runner = asyncio.Runner()
        self._runner.get_loop()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End both."""
        try:
            self.call(self._runner.close)
        finally:
            self._thread.shutdown()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what `function` returns in the thread, while nothing else is read."""
        return self._thread.submit(function, *arguments).result()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` to its end, in the thread; `committed` cancels it when the caller leaves."""
        return self._runner.run(self._stoppable(coroutine))

    async def _stoppable(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._task = asyncio.current_task()
        try:
            if self._stopped:
                coroutine.close()
                raise asyncio.CancelledError
            return await coroutine
        finally:
            self._task = None

    def tell(self, line: str) -> None:
        """Have the caller told a line of progress."""
        self._inbox.put(line)

    def committed(self, reads: Iterator[R], commit: Callable[[R], T], discard: Callable[[R], None]) -> Iterator[T]:
        """Yield what `commit` returns for each of `reads` as soon as it does, while the next one is being read.

        When a reading fails, what was read before it is still committed and yielded, and the failure is raised then. What is read
        and not committed when the caller leaves is discarded; a commit that has begun goes to its end.
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
                    elif item is reading:
                        reading, read = None, reading
                    else:
                        assert committing
                        done, committing = committing, None
                        if done.exception() and reading:
                            reading.exception()  # the pages under way are paid for: they are received, and kept for the next try
                        yield done.result()
            finally:
                left = self._stop(reading) if reading else read
                if left and not left.exception() and (window := left.result()) is not None:
                    discard(window)

    def _begin(self, reads: Iterator[R]) -> Future[R | None]:
        reading = self._thread.submit(next, reads, None)
        reading.add_done_callback(self._inbox.put)
        return reading

    def _stop(self, reading: Future[R | None]) -> Future[R | None]:
        """Cancel what is being read, and wait for its end."""
        # in this order: a coroutine that begins meanwhile finds itself stopped
        self._stopped = True
        if task := self._task:
            self._runner.get_loop().call_soon_threadsafe(task.cancel)
        reading.exception()
        self._stopped = False
        return reading
