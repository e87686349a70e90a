"""Moments by two clocks, so that a clock that jumps or a machine that sleeps never makes something look younger."""

import time
from dataclasses import dataclass
from typing import Self

# time.monotonic() stands still while a Linux machine sleeps
_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by the wall clock, which may jump, and by the time since boot, which counts while a machine sleeps."""

    wall: float
    boot: float

    @classmethod
    def now(cls) -> Self:
        """Return the present moment."""
        return cls(
            time.time(),
            time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK),
        )

    def seconds_until(self, later: "Moment") -> float:
        """Return the longer of both distances; infinity if a clock was set back."""
        distances = (later.wall - self.wall, later.boot - self.boot)
        return max(distances) if min(distances) >= 0 else float("inf")
