"""One local day of one events collection: how many, when, and the encoded rows. Depends on nothing but seed and day.

Calls come first; visits lead to them, conversions and leads follow from them: ids and times agree whichever is asked first.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.templates import VARIANTS, Variant

EVENTS = ("calls", "visits", "conversions", "emails", "leads")
PREFIXES = {"calls": "call", "visits": "vis", "conversions": "con", "emails": "ema", "leads": "lead"}
_WEEKDAY = (1.25, 1.15, 1.1, 1.1, 1.15, 0.95, 0.3)
_HOUR = (0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.6, 2, 6, 12, 14, 13, 6, 7, 12, 13, 12, 11, 8, 3, 1.5, 1, 0.6, 0.4)
"""Weight of each local hour: offices open at 8, lunch dips, evenings are quiet."""
_HOLIDAYS = {(1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25)}
_PLANS = 16
"""Days whose plan is remembered: a plan of 30,000 calls takes 2 MB, and the collections of a day are seldom read together."""
_CLOCK = tuple(f"{second // 60:02d}:{second % 60:02d}".encode() for second in range(3600))


@lru_cache(maxsize=8192)
def midnight(day: date, zone: ZoneInfo) -> int:
    """Return the Unix time at which a local day begins."""
    return int(datetime.combine(day, time.min, zone).timestamp())


@dataclass(frozen=True, slots=True)
class Day:
    """Encoded rows of a day, oldest first."""

    moments: list[int]
    """Unix time of each row, ascending."""
    rows: list[bytes]

    @property
    def bytes(self) -> int:
        """Memory that the rows take, roughly."""
        return sum(map(len, self.rows)) + 100 * len(self.rows)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Contacts of a day in the order of their numbers: seconds since local midnight, and variant."""

    offsets: list[int]
    variants: list[int]


_Contact = tuple[int, tuple[bytes, ...], tuple[bytes, ...]]
"""Seconds since local midnight, pieces of the row, and the values of its slots in order."""


