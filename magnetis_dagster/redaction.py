"""Mask secrets and personal data in messages of a server.

Such a message may echo the key, a phone number or an e-mail address.
"""

from magnetis_dagster.foreign_text import display

_LONGEST_SEARCHED = 4_000
"""Characters of a message that are read."""
_FEWEST_DIGITS = 6
"""Shorter runs, such as numbers of pages and rows, explain an error."""


def scrub(text: str, key: str = "", longest: int = 200) -> str:
    """Return `text` on one line with secrets and personal data masked.

    Masks `key`, e-mail addresses and numbers of six digits or more, then truncates to `longest`
    characters. Masking comes first, so that no half of a key survives at the end.
    """
    head = text[: _LONGEST_SEARCHED + len(key)]
    if key:
        head = head.replace(key, "[key]")
    return display(head, _LONGEST_SEARCHED, longest, (_FEWEST_DIGITS, "[digits]", "[e-mail]"))
