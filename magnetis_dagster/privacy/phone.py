"""Normalise received phone numbers to E.164.

    PhoneReader().read("06 12 34 56 78")  # kind number, e164 +33612345678

Every spelling of a number gives the same result: separators, full-width digits, `00` or `+`, `(0)`,
`tel:`, a label before and an extension after the number. The most frequent forms are matched by two
regular expressions; the package phonenumberslite (Google's libphonenumber) reads all others.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

from magnetis_dagster.catalog.conversions import as_text
from magnetis_dagster.plain_text import plain_text

WITHHELD: Final = frozenset(
    {
        # RFC 3261 (section 8.1.1.3) and RFC 3323 (section 4.1): From: "Anonymous"
        # <sip:anonymous@anonymous.invalid>
        "anonymous",
        # Q.931 presentation indicator: presentation restricted, number not available due to
        # interworking; telephone systems show these words
        *("restricted", "unavailable", "not available", "withheld", "blocked", "presentation"),
        # displays of telephones and telephone systems, English (not verified for Magnetis)
        *("unknown", "unknown number", "private", "private number", "hidden", "hidden number"),
        *("no number", "no caller id", "caller id blocked", "id withheld", "anonymous call"),
        # displays of telephones and telephone systems, French (not verified for Magnetis)
        *("anonyme", "appel anonyme", "numéro anonyme", "masqué", "masquée", "numéro masqué"),
        *("appel masqué", "caché", "numéro caché", "privé", "numéro privé", "appel privé"),
        *("secret", "numéro secret", "inconnu", "inconnue", "numéro inconnu", "appel inconnu"),
        *("indisponible", "numéro indisponible", "non disponible", "non communiqué", "restreint"),
        # how programs write a missing value (not verified for Magnetis)
        *("none", "null", "nil", "nan", "n/a", "na", "undefined", "invalid", "empty", "-1"),
    }
)
"""Received texts that mean "the caller withholds the number". Case, accents and separators do not
matter. Blank texts and texts of zeros mean the same. The plan can add more (`withheld`)."""

SHORT_CODE_DIGITS = range(2, 7)
"""Lengths of French short numbers: 15, 112, 1013, 3xxx, 3xxxx for SMS, 118xxx (ARCEP's numbering
plan). They are services, not persons."""

TERRITORIES: Final = {
    **dict.fromkeys(("262", "263", "269", "639", "692", "693"), "262"),  # Réunion and Mayotte
    **dict.fromkeys(("590", "690", "691"), "590"),  # Guadeloupe
    **dict.fromkeys(("594", "694"), "594"),  # French Guiana
    **dict.fromkeys(("596", "696", "697"), "596"),  # Martinique
}
"""Country code by the first three digits of a national French number. Facts: libphonenumber's
metadata, compared in tests/unit/privacy/test_phone.py. The table is a constant, so that an update
of the metadata never changes the key of a French number."""

LONGEST = 200
"""Characters that are searched for a number."""

_SEPARATORS = str.maketrans(dict.fromkeys(" .-/_()\t\u00a0\u202f\u2009·•–—‑,:"))
_FRENCH = re.compile(r"(?:(?:\+|00)?330?|0|)([1-9][0-9]{2})([0-9]{6})")
_EXPLICIT_FRENCH = re.compile(r"(?:\+|00)330?([1-9][0-9]{2})([0-9]{6})")
_OVERSEAS = re.compile(r"(?:\+|00)?(262|590|594|596)0?([1-9][0-9]{8})")
_SHORT = re.compile(r"(?:\+33)?[0-9]{2,6}")
_URI = re.compile(
    r"\s*(?:\"[^\"]*\"|[^<>\"]*<)?\s*<?\s*(?:tel|sips?|callto)\s*:(?P<user>[^;@>?]*)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_CONTEXT = re.compile(r";\s*phone-context\s*=\s*(\+[0-9]{1,4})(?![0-9.])", re.IGNORECASE)
_EXTENSION = re.compile(
    r"(?<=[0-9])[\s.,;:()/-]*(?:;\s*ext\s*=|(?:ext(?:ension)?|poste|p|x|#|int)[.:\s]*)"
    r"\s*[0-9]{1,7}\s*\)?\s*$",
    re.IGNORECASE,
)
_TRUNK = re.compile(r"\(\s*0\s*\)")
_DECIMALS = re.compile(r"(?<=[0-9]{8})\.0+$")
_LABEL = re.compile(r"^[^0-9+]*")


class PhoneKind(StrEnum):
    """Kind of a received text."""

    NUMBER = "number"
    """A number of a person or company; `e164` is set."""
    WITHHELD = "withheld"
    """No number: the caller withholds it, or the member is empty."""
    SHORT_CODE = "short_code"
    """A number of a service, such as 3949; not a person."""
    UNPARSABLE = "unparsable"
    """Something else. It may contain personal data."""


@dataclass(frozen=True, slots=True)
class Phone:
    """A received phone number."""

    kind: PhoneKind
    e164: str | None = field(default=None, repr=False)
    """`+` and at most 15 digits (ITU-T E.164); None unless `kind` is NUMBER."""


_WITHHELD = Phone(PhoneKind.WITHHELD)
_SHORT_CODE = Phone(PhoneKind.SHORT_CODE)
_UNPARSABLE = Phone(PhoneKind.UNPARSABLE)


class PhoneReader:
    """Reads received phone numbers.

    `region`: two-letter code of the country of numbers without a country code. `withheld`: texts
    that mean a withheld number. `cached`: number of different texts whose result is kept.
    """

    def __init__(
        self,
        region: str = "FR",
        withheld: Iterable[str] = WITHHELD,
        *,
        cached: int = 65_536,
    ) -> None:
        self.region = region
        self._withheld = frozenset(map(_fold, withheld)) - {""}
        self._french = _FRENCH if region == "FR" else _EXPLICIT_FRENCH
        self._read_text = lru_cache(cached)(self._parse) if cached else self._parse

    def read(self, received: object) -> Phone:
        """Return the kind and the E.164 form of a received value. Never raises."""
        if isinstance(received, str):
            return self._read_text(received)
        if received is None:
            return _WITHHELD
        text = as_text(received)
        if text is None or isinstance(received, bool):
            return _UNPARSABLE
        return self._read_text(text)

    def _parse(self, text: str) -> Phone:
        return self._parse_frequent(text.translate(_SEPARATORS)) or self._parse_any(text)

    def _parse_frequent(self, compact: str) -> Phone | None:
        if match := self._french.fullmatch(compact):
            prefix, rest = match.groups()
            return Phone(PhoneKind.NUMBER, f"+{TERRITORIES.get(prefix, '33')}{prefix}{rest}")
        if match := _OVERSEAS.fullmatch(compact):
            return Phone(PhoneKind.NUMBER, f"+{match[1]}{match[2]}")
        return None

    def _parse_any(self, text: str) -> Phone:
        text = plain_text(text[:LONGEST])
        context = ""
        if match := _URI.match(text):
            text = match["user"]
            if given := _CONTEXT.search(match["rest"]):
                context = given[1]
        if self._is_withheld(text):
            return _WITHHELD
        text = _EXTENSION.sub("", _DECIMALS.sub("", text.strip()))
        text = _LABEL.sub("", text)
        if context and not text.startswith("+"):
            text = context + text
        if text.startswith(("+", "00")) and not text.startswith(("+39", "0039")):
            # the trunk prefix is not dialled from abroad, except in Italy
            text = _TRUNK.sub("", text, count=1)
        compact = "".join(each for each in text if each in "0123456789+" or each.isalpha())
        if compact.startswith("00"):
            compact = f"+{compact[2:]}"
        digits = compact.removeprefix("+")
        if not digits.isdecimal() or len(digits) > 20:
            return _UNPARSABLE
        if not digits.strip("0"):
            return _WITHHELD
        if _SHORT.fullmatch(compact):
            return _SHORT_CODE
        return self._parse_frequent(compact) or self._parse_with_library(compact)

    def _is_withheld(self, text: str) -> bool:
        folded = _fold(text)
        return not folded.strip("0") or folded in self._withheld

    def _parse_with_library(self, compact: str) -> Phone:
        # its import takes 50 ms, which commands without phone numbers save
        import phonenumbers as library  # noqa: PLC0415

        try:
            number = library.parse(compact, self.region)
            possible = library.is_possible_number_with_reason(number)
            if possible != library.ValidationResult.IS_POSSIBLE:
                if compact.startswith("+"):
                    return _UNPARSABLE
                # an international number whose `+` was lost
                number = library.parse(f"+{compact}", None)
                if not library.is_valid_number(number):
                    return _UNPARSABLE
        except library.NumberParseException:
            return _UNPARSABLE
        return Phone(
            PhoneKind.NUMBER, library.format_number(number, library.PhoneNumberFormat.E164)
        )


@lru_cache(10_000)
def _fold(text: str) -> str:
    """Return letters and digits in lower case without accents; `-1` stays as it is."""
    decomposed = unicodedata.normalize("NFKD", text).casefold().strip()
    if decomposed == "-1":
        return decomposed
    return "".join(filter(str.isalnum, decomposed))
