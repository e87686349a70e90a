"""Measure time by two clocks.

So neither a clock change nor a sleeping machine makes a moment look more recent than it is.
"""

import time
from dataclasses import dataclass
from typing import Self

# time.monotonic() stops while a Linux machine sleeps
_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by two clocks.

    The wall clock may jump. The time since boot also counts while the machine sleeps.
    """

    wall: float
    boot: float

    @classmethod
    def now(cls) -> Self:
        """Return the current moment."""
        return cls(
            time.time(),
            time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK),
        )

    def seconds_until(self, later: "Moment") -> float:
        """Return the longer of both distances; infinity if a clock was set back."""
        distances = (later.wall - self.wall, later.boot - self.boot)
        return max(distances) if min(distances) >= 0 else float("inf")
