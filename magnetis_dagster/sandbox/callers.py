"""Generate callers and outcomes of calls.

A caller is a number that determines phone number, name, address and called number. docs/sandbox.md
lists the shares.
"""

import random
from math import log
from typing import NamedTuple

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
_NAMES = tuple(f"{first} {last}" for last in LAST_NAMES for first in FIRST_NAMES)


class Outcome(NamedTuple):
    """The outcome of a call."""

    status: str
    duration: int
    """Seconds of conversation or voicemail; 0 without an answer."""
    waiting: int
    """Seconds until the answer or end."""


_SAMPLED = (
    ("completed", (125, 0.85), (9, 0.5)),
    ("missed", (0, 0), (24, 0.4)),
    ("busy", (0, 0), (1, 0.3)),
    ("voicemail", (22, 0.5), (26, 0.15)),
)
"""Log-normal distributions of duration and waiting time in seconds: median and spread."""


def outcomes(seed: int) -> dict[str, list[Outcome]]:
    """Return samples of the outcomes, by status."""
    pick = random.Random(f"outcomes:{seed}")  # noqa: S311 - invented data

    def draw(median: float, spread: float) -> int:
        return min(3600, round(median * pick.lognormvariate(0, spread)))

    return {
        status: [Outcome(status, draw(*duration), draw(*waiting)) for _ in range(SAMPLES)]
        for status, duration, waiting in _SAMPLED
    }


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


def displayed(caller: int) -> tuple[str | None, str | None]:
    """Return the phone number and the name that the called person sees; None if hidden."""
    if caller == WITHHELD:
        return None, None
    return number_of(caller), name_of(caller) if caller // 7 % 10 < _NAMED else None


def outcome_shares(hour: int, weekday: int) -> tuple[float, float, float]:
    """Return the shares of missed, busy and voicemail calls.

    Offices open from 8 to 19 except on Sundays, and have fewer staff at lunch.
    """
    if weekday == 6 or not 8 <= hour < 19:
        return 0.42, 0.01, 0.32
    if hour in {12, 13}:
        return 0.24, 0.03, 0.07
    return (0.16 if hour in {8, 18} else 0.11), 0.03, 0.03
