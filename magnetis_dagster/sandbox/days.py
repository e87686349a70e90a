"""Generate one local day of one events collection.

A day depends only on seed and date, and on `as_of` if late changes are enabled. Calls come first;
visits precede calls, and conversions and leads follow from them. So ids and times are consistent,
independent of the order of requests.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

from magnetis_dagster.sandbox import late_changes as late
from magnetis_dagster.sandbox.callers import (
    CALLERS,
    WITHHELD,
    address_of,
    encode_caller,
    name_of,
    number_of,
)
from magnetis_dagster.sandbox.day_plans import HOUR_WEIGHTS, DayPlans, midnight
from magnetis_dagster.sandbox.late_changes import LateChange
from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.templates import VARIANTS, Variant

EVENTS = ("calls", "visits", "conversions", "emails", "leads")
PREFIXES = {
    "calls": "call",
    "visits": "vis",
    "conversions": "con",
    "emails": "ema",
    "leads": "lead",
}
_LEAST_CONVERSATION = 20
"""Minimum seconds of a call that leads to a conversion; leads require twice as much."""
_CLOCK = tuple(f"{second // 60:02d}:{second % 60:02d}".encode() for second in range(3600))


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


_Contact = tuple[int, bytes, tuple[bytes, ...]]
"""Seconds since local midnight, template of the row, and values of its slots in order."""
_START = b"@"
"""Placeholder for the time of the row among the values."""


class Days:
    """Generates days as of a Unix time; None excludes late changes."""

    def __init__(self, options: SandboxOptions, variants: list[Variant]) -> None:
        self._options = options
        self._variants = variants
        self._plans = DayPlans(options, variants)
        self._counts: dict[tuple[str, date], int] = {}
        self._late: Callable[[str, date], tuple[LateChange, ...]] = lru_cache(maxsize=1024)(
            self._make_late
        )

    def count(self, collection: str, day: date, as_of: int | None = None) -> int:
        """Return the number of the day's rows without generating them.

        The day must not be before the first day.
        """
        key = (collection, day)
        if key not in self._counts:
            self._counts[key] = self._count(collection, day)
        return self._counts[key] - len(self._deleted_numbers(collection, day, as_of))

    def make(self, collection: str, day: date, as_of: int | None = None) -> Day:
        """Return the rows of the day; calls include `analysis`."""
        if day < self._options.first_day:
            return Day([], [])
        match collection:
            case "calls":
                return self._calls(day, as_of)
            case "visits":
                return self._visits(day)
            case "conversions":
                return self._conversions(day)
            case "emails":
                return self._emails(day)
        return self._leads(day, as_of)

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

    def tail(self, number: int, day: date) -> str:
        """Return the end of a row's id, from which `day_of` determines the day."""
        return f"{number ^ 0x5A5A5A:06x}{day.toordinal() ^ 0xA5A5A5:06x}"

    def day_of(self, identifier: str) -> date:
        """Return the day of an event's id. Raises KeyError if it was not generated."""
        try:
            return date.fromordinal(int(identifier[-6:], 16) ^ 0xA5A5A5)
        except ValueError:
            raise KeyError(identifier) from None

    def _count(self, collection: str, day: date) -> int:
        if collection in {"calls", "emails"}:
            return self._plans.size(collection, day)
        if collection == "visits":
            return self._plans.size("calls", day) * self._options.visits_per_call
        return len(self._sources(collection, day))

    def _make_late(self, collection: str, day: date) -> tuple[LateChange, ...]:
        seed, size = f"{self._options.seed}:{collection}:{day}", self._plans.size("calls", day)
        start = midnight(day, self._options.zone)
        if collection == "calls":
            return late.call_changes(seed, start, size)
        if collection == "leads":
            return late.lead_changes(seed, start, len(self._sources("leads", day)))
        return ()

    def _deleted_numbers(self, collection: str, day: date, as_of: int | None) -> set[int]:
        """Return the numbers of the calls that were deleted."""
        if as_of is None or collection != "calls":
            return set()
        return {
            each.number
            for each in self._late(collection, day)
            if each.kind == late.DELETED and each.moment <= as_of
        }

    def _pending(self, collection: str, day: date, as_of: int | None) -> dict[int, LateChange]:
        """Return each row's next late change by its number."""
        if as_of is None:
            return {}
        return {
            each.number: each
            for each in reversed(self._late(collection, day))
            if each.moment > as_of
        }

    def _identifiers(self, collection: str, day: date, number: int, step: int = 1) -> list[bytes]:
        # the last twelve digits contain number and day, so that a row can be found by its id
        source = f"{self._options.seed}:{collection}:{day}".encode()
        digest = hashlib.shake_128(source).hexdigest(10 * number)
        prefix, ordinal = PREFIXES[collection], f"{day.toordinal() ^ 0xA5A5A5:06x}"
        return [
            f"{prefix}-{d[:8]}-{d[8:12]}-4{d[13:16]}-a{d[17:20]}-"
            f"{n ^ 0x5A5A5A:06x}{ordinal}".encode()
            for n in range(0, number, step)
            if (d := digest[20 * n : 20 * n + 20])
        ]

    def _first_visits(self, day: date, calls: int) -> list[bytes]:
        """Return the id of the first visit before each call, if there are visits."""
        each = self._options.visits_per_call
        return self._identifiers("visits", day, calls * each, each) if each else []

    def _sources(self, collection: str, day: date) -> list[int]:
        """Return the numbers of the calls that lead to conversions or leads.

        For leads, e-mails follow as -1 - number.
        """
        calls = self._plans.plan("calls", day)
        if collection == "conversions":
            return [
                n
                for n, variant in enumerate(calls.variants)
                if n % 2 == 0
                and self._variants[variant].web
                and calls.outcomes[n].duration >= _LEAST_CONVERSATION
            ]
        spoken = [
            n
            for n, outcome in enumerate(calls.outcomes)
            if n % 3 and outcome.duration >= 2 * _LEAST_CONVERSATION
        ]
        return [*spoken, *(-1 - n for n in range(0, self._plans.size("emails", day), 2))]

    def _render(self, day: date, contacts: Iterable[_Contact]) -> Day:
        """Format the templates with their values; _START becomes the time of the row."""
        hours = self._plans.hours(day)
        length = len(hours) * 3600 - 1
        first = midnight(day, self._options.zone)
        rows: list[tuple[int, bytes]] = []
        for given, template, values in contacts:
            offset = min(max(given, 0), length)
            start = b'"%b%b"' % (hours[offset // 3600][0], _CLOCK[offset % 3600])
            place = values.index(_START)
            rows.append((first + offset, template % (*values[:place], start, *values[place + 1 :])))
        rows.sort()
        return Day([moment for moment, _ in rows], [row for _, row in rows])

    def _calls(self, day: date, as_of: int | None) -> Day:
        plan = self._plans.plan("calls", day)
        ids = self._identifiers("calls", day, len(plan.offsets))
        visits = self._first_visits(day, len(ids))
        hours = self._plans.hours(day) + self._plans.hours(day + timedelta(days=1))
        deleted = self._deleted_numbers("calls", day, as_of)
        pending = self._pending("calls", day, as_of)
        contacts: list[_Contact] = []
        for n, (offset, variant, caller, outcome) in enumerate(
            zip(plan.offsets, plan.variants, plan.callers, plan.outcomes, strict=True)
        ):
            if n in deleted:
                continue
            source = self._variants[variant]
            end = offset + outcome.duration
            seconds, status = outcome.seconds, outcome.status
            ended = b'"%b%b"' % (hours[end // 3600][0], _CLOCK[end % 3600])
            number, name = encode_caller(caller)
            if change := pending.get(n):
                if change.kind == late.RINGING:
                    seconds, status, ended = b"0", b'"ringing"', b"null"
                elif change.kind == late.NAMED:
                    name = b"null"
            visit = _link(visits[n]) if source.web and visits else b"null"
            values = (_text(ids[n]), seconds, name, number, seconds, ended, _START, status, visit)
            contacts.append((offset, source.templates["calls"], (*values, outcome.waiting)))
        return self._render(day, contacts)

    def _visits(self, day: date) -> Day:
        plan, each = self._plans.plan("calls", day), self._options.visits_per_call
        pick = random.Random(f"visits:{self._options.seed}:{day}")  # noqa: S311
        calls = self._identifiers("calls", day, len(plan.offsets))
        contacts: list[_Contact] = []
        for number, identifier in enumerate(
            self._identifiers("visits", day, len(plan.offsets) * each)
        ):
            source, others = divmod(number, each)
            variant, call = plan.variants[source], b"null"
            offset = plan.offsets[source] - pick.randrange(30, 900)
            visitor = plan.callers[source]
            if others == 0 and self._variants[variant].web:
                call = _link(calls[source])
            elif others:
                variant, offset = pick.randrange(VARIANTS), offset + pick.randrange(-3600, 3600)
                visitor = WITHHELD
            if visitor == WITHHELD:
                visitor = CALLERS + pick.randrange(1_000_000)
            visitor_id = b'"vst-%08x-0000-4000-a000-000000000000"' % visitor
            values = (_text(identifier), call, _START, visitor_id)
            contacts.append((offset, self._variants[variant].templates["visits"], values))
        return self._render(day, contacts)

    def _conversions(self, day: date) -> Day:
        plan, sources = self._plans.plan("calls", day), self._sources("conversions", day)
        calls = self._identifiers("calls", day, len(plan.offsets))
        visits = self._first_visits(day, len(calls))
        contacts: list[_Contact] = []
        for identifier, source in zip(
            self._identifiers("conversions", day, len(sources)), sources, strict=True
        ):
            visit = _link(visits[source]) if visits else b"null"
            values = (_text(identifier), _link(calls[source]), _START, visit)
            template = self._variants[plan.variants[source]].templates["conversions"]
            contacts.append(
                (plan.offsets[source] + plan.outcomes[source].duration, template, values)
            )
        return self._render(day, contacts)

    def _emails(self, day: date) -> Day:
        plan = self._plans.plan("emails", day)
        contacts: list[_Contact] = []
        for n, identifier in enumerate(self._identifiers("emails", day, len(plan.offsets))):
            caller = plan.callers[n]
            subject = _quote(f"Demande de visite de {name_of(caller)}")
            values = (_text(identifier), _START, _quote(address_of(caller)), subject)
            template = self._variants[plan.variants[n]].templates["emails"]
            contacts.append((plan.offsets[n], template, values))
        return self._render(day, contacts)

    def _leads(self, day: date, as_of: int | None) -> Day:
        calls, emails = self._plans.plan("calls", day), self._plans.plan("emails", day)
        sources = self._sources("leads", day)
        call_ids = self._identifiers("calls", day, len(calls.offsets))
        email_ids = self._identifiers("emails", day, len(emails.offsets))
        pending = self._pending("leads", day, as_of)
        contacts: list[_Contact] = []
        for n, (identifier, source) in enumerate(
            zip(self._identifiers("leads", day, len(sources)), sources, strict=True)
        ):
            change = pending.get(n)
            final = late.status_of_lead(f"{self._options.seed}:leads:{day}", n)
            status = change.kind if change else final
            if source >= 0:
                plan, kind, number = calls, "leads", source
                offset = calls.offsets[source] + calls.outcomes[source].duration + 60
                links = _link(call_ids[source]), b"null"
            else:
                plan, kind, number = emails, "leads from emails", -1 - source
                offset, links = emails.offsets[number] + 60, (b"null", _link(email_ids[number]))
            caller = plan.callers[number]
            # a caller with a withheld number gives a name
            person, phone = (
                (caller, _quote(number_of(caller))) if caller != WITHHELD else (number, b"null")
            )
            contact = (_quote(address_of(person)), _quote(name_of(person)), phone)
            values = (_text(identifier), links[0], *contact, _START, links[1], _quote(status))
            contacts.append((offset, self._variants[plan.variants[number]].templates[kind], values))
        return self._render(day, contacts)


def _quote(value: str) -> bytes:
    return b'"%b"' % value.encode()


def _text(identifier: bytes) -> bytes:
    return b'"' + identifier + b'"'


def _link(identifier: bytes) -> bytes:
    return b'{"id":"' + identifier + b'"}'
