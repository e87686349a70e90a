"""Changes of events after the fact: calls that are known better hours or days later, leads that are worked on, rows deleted."""

import random
import zlib
from dataclasses import dataclass
from typing import Final

RINGING: Final = "ringing"
"""The call is shown as ringing until then; its end and its outcome come late."""
NAMED: Final = "named"
"""The caller's name is filled in then."""
DELETED: Final = "deleted"
"""The row is gone from then on: a call that somebody made as a test."""
_HOUR = 3600
_SHARES = ((RINGING, 0.012), (NAMED, 0.06), (DELETED, 0.003))
_WORKED_ON = 0.6
_CLOSED = 0.5


@dataclass(frozen=True, slots=True)
class Late:
    """One change of one contact."""

    moment: int
    """Unix time."""
    number: int
    """Number of the contact on its day."""
    kind: str
    """For calls one of the above; for leads the status that ends at the moment."""


def of_calls(seed: str, start: int, size: int) -> tuple[Late, ...]:
    """Return the late changes of a day that begins at `start` and has `size` calls, oldest first; at most one per call."""
    pick = random.Random(f"late:{seed}")  # noqa: S311 - invented data
    kinds = [kind for kind, share in _SHARES for _ in range(int(size * share + pick.random()))]
    numbers = pick.sample(range(size), min(len(kinds), size))
    return tuple(
        sorted(
            (
                Late(start + _delay(pick, kind), number, kind)
                for kind, number in zip(kinds, numbers, strict=False)
            ),
            key=lambda each: each.moment,
        )
    )


def of_leads(seed: str, start: int, size: int) -> tuple[Late, ...]:
    """Return the changes of status of a day's leads, oldest first: new until qualified, qualified until closed."""
    pick = random.Random(f"late:{seed}")  # noqa: S311 - invented data
    made: list[Late] = []
    for number in range(size):
        status, moment = status_of_lead(seed, number), start
        for before, after in (("new", ("qualified", "closed")), ("qualified", ("closed",))):
            if status in after:
                moment += pick.randrange(1, 6) * 24 * _HOUR
                made.append(Late(moment + pick.randrange(9 * _HOUR, 18 * _HOUR), number, before))
    return tuple(sorted(made, key=lambda each: each.moment))


def status_of_lead(seed: str, number: int) -> str:
    """Return the status that a lead has in the end."""
    at = _share_of(f"{seed}:{number}")
    return "new" if at >= _WORKED_ON else "closed" if at < _WORKED_ON * _CLOSED else "qualified"


def _share_of(text: str) -> float:
    """Return a number from 0 to 1 that depends on the text alone."""
    return zlib.crc32(text.encode()) / 2**32


def _delay(pick: random.Random, kind: str) -> int:
    if kind == RINGING:
        return pick.randrange(20 * _HOUR, 60 * _HOUR)
    # somebody does it in the office, within the week that is read again, and sometimes later
    days = pick.randrange(1, 7) if pick.random() < 0.85 else pick.randrange(8, 25)
    return days * 24 * _HOUR + pick.randrange(9 * _HOUR, 18 * _HOUR)
