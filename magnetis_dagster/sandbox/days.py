"""Generate one local day of one events collection.

A day depends only on seed and date, and on `as_of` if late changes are enabled. Calls come first;
visits precede calls, and conversions and leads follow from them. So ids and times are consistent,
independent of the order of requests.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from magnetis_dagster.sandbox import late_changes as late
from magnetis_dagster.sandbox.callers import (
    CALLERS,
    NEW_SHARE,
    RETRY_SHARE,
    RETURN_DAYS,
    SAMPLES,
    WITHHELD,
    WITHHELD_SHARE,
    Outcome,
    address_of,
    encode_caller,
    name_of,
    number_of,
    outcome_shares,
    outcomes,
)
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
_WEEKDAY = (1.25, 1.15, 1.1, 1.1, 1.15, 0.95, 0.3)
_HOUR = (
    *(0.2, 0.1, 0.1, 0.1, 0.1, 0.2, 0.6, 2, 6, 12, 14, 13),
    *(6, 7, 12, 13, 12, 11, 8, 3, 1.5, 1, 0.6, 0.4),
)
"""Weight of each local hour: offices open at 8; lunch and evenings are quiet."""
_HOLIDAYS = {(1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25)}
_NOISE = (0.85, 1.15)
_LEAST_CONVERSATION = 20
"""Minimum seconds of a call that leads to a conversion; leads require twice as much."""
_PLANS = 16
"""Number of cached plans: a plan of 30,000 calls takes 2 MB, and most requests read one collection.
"""
_CLOCK = tuple(f"{second // 60:02d}:{second % 60:02d}".encode() for second in range(3600))


@lru_cache(maxsize=8192)
def midnight(day: date, zone: ZoneInfo) -> int:
    """Return the Unix time of the start of a local day."""
    return int(datetime.combine(day, time.min, zone).timestamp())


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


@dataclass(frozen=True, slots=True)
class _Plan:
    """Contacts of a day, ordered by number."""

    offsets: list[int]
    """Seconds since local midnight."""
    callers: list[int]
    variants: list[int]
    outcomes: list[Outcome]
    """Empty for e-mails."""


_Contact = tuple[int, bytes, tuple[bytes, ...]]
"""Seconds since local midnight, template of the row, and values of its slots in order."""
_START = b"@"
"""Placeholder for the time of the row among the values."""


class Days:
    """Generates days as of a Unix time; None excludes late changes."""

    def __init__(self, options: SandboxOptions, variants: list[Variant]) -> None:
        self._options = options
        self._variants = variants
        self._outcomes = outcomes(options.seed)
        self._plan: Callable[[str, date], _Plan] = lru_cache(maxsize=_PLANS)(self._make_plan)
        self._counts: dict[tuple[str, date], int] = {}
        self._newcomers: Callable[[date], tuple[int, int]] = lru_cache(maxsize=4096)(
            self._count_newcomers
        )
        self._late: Callable[[str, date], tuple[LateChange, ...]] = lru_cache(maxsize=1024)(
            self._make_late
        )
        # the number of new callers on a busy day; a phone number is reused after all others
        busiest = options.calls_per_day * NEW_SHARE * max(_WEEKDAY) * _NOISE[1]
        self._callers_per_day = max(1, round(busiest) + 1)

    def count(self, collection: str, day: date, as_of: int | None = None) -> int:
        """Return the number of the day's rows without generating them.

        The day must not be before the first day.
        """
        key = (collection, day)
        if key not in self._counts:
            self._counts[key] = self._count(collection, day)
        return self._counts[key] - len(self._deleted(collection, day, as_of))

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
        hours, first = self._hours(day), midnight(day, self._options.zone)
        chosen = pick.choices(
            range(len(hours)),
            [_HOUR[hour] for _, hour in hours],
            k=round(self._size("calls", day) * share),
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
            return self._size(collection, day)
        if collection == "visits":
            return self._size("calls", day) * self._options.visits_per_call
        return len(self._sources(collection, day))

    def _size(self, collection: str, day: date) -> int:
        noise = random.Random(f"size:{self._options.seed}:{collection}:{day}").uniform(*_NOISE)  # noqa: S311
        rest = 0.15 if (day.month, day.day) in _HOLIDAYS else 1.0
        mean = self._options.calls_per_day * (0.2 if collection == "emails" else 1.0)
        return round(mean * _WEEKDAY[day.weekday()] * rest * noise)

    def _count_newcomers(self, day: date) -> tuple[int, int]:
        """Return the day's first new caller and the number of new callers."""
        number = max(1, round(self._size("calls", day) * NEW_SHARE))
        return day.toordinal() * self._callers_per_day, number

    def _make_plan(self, collection: str, day: date) -> _Plan:
        pick = random.Random(f"plan:{self._options.seed}:{collection}:{day}")  # noqa: S311
        number = self._size(collection, day)
        hours = self._hours(day)
        weights = [_HOUR[hour] for _, hour in hours]
        chosen = pick.choices(range(len(hours)), weights, k=number)
        if len(hours) != 24:
            # on days with a clock change, start with one call in each hour, to cover all of them
            chosen[: len(hours)] = list(range(len(hours)))[:number]
        offsets = [hour * 3600 + int(pick.random() * 3600) for hour in chosen]
        if collection == "emails":
            first, newcomers = self._newcomers(day)
            # a third of the senders call on the same day too
            callers = [
                (first + int(pick.random() * 3 * newcomers)) % CALLERS for _ in range(number)
            ]
            return _Plan(offsets, callers, [_variant_of(caller) for caller in callers], [])
        return self._plan_calls(day, pick, offsets, len(hours))

    def _plan_calls(self, day: date, pick: random.Random, offsets: list[int], hours: int) -> _Plan:
        number, draw = len(offsets), pick.random
        first, newcomers = self._newcomers(day)
        retries = newcomers + round(number * RETRY_SHARE)
        withheld = retries + round(number * WITHHELD_SHARE)
        shares = [outcome_shares(hour, day.weekday()) for _, hour in self._hours(day)]
        miss = [variant.miss for variant in self._variants]
        not_answered, busy, voicemail, completed = self._outcomes.kinds
        # new callers of the days on which returning callers called first
        earlier = [self._newcomers(day - timedelta(days=days)) for days in RETURN_DAYS]
        callers, variants, ends = list[int](), list[int](), list[Outcome]()
        missed: list[int] = []
        for n in range(number):
            if n < newcomers:
                caller = (first + n) % CALLERS
            elif n < retries and missed and n >= hours:
                # callers without an answer call again, most of them within an hour
                source = missed.pop(int(draw() * len(missed)))
                retry = offsets[source] + int(pick.expovariate(1 / 2400)) + 60
                caller, offsets[n] = callers[source], min(retry, hours * 3600 - 1)
            elif retries <= n < withheld:
                caller = WITHHELD
            else:
                start, count = earlier[int(draw() * len(earlier))]
                caller = (start + int(draw() * count)) % CALLERS
            variant = _variant_of(caller) if caller != WITHHELD else int(draw() * VARIANTS)
            share, at = shares[offsets[n] // 3600], draw()
            sample = int(draw() * SAMPLES)
            if (at := at - share[0] * miss[variant]) < 0:
                outcome = not_answered[sample]
                if n < newcomers:
                    missed.append(n)
            elif (at := at - share[1]) < 0:
                outcome = busy[sample]
            else:
                outcome = voicemail[sample] if at < share[2] else completed[sample]
            callers.append(caller)
            variants.append(variant)
            ends.append(outcome)
        return _Plan(offsets, callers, variants, ends)

    def _make_late(self, collection: str, day: date) -> tuple[LateChange, ...]:
        seed, size = f"{self._options.seed}:{collection}:{day}", self._size("calls", day)
        start = midnight(day, self._options.zone)
        if collection == "calls":
            return late.call_changes(seed, start, size)
        if collection == "leads":
            return late.lead_changes(seed, start, len(self._sources("leads", day)))
        return ()

    def _deleted(self, collection: str, day: date, as_of: int | None) -> set[int]:
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

    def _hours(self, day: date) -> list[tuple[bytes, int]]:
        """Return date with hour, and hour, of each of the day's 23, 24 or
        25.
        """
        zone = self._options.zone
        start, end = midnight(day, zone), midnight(day + timedelta(days=1), zone)
        local = [datetime.fromtimestamp(moment, zone) for moment in range(start, end, 3600)]
        return [(f"{moment:%Y-%m-%d %H:}".encode(), moment.hour) for moment in local]

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
        calls = self._plan("calls", day)
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
        return [*spoken, *(-1 - n for n in range(0, self._size("emails", day), 2))]

    def _render(self, day: date, contacts: Iterable[_Contact]) -> Day:
        """Format the templates with their values; _START becomes the time of the row."""
        hours = self._hours(day)
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
        plan = self._plan("calls", day)
        ids = self._identifiers("calls", day, len(plan.offsets))
        visits = self._first_visits(day, len(ids))
        hours = self._hours(day) + self._hours(day + timedelta(days=1))
        deleted = self._deleted("calls", day, as_of)
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
        plan, each = self._plan("calls", day), self._options.visits_per_call
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
        plan, sources = self._plan("calls", day), self._sources("conversions", day)
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
        plan = self._plan("emails", day)
        contacts: list[_Contact] = []
        for n, identifier in enumerate(self._identifiers("emails", day, len(plan.offsets))):
            caller = plan.callers[n]
            subject = _quoted(f"Demande de visite de {name_of(caller)}")
            values = (_text(identifier), _START, _quoted(address_of(caller)), subject)
            template = self._variants[plan.variants[n]].templates["emails"]
            contacts.append((plan.offsets[n], template, values))
        return self._render(day, contacts)

    def _leads(self, day: date, as_of: int | None) -> Day:
        calls, emails = self._plan("calls", day), self._plan("emails", day)
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
                (caller, _quoted(number_of(caller))) if caller != WITHHELD else (number, b"null")
            )
            contact = (_quoted(address_of(person)), _quoted(name_of(person)), phone)
            values = (_text(identifier), links[0], *contact, _START, links[1], _quoted(status))
            contacts.append((offset, self._variants[plan.variants[number]].templates[kind], values))
        return self._render(day, contacts)


def _variant_of(caller: int) -> int:
    """Return the variant of a caller, who always calls the same number."""
    return (caller * 2_654_435_761 >> 11) % VARIANTS


def _quoted(value: str) -> bytes:
    return b'"%b"' % value.encode()


def _text(identifier: bytes) -> bytes:
    return b'"' + identifier + b'"'


def _link(identifier: bytes) -> bytes:
    return b'{"id":"' + identifier + b'"}'
