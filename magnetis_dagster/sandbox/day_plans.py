"""Plan a local day: how many contacts, at which time, from which caller, with which outcome.

Offices open at 8 and close on Sundays and holidays. A plan depends only on seed and date.
"""

import random
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from magnetis_dagster.sandbox.callers import (
    CALLERS,
    NEW_SHARE,
    RETRY_SHARE,
    RETURN_DAYS,
    SAMPLES,
    WITHHELD,
    WITHHELD_SHARE,
    Outcome,
    outcome_shares,
    outcomes,
)
from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.templates import VARIANTS, Variant

_WEEKDAY = (1.25, 1.15, 1.1, 1.1, 1.15, 0.95, 0.3)
HOUR_WEIGHTS = (
    *(0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.6, 2, 6, 12, 14, 13),
    *(6, 7, 12, 13, 12, 11, 8, 3, 1.5, 1, 0.6, 0.4),
)
"""Weight of each local hour: offices open at 8; lunch and evenings are quiet."""
_HOLIDAYS = {(1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25)}
_NOISE = (0.85, 1.15)
_CACHED_PLANS = 16
"""A plan of 30,000 calls takes 4 MB, and most requests read only one collection of a day."""


@lru_cache(maxsize=8192)
def midnight(day: date, zone: ZoneInfo) -> int:
    """Return the Unix time of the start of a local day."""
    return int(datetime.combine(day, time.min, zone).timestamp())


class Contact(NamedTuple):
    """A call or an e-mail."""

    offset: int
    """Seconds since local midnight."""
    caller: int
    variant: int
    outcome: Outcome = Outcome("email", 0, 0)

    @property
    def duration(self) -> int:
        """Seconds of conversation or voicemail."""
        return self.outcome.duration


class DayPlans:
    """Plans days of calls and e-mails."""

    def __init__(self, options: SandboxOptions, variants: list[Variant]) -> None:
        self._options = options
        self._variants = variants
        self._outcomes = outcomes(options.seed)
        self.plan: Callable[[str, date], list[Contact]] = lru_cache(maxsize=_CACHED_PLANS)(
            self._make_plan
        )
        self._newcomers: Callable[[date], tuple[int, int]] = lru_cache(maxsize=4096)(
            self._count_newcomers
        )
        # the number of new callers on a busy day; a phone number is reused after all others
        busiest = options.calls_per_day * NEW_SHARE * max(_WEEKDAY) * _NOISE[1]
        self._callers_per_day = max(1, round(busiest) + 1)

    def size(self, collection: str, day: date) -> int:
        """Return the number of the day's calls or e-mails."""
        noise = random.Random(f"size:{self._options.seed}:{collection}:{day}").uniform(*_NOISE)  # noqa: S311
        rest = 0.15 if (day.month, day.day) in _HOLIDAYS else 1.0
        mean = self._options.calls_per_day * (0.2 if collection == "emails" else 1.0)
        return round(mean * _WEEKDAY[day.weekday()] * rest * noise)

    def hours(self, day: date) -> list[tuple[str, int]]:
        """Return each of the day's 23 to 25 hours: date and hour as text, and the hour."""
        zone = self._options.zone
        start, end = midnight(day, zone), midnight(day + timedelta(days=1), zone)
        local = [datetime.fromtimestamp(moment, zone) for moment in range(start, end, 3600)]
        return [(f"{moment:%Y-%m-%d %H:}", moment.hour) for moment in local]

    def _count_newcomers(self, day: date) -> tuple[int, int]:
        """Return the day's first new caller and the number of new callers."""
        number = max(1, round(self.size("calls", day) * NEW_SHARE))
        return day.toordinal() * self._callers_per_day, number

    def _make_plan(self, collection: str, day: date) -> list[Contact]:
        pick = random.Random(f"plan:{self._options.seed}:{collection}:{day}")  # noqa: S311
        number, hours = self.size(collection, day), self.hours(day)
        weights = [HOUR_WEIGHTS[hour] for _, hour in hours]
        chosen = pick.choices(range(len(hours)), weights, k=number)
        if len(hours) != 24:
            # on days with a clock change, start with one call in each hour, to cover all of them
            chosen[: len(hours)] = list(range(len(hours)))[:number]
        offsets = [hour * 3600 + int(pick.random() * 3600) for hour in chosen]
        if collection == "calls":
            return self._plan_calls(day, pick, offsets, hours)
        first, newcomers = self._newcomers(day)
        # a third of the senders call on the same day too
        callers = [(first + int(pick.random() * 3 * newcomers)) % CALLERS for _ in range(number)]
        return [
            Contact(offset, caller, _variant_of(caller))
            for offset, caller in zip(offsets, callers, strict=True)
        ]

    def _plan_calls(
        self, day: date, pick: random.Random, offsets: list[int], hours: list[tuple[str, int]]
    ) -> list[Contact]:
        number, draw = len(offsets), pick.random
        first, newcomers = self._newcomers(day)
        retries = newcomers + round(number * RETRY_SHARE)
        withheld = retries + round(number * WITHHELD_SHARE)
        shares = [outcome_shares(hour, day.weekday()) for _, hour in hours]
        # new callers of the days on which returning callers called first
        earlier = [self._newcomers(day - timedelta(days=days)) for days in RETURN_DAYS]
        calls, missed = list[Contact](), list[Contact]()
        for n, drawn in enumerate(offsets):
            offset = drawn
            if n < newcomers:
                caller = (first + n) % CALLERS
            elif n < retries and missed and n >= len(hours):
                # callers without an answer call again, most of them within an hour
                source = missed.pop(int(draw() * len(missed)))
                retry = source.offset + int(pick.expovariate(1 / 2400)) + 60
                caller, offset = source.caller, min(retry, len(hours) * 3600 - 1)
            elif retries <= n < withheld:
                caller = WITHHELD
            else:
                start, count = earlier[int(draw() * len(earlier))]
                caller = (start + int(draw() * count)) % CALLERS
            variant = _variant_of(caller) if caller != WITHHELD else int(draw() * VARIANTS)
            miss, busy, voicemail = shares[offset // 3600]
            miss *= self._variants[variant].miss
            at, sample = draw(), int(draw() * SAMPLES)
            if at < miss:
                status = "missed"
            elif at - miss < busy:
                status = "busy"
            else:
                status = "voicemail" if at - miss - busy < voicemail else "completed"
            calls.append(Contact(offset, caller, variant, self._outcomes[status][sample]))
            if status == "missed" and n < newcomers:
                missed.append(calls[-1])
        return calls


def _variant_of(caller: int) -> int:
    """Return the variant of a caller, who always calls the same number."""
    return (caller * 2_654_435_761 >> 11) % VARIANTS
