"""Parse durations in clock (`00:03:21`), ISO 8601 (`PT3M21S`) and unit (`3 min 21 s`) notation."""

import re
from decimal import Decimal

from magnetis_dagster.catalog.model import SECONDS_PER_UNIT

_LONGEST = 60
"""Maximum number of characters: a pattern's time grows with the cube of consecutive blanks."""
_N = r"([0-9]{1,12}(?:[.,][0-9]{1,9})?)"
_CLOCK = re.compile(r"(?:([0-9]{1,9}):([0-5]?[0-9])|([0-9]{1,9})):([0-5]?[0-9](?:[.,][0-9]{1,9})?)")
_ISO = re.compile(rf"P(?:{_N}D)?(?:T(?:{_N}H)?(?:{_N}M)?(?:{_N}S)?)?", re.IGNORECASE)
_UNITS = re.compile(
    rf"(?:{_N}\s*(?:h|hours?|heures?))?\s*(?:{_N}\s*(?:m|min|mins|minutes?))?\s*"
    rf"(?:{_N}\s*(?:s|sec|secs|seconds?|secondes?))?\s*(?:{_N}\s*(?:ms|milliseconds?|millisecondes?))?",
    re.IGNORECASE,
)


def seconds_of(text: str) -> Decimal | None:
    """Return the seconds of a duration with its own units, or None for other text.

    A clock of two parts is minutes and seconds, because calls rarely take hours.
    """
    if len(text) > _LONGEST:
        return None
    if match := _CLOCK.fullmatch(text):
        return _total((match[1], 3600), (match[2] or match[3], 60), (match[4], 1))
    if match := _ISO.fullmatch(text):
        return _total((match[1], 86_400), (match[2], 3600), (match[3], 60), (match[4], 1))
    if match := _UNITS.fullmatch(text):
        return _total((match[1], 3600), (match[2], 60), (match[3], 1), (match[4], Decimal("0.001")))
    return None


def convert(number: Decimal, received: str, unit: str) -> Decimal:
    """Convert a duration to another unit."""
    if received == unit:
        return number
    return number * SECONDS_PER_UNIT[received] / SECONDS_PER_UNIT[unit]


def _total(*parts: tuple[str | None, int | Decimal]) -> Decimal | None:
    given = [Decimal(number.replace(",", ".")) * seconds for number, seconds in parts if number]
    return sum(given, Decimal(0)) if given else None
