"""Making foreign text fit to be shown: the words of a server may echo the key, a phone number or an e-mail address."""

import re

_EMAIL = re.compile(r"[^\s@<>\"'(]{1,200}@[^\s@<>\"')]{1,200}")
_DIGITS = re.compile(r"\+?\d(?:[\s.\-/()]{0,2}\d){5,}")
"""Six digits or more, also when written in groups: +33 6 12 34 56 78."""
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_LONGEST_READ = 4_000
"""Characters looked at; keeps a hostile megabyte from costing a minute of pattern matching."""


def scrub(text: str, key: str, longest: int = 200) -> str:
    """Return `text` on one line with `key`, e-mail addresses and runs of six digits or more masked, cut at `longest` characters.

    Masking comes before cutting, so that no half of a key survives at the end.
    """
    shown = text[: _LONGEST_READ + len(key)].replace(key, "[key]")[:_LONGEST_READ]
    shown = _UNPRINTABLE.sub(" ", shown).strip()
    shown = _DIGITS.sub("[digits]", _EMAIL.sub("[e-mail]", shown))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
