"""Convert stop signals to one exception, without leaking child processes.

Stop signals are SIGINT (Ctrl-C), SIGTERM and SIGHUP.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal requested the end of the program. Not handled by `except Exception`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopSignals:
    """Handles stop signals during a `with` block. Main thread only.

    The first signal raises Interrupted, and each later `check` raises it again. `count` counts the
    signals. After `ignore`, none raises.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: int | None = None
        self._deferred = False

    def __enter__(self) -> Self:
        """Install the handlers."""
        # A shell may start a background job with SIGINT ignored, and children inherit that.
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_error: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a signal arrived: Python discards an exception raised in a
        finalizer.
        """
        if self._first is not None and not self._deferred:
            raise Interrupted(self._first)

    def ignore(self) -> None:
        """Only count signals; raise no more exceptions."""
        self._deferred = True

    @contextmanager
    def defer(self) -> Iterator[None]:
        """Raise Interrupted for a signal only after the block, instead of an error of the block."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
            self.check()

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self._first is None:
            self._first = signum
            if not self._deferred:
                raise Interrupted(signum)
