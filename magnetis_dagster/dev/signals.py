"""Being stopped: Ctrl-C, SIGTERM and SIGHUP become one exception, raised once and never where it would leave a process behind."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody asked this program to stop. Not an Exception: nothing but the program's end has an answer to it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopSignals:
    """Handlers of the stop signals for the length of a `with` block; main thread only.

    The first signal raises Interrupted, and so does `check` from then on. While `held()`, it raises at the end of the block
    instead. After `hold()` none raises any more, and `count` tells whether somebody lost patience.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: int | None = None
        self._held = False

    def __enter__(self) -> Self:
        """Install the handlers."""
        # Set by hand: Python leaves SIGINT ignored where a shell started us in the background, and children would inherit that.
        self._before = {number: signal.signal(number, self._received) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_error: object) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted where a signal has come: Python drops what is raised in a finalizer, and goes on."""
        if self._first is not None and not self._held:
            raise Interrupted(self._first)

    def hold(self) -> None:
        """From now on count signals only."""
        self._held = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block finish; a signal that came meanwhile takes the place of whatever error it caused there."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.check()

    def _received(self, signum: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self._first is None:
            self._first = signum
            if not self._held:
                raise Interrupted(signum)
