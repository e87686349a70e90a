"""Mask secrets and personal data in foreign text.

A server's message may echo the key, a phone number or an e-mail address.
"""

import re

_EMAIL = re.compile(r"[^\s@<>\"'(]{1,200}@[^\s@<>\"')]{1,200}")
_DIGITS = re.compile(r"\+?\d(?:[\s.\-/()]{0,2}\d){5,}")
"""Six digits or more, also in groups: +33 6 12 34 56 78."""
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_LONGEST_READ = 4_000
"""Characters that are searched, so that a hostile megabyte does not cost a minute of matching."""


def scrub(text: str, key: str, longest: int = 200) -> str:
    """Return `text` on one line with secrets and personal data masked.

    Masks `key`, e-mail addresses and runs of six digits or more, then truncates to `longest`
    characters. Masking comes first, so that no half of a key survives at the end.
    """
    shown = text[: _LONGEST_READ + len(key)].replace(key, "[key]")[:_LONGEST_READ]
    shown = _UNPRINTABLE.sub(" ", shown).strip()
    shown = _DIGITS.sub("[digits]", _EMAIL.sub("[e-mail]", shown))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
