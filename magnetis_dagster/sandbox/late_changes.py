"""Generate changes of events hours or days after their creation."""

import random
import zlib
from dataclasses import dataclass
from typing import Final

RINGING: Final = "ringing"
"""Until the change, the call has the status ringing, without an end."""
NAMED: Final = "named"
"""Until the change, the caller has no name."""
DELETED: Final = "deleted"
"""After the change, the call does not exist: it was a test call."""
_HOUR = 3600
_DAY = 24 * _HOUR
_SHARES = ((RINGING, 0.012), (NAMED, 0.06), (DELETED, 0.003))
_HANDLED = 0.6
_CLOSED = 0.5
"""Share of the handled leads."""


@dataclass(frozen=True, slots=True)
class LateChange:
    """One change of one contact."""

    moment: int
    """Unix time."""
    number: int
    """Number of the call or lead on its day."""
    kind: str
    """For calls, a constant above. For leads, the status before the change."""


def call_changes(seed: str, start: int, size: int) -> tuple[LateChange, ...]:
    """Return the late changes of a day's calls, oldest first, one per call at most.

    The day starts at `start`, Unix time.
    """
    pick = random.Random(f"late:{seed}")  # noqa: S311 - invented data
    kinds = [kind for kind, share in _SHARES for _ in range(int(size * share + pick.random()))]
    numbers = pick.sample(range(size), min(len(kinds), size))
    changes = [
        LateChange(start + _delay(pick, kind), number, kind)
        for kind, number in zip(kinds, numbers, strict=False)
    ]
    return tuple(sorted(changes, key=lambda each: each.moment))


def lead_changes(seed: str, start: int, size: int) -> tuple[LateChange, ...]:
    """Return the status changes of a day's leads, oldest first."""
    pick = random.Random(f"late:{seed}")  # noqa: S311 - invented data
    found: list[LateChange] = []
    for number in range(size):
        status, moment = status_of_lead(seed, number), start
        for before in {"new": (), "qualified": ("new",), "closed": ("new", "qualified")}[status]:
            moment += pick.randrange(1, 6) * _DAY
            second = moment + pick.randrange(9 * _HOUR, 18 * _HOUR)
            found.append(LateChange(second, number, before))
    return tuple(sorted(found, key=lambda each: each.moment))


def status_of_lead(seed: str, number: int) -> str:
    """Return the final status of a lead."""
    share = zlib.crc32(f"{seed}:{number}".encode()) / 2**32
    if share >= _HANDLED:
        return "new"
    return "closed" if share < _HANDLED * _CLOSED else "qualified"


def _delay(pick: random.Random, kind: str) -> int:
    if kind == RINGING:
        return pick.randrange(20 * _HOUR, 60 * _HOUR)
    # during office hours; usually within the days that the daily schedule re-reads
    days = pick.randrange(1, 7) if pick.random() < 0.85 else pick.randrange(8, 25)
    return days * _DAY + pick.randrange(9 * _HOUR, 18 * _HOUR)