class Days:
    """Makes days. `base` is the group's calls on a mean day."""

    def __init__(self, options: SandboxOptions, variants: list[Variant]) -> None:
        self._options = options
        self._variants = variants
        self._plan: Callable[[str, date], _Plan] = lru_cache(maxsize=_PLANS)(self._make_plan)
        self._counts: dict[tuple[str, date], int] = {}

    def count(self, collection: str, day: date) -> int:
        """Return how many rows the day has, without making them. The day is not before the first."""
        key = (collection, day)
        if key not in self._counts:
            self._counts[key] = self._count(collection, day)
        return self._counts[key]

    def make(self, collection: str, day: date) -> Day:
        """Return the rows of the day; calls with `analysis`."""
        if day < self._options.first_day:
            return Day([], [])
        match collection:
            case "calls":
                return self._calls(day)
            case "visits":
                return self._visits(day)
            case "conversions":
                return self._conversions(day)
            case "emails":
                return self._emails(day)
        return self._leads(day)

    def day_of(self, identifier: str) -> date:
        """Return the day that an event's identifier was made for. Raises KeyError where it was made for none."""
        try:
            return date.fromordinal(int(identifier[-6:], 16) ^ 0xA5A5A5)
        except ValueError:
            raise KeyError(identifier) from None

    def _count(self, collection: str, day: date) -> int:
        if collection in {"calls", "emails"}:
            return self._size(collection, day)
        if collection == "visits":
            return self._size("calls", day) * self._options.visits_per_call
        return len(self._sources(collection, day))

    def _size(self, collection: str, day: date) -> int:
        noise = random.Random(f"size:{self._options.seed}:{collection}:{day}").uniform(0.85, 1.15)  # noqa: S311
        rest = 0.15 if (day.month, day.day) in _HOLIDAYS else 1.0
        mean = self._options.calls_per_day * (0.2 if collection == "emails" else 1.0)
        return round(mean * _WEEKDAY[day.weekday()] * rest * noise)

    def _make_plan(self, collection: str, day: date) -> _Plan:
        pick = random.Random(f"plan:{self._options.seed}:{collection}:{day}")  # noqa: S311
        number = self._size(collection, day)
        hours = self._hours(day)
        weights = [_HOUR[hour] for _, hour in hours]
        chosen = pick.choices(range(len(hours)), weights, k=number)
        if len(hours) != 24:
            # on the days of a clock change every hour that exists is lived through, as far as the day's calls go
            chosen[: len(hours)] = list(range(len(hours)))[:number]
        return _Plan([hour * 3600 + pick.randrange(3600) for hour in chosen], pick.choices(range(VARIANTS), k=number))

    def _hours(self, day: date) -> list[tuple[bytes, int]]:
        """Return the local date and hour, as text and number, of each hour of the day: 23, 24 or 25."""
        zone = self._options.zone
        start, end = midnight(day, zone), midnight(day + timedelta(days=1), zone)
        local = [datetime.fromtimestamp(moment, zone) for moment in range(start, end, 3600)]
        return [(f"{moment:%Y-%m-%d %H:}".encode(), moment.hour) for moment in local]

    def _identifiers(self, collection: str, day: date, number: int, step: int = 1) -> list[bytes]:
        # the last twelve digits hold number and day, so that a row is found again by its id
        digest = hashlib.shake_128(f"{self._options.seed}:{collection}:{day}".encode()).hexdigest(10 * number)
        prefix, ordinal = PREFIXES[collection], f"{day.toordinal() ^ 0xA5A5A5:06x}"
        return [
            f"{prefix}-{d[:8]}-{d[8:12]}-4{d[13:16]}-a{d[17:20]}-{n ^ 0x5A5A5A:06x}{ordinal}".encode()
            for n in range(0, number, step)
            if (d := digest[20 * n : 20 * n + 20])
        ]

    def _first_visits(self, day: date, calls: int) -> list[bytes]:
        """Return the visit that led to each call, of those that were led to by one."""
        each = self._options.visits_per_call
        return self._identifiers("visits", day, calls * each, each) if each else []

    def _sources(self, collection: str, day: date) -> list[int]:
        """Return the numbers of the calls that conversions or leads follow from; for leads, e-mails come after as -1 - number."""
        calls = self._plan("calls", day)
        if collection == "conversions":
            return [n for n, variant in enumerate(calls.variants) if n % 2 == 0 and self._variants[variant].web]
        return [*range(0, len(calls.offsets), 3), *(-1 - n for n in range(0, self._size("emails", day), 2))]

    def _render(self, day: date, contacts: Iterable[_Contact]) -> Day:
        """Join the contacts' pieces and slots, with the moment in the place of b"@start@"."""
        hours = self._hours(day)
        length = len(hours) * 3600 - 1
        first = midnight(day, self._options.zone)
        rows: list[tuple[int, bytes]] = []
        for given, pieces, slots in contacts:
            offset = min(max(given, 0), length)
            start = b'"' + hours[offset // 3600][0] + _CLOCK[offset % 3600] + b'"'
            parts = [pieces[0]]
            for slot, piece in zip(slots, pieces[1:], strict=True):
                parts += (start if slot == b"@start@" else slot, piece)
            rows.append((first + offset, b"".join(parts)))
        rows.sort()
        return Day([moment for moment, _ in rows], [row for _, row in rows])

    def _calls(self, day: date) -> Day:
        plan = self._plan("calls", day)
        ids = self._identifiers("calls", day, len(plan.offsets))
        visits = self._first_visits(day, len(ids))
        hours = self._hours(day) + self._hours(day + timedelta(days=1))
        contacts: list[_Contact] = []
        for n, (offset, variant) in enumerate(zip(plan.offsets, plan.variants, strict=True)):
            what = self._variants[variant]
            end = offset + what.duration
            ended = b'"' + hours[end // 3600][0] + _CLOCK[end % 3600] + b'"'
            visit = _link(visits[n]) if what.web and visits else b"null"
            contacts.append((offset, what.pieces["calls"], (_text(ids[n]), ended, b"@start@", visit)))
        return self._render(day, contacts)

    def _visits(self, day: date) -> Day:
        plan, each = self._plan("calls", day), self._options.visits_per_call
        pick = random.Random(f"visits:{self._options.seed}:{day}")  # noqa: S311
        calls = self._identifiers("calls", day, len(plan.offsets))
        contacts: list[_Contact] = []
        for number, identifier in enumerate(self._identifiers("visits", day, len(plan.offsets) * each)):
            source, others = divmod(number, each)
            variant, offset, call = plan.variants[source], plan.offsets[source] - pick.randrange(30, 900), b"null"
            if others == 0 and self._variants[variant].web:
                call = _link(calls[source])
            elif others:
                variant, offset = pick.randrange(VARIANTS), offset + pick.randrange(-3600, 3600)
            contacts.append((offset, self._variants[variant].pieces["visits"], (_text(identifier), call, b"@start@")))
        return self._render(day, contacts)

    def _conversions(self, day: date) -> Day:
        plan, sources = self._plan("calls", day), self._sources("conversions", day)
        calls = self._identifiers("calls", day, len(plan.offsets))
        visits = self._first_visits(day, len(calls))
        contacts: list[_Contact] = []
        for identifier, source in zip(self._identifiers("conversions", day, len(sources)), sources, strict=True):
            what = self._variants[plan.variants[source]]
            visit = _link(visits[source]) if visits else b"null"
            slots = (_text(identifier), _link(calls[source]), b"@start@", visit)
            contacts.append((plan.offsets[source] + what.duration, what.pieces["conversions"], slots))
        return self._render(day, contacts)

    def _emails(self, day: date) -> Day:
        plan = self._plan("emails", day)
        ids = self._identifiers("emails", day, len(plan.offsets))
        contacts: list[_Contact] = [
            (offset, self._variants[variant].pieces["emails"], (_text(ids[n]), b"@start@"))
            for n, (offset, variant) in enumerate(zip(plan.offsets, plan.variants, strict=True))
        ]
        return self._render(day, contacts)

    def _leads(self, day: date) -> Day:
        calls, emails, sources = self._plan("calls", day), self._plan("emails", day), self._sources("leads", day)
        call_ids = self._identifiers("calls", day, len(calls.offsets))
        email_ids = self._identifiers("emails", day, len(emails.offsets))
        contacts: list[_Contact] = []
        for identifier, source in zip(self._identifiers("leads", day, len(sources)), sources, strict=True):
            if source >= 0:
                what, offset = self._variants[calls.variants[source]], calls.offsets[source]
                slots = (_text(identifier), _link(call_ids[source]), b"@start@", b"null")
                contacts.append((offset + what.duration + 60, what.pieces["leads"], slots))
            else:
                number = -1 - source
                what = self._variants[emails.variants[number]]
                slots = (_text(identifier), b"null", b"@start@", _link(email_ids[number]))
                contacts.append((emails.offsets[number] + 60, what.pieces["leads from emails"], slots))
        return self._render(day, contacts)


def _text(identifier: bytes) -> bytes:
    return b'"' + identifier + b'"'


def _link(identifier: bytes) -> bytes:
    return b'{"id":"' + identifier + b'"}'
