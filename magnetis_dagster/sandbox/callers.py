"""Who contacts the group, and how a call ends: new callers, returning ones, withheld numbers, statuses and durations.

A caller is a number: his phone number, name, address and the tracked number that he calls follow from it. The shares are those of
an agency that is found on the web; docs/sandbox.md lists them.
"""

import random
from dataclasses import dataclass

PEOPLE_DOMAIN = "exemple.invalid"
FICTION_PREFIXES = ("003319900", "003326191", "003335301", "003346571", "003353649", "003363998")
"""Ranges of ten thousand numbers that ARCEP, the French regulator, keeps for films and books."""
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
LAST_NAMES = ("Abricotier", "Bruyère-Test", "Coquelicot", "Digitale", "Eglantier", "Fougeraie", "Genêtine", "Houblonnet", "Irisel")
PERSONAL_MARKERS = (*FICTION_PREFIXES, PEOPLE_DOMAIN, *LAST_NAMES)
"""Each personal value of the sandbox contains one of these, so that a leak can be found by search."""

CALLERS = 10_000 * len(FICTION_PREFIXES)
"""Different phone numbers. They are given out in turn, so the first caller comes back as the last one is used up."""
WITHHELD = -1
"""The caller of a call whose number was withheld."""
NEW_SHARE = 0.45
RETRY_SHARE = 0.08
"""Calls by somebody whose call was missed earlier that day."""
WITHHELD_SHARE = 0.05
RETURN_DAYS = 25.0
"""Mean days between the first call and a later one; the remaining calls are of this kind."""
_NAMED = 3
"""Of ten callers, so many are known by name."""
_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    status: bytes
    """As JSON, like the members below."""
    duration: int
    """Seconds of conversation, or of the message that was left; 0 unless somebody or something answered."""
    seconds: bytes
    """The same as JSON."""
    waiting: bytes
    """Seconds until then."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Samples of each outcome."""

    completed: list[Outcome]
    missed: list[Outcome]
    busy: list[Outcome]
    voicemail: list[Outcome]

    def draw(self, pick: random.Random, hour: int, weekday: int, miss: float) -> Outcome:
        """Return an outcome for a call of this local hour; `miss` multiplies the share of calls that nobody answers."""
        missed, busy, voicemail = _shares(hour, weekday)
        at = pick.random()
        if at < missed * miss:
            kind = self.missed
        elif at < missed * miss + busy:
            kind = self.busy
        elif at < missed * miss + busy + voicemail:
            kind = self.voicemail
        else:
            kind = self.completed
        return kind[int(pick.random() * _SAMPLES)]


def outcomes(seed: int) -> Outcomes:
    """Return the outcomes of a seed."""
    pick = random.Random(f"outcomes:{seed}")  # noqa: S311 - invented data

    def samples(status: str, duration: tuple[float, float], waiting: tuple[float, float]) -> list[Outcome]:
        """Draw from log-normal distributions: median and spread."""
        made = []
        for _ in range(_SAMPLES):
            seconds, ring = (
                min(3600, round(median * pick.lognormvariate(0, spread))) for median, spread in (duration, waiting)
            )
            made.append(Outcome(f'"{status}"'.encode(), seconds, str(seconds).encode(), str(ring).encode()))
        return made

    return Outcomes(
        completed=samples("completed", (125, 0.85), (9, 0.5)),
        missed=samples("missed", (0, 0), (24, 0.4)),
        busy=samples("busy", (0, 0), (1, 0.3)),
        voicemail=samples("voicemail", (22, 0.5), (26, 0.15)),
    )


def number_of(caller: int) -> str:
    """Return the phone number of a caller."""
    return f"{FICTION_PREFIXES[caller % len(FICTION_PREFIXES)]}{caller // len(FICTION_PREFIXES) % 10_000:04d}"


def name_of(caller: int) -> str:
    """Return the name of a caller."""
    return f"{FIRST_NAMES[caller % 10]} {LAST_NAMES[caller // 10 % 9]}"


def address_of(caller: int) -> str:
    """Return the e-mail address of a caller."""
    return f"contact.{caller}@{PEOPLE_DOMAIN}"


def is_named(caller: int) -> bool:
    """Whether the group knows the name of the caller."""
    return caller != WITHHELD and caller // 7 % 10 < _NAMED


def _shares(hour: int, weekday: int) -> tuple[float, float, float]:
    """Return the shares of missed, busy and voicemail: offices open from 8 to 19 except on Sundays, and are thin at lunch."""
    if weekday == 6 or not 8 <= hour < 19:  # noqa: PLR2004 - Sunday
        return 0.42, 0.01, 0.32
    if hour in {12, 13}:
        return 0.24, 0.03, 0.07
    return (0.16 if hour in {8, 18} else 0.11), 0.03, 0.03
