"""Generate one local day of one events collection.

A day depends only on seed and date, and on `as_of` if late changes are enabled. Calls come first;
visits precede calls, and conversions and leads follow from them. So ids and times are consistent,
independent of the order of requests.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, lru_cache
from typing import Any

import orjson

from magnetis_dagster.sandbox import late_changes as late
from magnetis_dagster.sandbox.callers import (
    CALLERS,
    WITHHELD,
    address_of,
    displayed,
    name_of,
    number_of,
)
from magnetis_dagster.sandbox.day_plans import HOUR_WEIGHTS, DayPlans, midnight
from magnetis_dagster.sandbox.late_changes import LateChange
from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.templates import VARIANTS, Variant

EVENTS = {
    "calls": "call",
    "visits": "vis",
    "conversions": "con",
    "emails": "ema",
    "leads": "lead",
}
"""Prefix of ids by collection."""
_LEAST_CONVERSATION = 20
"""Minimum seconds of a call that leads to a conversion; leads require twice as much."""
_CLOCK = tuple(f"{second // 60:02d}:{second % 60:02d}" for second in range(3600))


@dataclass(frozen=True, slots=True)
class Day:
    """Encoded rows of a day, oldest first."""

    moments: list[int]
    """Unix time of each row, ascending."""
    rows: list[bytes]

    @property
    def bytes(self) -> int:
        """Approximate memory use of the rows."""
        return sum(map(len, self.rows)) + 100 * len(self.rows)


_Event = tuple[int, int, dict[bytes, Any]]
"""Seconds since local midnight, variant, and values of the template except for `id`, `start`."""
_Link = dict[str, str]


class Days:
    """Generates days as of a Unix time; None excludes late changes."""

    def __init__(self, options: SandboxOptions, variants: list[Variant]) -> None:
        self._options = options
        self._variants = variants
        self._plans = DayPlans(options, variants)
        self._size: Callable[[str, date], int] = cache(self._make_size)
        self._late: Callable[[str, date], tuple[LateChange, ...]] = lru_cache(maxsize=1024)(
            self._make_late
        )

    def count(self, collection: str, day: date, as_of: int | None = None) -> int:
        """Return the number of rows of a day, which must not be before the first day."""
        return self._size(collection, day) - len(self._late_changes(collection, day, as_of)[1])

    def make(self, collection: str, day: date, as_of: int | None = None) -> Day:
        """Return the rows of the day; calls include `analysis`."""
        if day < self._options.first_day:
            return Day([], [])
        generate = {
            "calls": self._calls,
            "visits": self._visits,
            "conversions": self._conversions,
            "emails": self._emails,
            "leads": self._leads,
        }[collection]
        hours = self._plans.hours(day)
        length, first = len(hours) * 3600 - 1, midnight(day, self._options.zone)
        rows: list[tuple[int, bytes]] = []
        events = list(generate(day, as_of))
        _, deleted = self._late_changes(collection, day, as_of)
        for n, identifier in enumerate(self._identifiers(collection, day, len(events))):
            if n in deleted:
                continue
            given, variant, values = events[n]
            offset = min(max(given, 0), length)
            values |= {b"id": identifier, b"start": _clock_time(hours, offset)}
            is_lead_from_email = collection == "leads" and values[b"call"] is None
            name = "leads from emails" if is_lead_from_email else collection
            encoded = {slot: orjson.dumps(value) for slot, value in values.items()}
            rows.append((first + offset, self._variants[variant].templates[name] % encoded))
        rows.sort()
        return Day([moment for moment, _ in rows], [row for _, row in rows])

    def moments(self, collection: str, day: date, share: float) -> list[int]:
        """Return sorted times of rows, `share` per call of the day."""
        if day < self._options.first_day:
            return []
        pick = random.Random(f"moments:{self._options.seed}:{collection}:{day}")  # noqa: S311 - invented data
        hours, first = self._plans.hours(day), midnight(day, self._options.zone)
        chosen = pick.choices(
            range(len(hours)),
            [HOUR_WEIGHTS[hour] for _, hour in hours],
            k=round(self._plans.size("calls", day) * share),
        )
        return sorted(first + hour * 3600 + pick.randrange(3600) for hour in chosen)

    def _make_size(self, collection: str, day: date) -> int:
        if collection in {"calls", "emails"}:
            return self._plans.size(collection, day)
        if collection == "visits":
            return self._plans.size("calls", day) * self._options.visits_per_call
        return len(self._sources(collection, day))

    def _make_late(self, collection: str, day: date) -> tuple[LateChange, ...]:
        seed = f"{self._options.seed}:{collection}:{day}"
        start = midnight(day, self._options.zone)
        if collection == "calls":
            return late.call_changes(seed, start, self._plans.size("calls", day))
        return late.lead_changes(seed, start, len(self._sources("leads", day)))

    def _late_changes(
        self, collection: str, day: date, as_of: int | None
    ) -> tuple[dict[int, LateChange], set[int]]:
        """Return each row's next late change by its number, and the numbers of deleted calls."""
        if as_of is None or collection not in {"calls", "leads"}:
            return {}, set()
        changes = self._late(collection, day)
        pending = {each.number: each for each in reversed(changes) if each.moment > as_of}
        return pending, {
            each.number for each in changes if each.kind == late.DELETED and each.moment <= as_of
        }

    def _identifiers(self, collection: str, day: date, number: int, step: int = 1) -> list[str]:
        # the last twelve digits contain number and day, so that a row can be found by its id
        source = f"{self._options.seed}:{collection}:{day}".encode()
        digest = hashlib.shake_128(source).hexdigest(10 * number)
        return [
            f"{EVENTS[collection]}-{d[:8]}-{d[8:12]}-4{d[13:16]}-a{d[17:20]}-{id_tail(n, day)}"
            for n in range(0, number, step)
            if (d := digest[20 * n : 20 * n + 20])
        ]

    def _links(self, collection: str, day: date, number: int, step: int = 1) -> list[_Link]:
        return [{"id": each} for each in self._identifiers(collection, day, number, step)]

    def _first_visits(self, day: date, calls: int) -> list[_Link] | list[None]:
        """Return a reference to the first visit before each call, if there are visits."""
        each = self._options.visits_per_call
        return self._links("visits", day, calls * each, each) if each else [None] * calls

    def _sources(self, collection: str, day: date) -> list[int]:
        """Return the numbers of the calls that lead to conversions or leads.

        For leads, e-mails follow as -1 - number.
        """
        calls = enumerate(self._plans.plan("calls", day))
        if collection == "conversions":
            return [
                n
                for n, call in calls
                if n % 2 == 0
                and self._variants[call.variant].web
                and call.duration >= _LEAST_CONVERSATION
            ]
        spoken = [n for n, call in calls if n % 3 and call.duration >= 2 * _LEAST_CONVERSATION]
        return [*spoken, *(-1 - n for n in range(0, self._plans.size("emails", day), 2))]

    def _calls(self, day: date, as_of: int | None) -> Iterator[_Event]:
        plan = self._plans.plan("calls", day)
        visits = self._first_visits(day, len(plan))
        hours = self._plans.hours(day) + self._plans.hours(day + timedelta(days=1))
        pending, _ = self._late_changes("calls", day, as_of)
        for n, call in enumerate(plan):
            number, name = displayed(call.caller)
            values = {
                b"duration": call.duration,
                b"name": name,
                b"number": number,
                b"end": _clock_time(hours, call.offset + call.duration),
                b"status": call.outcome.status,
                b"visit": visits[n] if self._variants[call.variant].web else None,
                b"waiting": call.outcome.waiting,
            }
            change = pending[n].kind if n in pending else None
            if change == late.RINGING:
                values |= {b"duration": 0, b"status": "ringing", b"end": None}
            elif change == late.NAMED:
                values[b"name"] = None
            yield call.offset, call.variant, values

    def _visits(self, day: date, _as_of: int | None) -> Iterator[_Event]:
        plan, each = self._plans.plan("calls", day), self._options.visits_per_call
        pick = random.Random(f"visits:{self._options.seed}:{day}")  # noqa: S311
        calls = self._links("calls", day, len(plan))
        for number in range(len(plan) * each):
            source, others = divmod(number, each)
            offset, visitor, variant, _ = plan[source]
            offset -= pick.randrange(30, 900)
            call = calls[source] if others == 0 and self._variants[variant].web else None
            if others:
                variant, offset = pick.randrange(VARIANTS), offset + pick.randrange(-3600, 3600)
                visitor = WITHHELD
            if visitor == WITHHELD:
                visitor = CALLERS + pick.randrange(1_000_000)
            visitor_id = f"vst-{visitor:08x}-0000-4000-a000-000000000000"
            yield offset, variant, {b"call": call, b"visitor": visitor_id}

    def _conversions(self, day: date, _as_of: int | None) -> Iterator[_Event]:
        plan = self._plans.plan("calls", day)
        calls = self._links("calls", day, len(plan))
        visits = self._first_visits(day, len(plan))
        for n in self._sources("conversions", day):
            values = {b"call": calls[n], b"visit": visits[n]}
            yield plan[n].offset + plan[n].duration, plan[n].variant, values

    def _emails(self, day: date, _as_of: int | None) -> Iterator[_Event]:
        for email in self._plans.plan("emails", day):
            subject = f"Demande de visite de {name_of(email.caller)}"
            values = {b"address": address_of(email.caller), b"subject": subject}
            yield email.offset, email.variant, values

    def _leads(self, day: date, as_of: int | None) -> Iterator[_Event]:
        calls, emails = self._plans.plan("calls", day), self._plans.plan("emails", day)
        call_links = self._links("calls", day, len(calls))
        email_links = self._links("emails", day, len(emails))
        pending, _ = self._late_changes("leads", day, as_of)
        for n, source in enumerate(self._sources("leads", day)):
            is_call = source >= 0
            number = source if is_call else -1 - source
            contact = (calls if is_call else emails)[number]
            # a caller with a withheld number gives a name
            is_withheld = contact.caller == WITHHELD
            person = number if is_withheld else contact.caller
            final = late.status_of_lead(f"{self._options.seed}:leads:{day}", n)
            values = {
                b"call": call_links[number] if is_call else None,
                b"email": None if is_call else email_links[number],
                b"address": address_of(person),
                b"name": name_of(person),
                b"number": None if is_withheld else number_of(person),
                b"status": pending[n].kind if n in pending else final,
            }
            yield contact.offset + contact.duration + 60, contact.variant, values


def id_tail(number: int, day: date) -> str:
    """Return the end of a row's id, from which `day_of` determines the day."""
    return f"{number ^ 0x5A5A5A:06x}{day.toordinal() ^ 0xA5A5A5:06x}"


def day_of(identifier: str) -> date:
    """Return the day of an event's id. Raises KeyError if it was not generated."""
    try:
        return date.fromordinal(int(identifier[-6:], 16) ^ 0xA5A5A5)
    except ValueError:
        raise KeyError(identifier) from None


def _clock_time(hours: list[tuple[str, int]], offset: int) -> str:
    return hours[offset // 3600][0] + _CLOCK[offset % 3600]
