"""Generate callers and outcomes of calls.

A caller is a number that determines phone number, name, address and called number. The shares are
those of an agency with customers from the web; docs/sandbox.md lists them.
"""

import random
from dataclasses import dataclass
from math import log

PEOPLE_DOMAIN = "exemple.invalid"
FICTION_PREFIXES = ("003319900", "003326191", "003335301", "003346571", "003353649", "003363998")
"""Ranges of 10,000 numbers that ARCEP, the French regulator, reserves for fiction."""
FIRST_NAMES = (
    "Apolline",
    "Barnabé",
    "Clotilde",
    "Donatien",
    "Euphrasie",
    "Firmin",
    "Gwladys",
    "Hippolyte",
    "Ildefonse",
    "Joséphine",
)
LAST_NAMES = (
    "Abricotier",
    "Bruyère-Test",
    "Coquelicot",
    "Digitale",
    "Eglantier",
    "Fougeraie",
    "Genêtine",
    "Houblonnet",
    "Irisel",
)
PERSONAL_MARKERS = (*FICTION_PREFIXES, PEOPLE_DOMAIN, *LAST_NAMES)
"""Each personal value of the sandbox contains one of these, so that a search finds leaks."""

CALLERS = 10_000 * len(FICTION_PREFIXES)
"""Number of phone numbers. New callers get them in turn; a number is reused after all others."""
WITHHELD = -1
"""The caller of a call with a withheld number."""
NEW_SHARE = 0.40
RETRY_SHARE = 0.08
"""Share of calls by a caller whose call was missed earlier on the same day."""
WITHHELD_SHARE = 0.05
RETURN_DAYS = tuple(1 + int(-25 * log(1 - (n + 0.5) / 256)) for n in range(256))
"""Days between the first call of a caller and a later one; the mean is 25."""
_NAMED = 3
"""Number of callers in ten with a known name."""
SAMPLES = 256
"""Number of samples of each outcome."""
_PREFIXES = tuple(prefix.encode() for prefix in FICTION_PREFIXES)
_NAMES = tuple(f"{first} {last}" for last in LAST_NAMES for first in FIRST_NAMES)
_NAMES_AS_JSON = tuple(f'"{name}"'.encode() for name in _NAMES)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a call."""

    status: bytes
    """As JSON."""
    duration: int
    """Seconds of conversation or voicemail; 0 without an answer."""
    seconds: bytes
    """`duration` as JSON."""
    waiting: bytes
    """Seconds until the answer or end, as JSON."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Samples of each outcome."""

    completed: list[Outcome]
    missed: list[Outcome]
    busy: list[Outcome]
    voicemail: list[Outcome]

    @property
    def kinds(self) -> tuple[list[Outcome], list[Outcome], list[Outcome], list[Outcome]]:
        """The samples in the order of `outcome_shares`; completed calls are last."""
        return self.missed, self.busy, self.voicemail, self.completed


def outcomes(seed: int) -> Outcomes:
    """Return the outcomes for a seed."""
    pick = random.Random(f"outcomes:{seed}")  # noqa: S311 - invented data

    def samples(
        status: str, duration: tuple[float, float], waiting: tuple[float, float]
    ) -> list[Outcome]:
        """Draw from log-normal distributions, given as median and spread."""
        drawn = []
        for _ in range(SAMPLES):
            seconds, ring = (
                min(3600, round(median * pick.lognormvariate(0, spread)))
                for median, spread in (duration, waiting)
            )
            drawn.append(
                Outcome(f'"{status}"'.encode(), seconds, str(seconds).encode(), str(ring).encode())
            )
        return drawn

    return Outcomes(
        completed=samples("completed", (125, 0.85), (9, 0.5)),
        missed=samples("missed", (0, 0), (24, 0.4)),
        busy=samples("busy", (0, 0), (1, 0.3)),
        voicemail=samples("voicemail", (22, 0.5), (26, 0.15)),
    )


def number_of(caller: int) -> str:
    """Return the phone number of a caller."""
    prefix = FICTION_PREFIXES[caller % len(FICTION_PREFIXES)]
    return f"{prefix}{caller // len(FICTION_PREFIXES) % 10_000:04d}"


def name_of(caller: int) -> str:
    """Return the name of a caller."""
    return _NAMES[caller % len(_NAMES)]


def address_of(caller: int) -> str:
    """Return the e-mail address of a caller."""
    return f"contact.{caller}@{PEOPLE_DOMAIN}"


def encode_caller(caller: int) -> tuple[bytes, bytes]:
    """Return phone number and name of a caller as JSON, for the row of a call."""
    if caller == WITHHELD:
        return b"null", b"null"
    number = b'"%b%04d"' % (_PREFIXES[caller % len(_PREFIXES)], caller // len(_PREFIXES) % 10_000)
    return number, _NAMES_AS_JSON[caller % len(_NAMES)] if caller // 7 % 10 < _NAMED else b"null"


def outcome_shares(hour: int, weekday: int) -> tuple[float, float, float]:
    """Return the shares of missed, busy and voicemail calls.

    Offices open from 8 to 19 except on Sundays, and have fewer staff at lunch.
    """
    if weekday == 6 or not 8 <= hour < 19:
        return 0.42, 0.01, 0.32
    if hour in {12, 13}:
        return 0.24, 0.03, 0.07
    return (0.16 if hour in {8, 18} else 0.11), 0.03, 0.03
