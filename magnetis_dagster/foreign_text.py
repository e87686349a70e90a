"""Find phone numbers and e-mail addresses in foreign text, in any spelling, and mask them.

    mask("tel:+33(0)6·12_34/56 78, jean%40exemple.fr", 8, "***", "***")  # "tel:***, ***"

Foreign text is everything that this program did not write: messages of a server, titles, ids, names
of members. Each such text is masked here before it is displayed or logged, so that every place
recognises the same spellings. All functions need linear time.
"""

import re
from collections.abc import Iterator
from functools import cache

from magnetis_dagster.plain_text import plain_text, with_positions

Span = tuple[int, int]
"""First position, and the position after the last one."""

_LONGEST_LOCAL_PART = 200
_ENDS_LOCAL_PART = frozenset("@<>\"',;")
_DOMAIN = re.compile(r"[^\s@<>\"'(),;]{1,200}")
_SPACED_DOMAIN = re.compile(r"\s{0,2}[\w-]{1,63}(?:\s?\.\s?[\w-]{1,63}){1,10}")
"""A domain beside an @ with spaces. It needs a point: `2 tickets @ 5 euros` is no address."""

_UUID = re.compile(
    r"(?<![0-9a-z])(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{64})"
    r"(?![0-9a-z])",
    re.IGNORECASE,
)
"""A UUID or a hexadecimal digest, if it contains a letter. Its digits are not a phone number."""
_HARMLESS = re.compile(
    # 2026-11-28, 28/11/2026, 11/2026, 2026-11, 2025-2026; no year alone: 02/2012/1999 is a number
    r"(?:19|20)[0-9]{2}([-/.])(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[1-9]|[12][0-9]|3[01])([-/.])(?:0[1-9]|1[0-2])\2(?:19|20)[0-9]{2}"
    r"|(?:0[1-9]|1[0-2])/(?:19|20)[0-9]{2}"
    r"|(?:19|20)[0-9]{2}(?:-(?:0[1-9]|1[0-2])(?![0-9])|\s?[-/–]\s?(?:19|20)[0-9]{2})"
    # 10:30, 10:30:15.123456 +01:00
    r"|(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:[.,][0-9]{1,6})?)?"
    r"(?:\s?[+-](?:0[0-9]|1[0-4]):?[0-5][0-9])?"
    r"|127\.0\.0\.1(?::[0-9]{1,5})?(?![0-9])"
)
_BETWEEN_HARMLESS = re.compile(r"[\s,;/|()\[\]–—-]{1,4}")

_SEPARATORS = r"[\W_]{0,5}"
"""What may stand between two digits of a number in plain text: everything but letters."""
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_LONGEST_ADDRESS = 254
"""Characters, according to RFC 3696 (erratum 1690)."""


@cache
def number_runs(fewest_digits: int) -> re.Pattern[str]:
    """Return the pattern of runs of digits in plain text, with any separators between them."""
    return re.compile(rf"(?:\+[\W_]{{0,2}})?[0-9](?:{_SEPARATORS}[0-9]){{{fewest_digits - 1},}}")


def addresses_in(plain: str) -> Iterator[Span]:
    """Yield the spans of the e-mail addresses in a plain text."""
    at, end = plain.find("@"), 0
    while at >= 0:
        start, spaced = _start_of_local_part(plain, at, end)
        if start is not None:
            domain = None if spaced else _DOMAIN.match(plain, at + 1)
            domain = domain or _SPACED_DOMAIN.match(plain, at + 1)
            if domain or not spaced:
                # a server may have cut the domain off
                end = domain.end() if domain else at + 1
                yield start, end
        at = plain.find("@", max(at + 1, end))


def mask(text: str, fewest_digits: int, number: str, address: str) -> str:
    """Return the text with `number` and `address` in place of each number and address.

    A run of at least `fewest_digits` digits counts as a number, with all separators between them,
    unless it consists of dates and times or belongs to a UUID.
    """
    spans = _spans(plain_text(text), fewest_digits, number, address)
    if not spans:
        return text
    _, starts, ends = with_positions(text)
    parts, position = [], 0
    for (start, end), shown in spans:
        parts += [text[position : starts[start]], shown]
        position = ends[end - 1]
    return "".join([*parts, text[position:]])


def is_personal(text: str, fewest_digits: int) -> bool:
    """Return whether a text contains a number of at least `fewest_digits` digits or an address."""
    return bool(_spans(plain_text(text), fewest_digits, "", ""))


def display(text: str, searched: int, longest: int, masked: tuple[int, str, str]) -> str:
    """Return the text on one line of at most `longest` characters, masked.

    `searched`: characters that are read at most, so that a hostile megabyte costs nothing.
    `masked`: the further arguments of `mask`.
    """
    line = mask(_UNPRINTABLE.sub(" ", text[:searched]).strip(), *masked)
    if len(text) > searched:
        line = _without_end(line)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _without_end(line: str) -> str:
    """Remove the last digits and the last word, which may be the first half of something."""
    end = len(line)
    while end and not line[end - 1].isalpha():
        end -= 1
    limit = max(0, end - _LONGEST_ADDRESS)
    while end > limit and not line[end - 1].isspace():
        end -= 1
    return line[:end].rstrip()


def _spans(plain: str, fewest_digits: int, number: str, address: str) -> list[tuple[Span, str]]:
    """Return the spans to mask, in order and without overlaps, and what replaces each."""
    found = [(span, address) for span in addresses_in(plain)] if "@" in plain else []
    searched = _UUID.sub(_without_digits, plain)
    found += [
        (run.span(), number)
        for run in number_runs(fewest_digits).finditer(searched)
        if not _is_harmless(run[0])
    ]
    merged: list[tuple[Span, str]] = []
    for (start, end), shown in sorted(found):
        if merged and start < merged[-1][0][1]:
            (first, last), first_shown = merged[-1]
            merged[-1] = ((first, max(last, end)), first_shown)
        else:
            merged.append(((start, end), shown))
    return merged


def _without_digits(token: re.Match[str]) -> str:
    # a token of digits only may be anything
    return token[0] if token[0].replace("-", "").isdecimal() else "x" * len(token[0])


def _is_harmless(run: str) -> bool:
    """Return whether a run consists of dates and times only, or is the address of this machine."""
    position = 0
    while match := _HARMLESS.match(run, position):
        if match.end() == len(run):
            return True
        between = _BETWEEN_HARMLESS.match(run, match.end())
        if between is None:
            return False
        position = between.end()
    return False


def _start_of_local_part(plain: str, at: int, least: int) -> tuple[int | None, bool]:
    """Return where the address with this @ begins, and whether a space precedes the @."""
    end = at
    while end > max(least, at - 2) and plain[end - 1].isspace():
        end -= 1
    spaced = end < at
    start, least = end, max(least, end - _LONGEST_LOCAL_PART)
    if start > least and plain[start - 1] == '"':
        # RFC 5321 allows "jean dupont"@exemple.fr
        opening = plain.rfind('"', least, start - 1)
        return (None, spaced) if opening < 0 else (opening, spaced)
    brackets = 0
    while start > least:
        character = plain[start - 1]
        if character == "'":
            # an apostrophe in a name, not a quotation mark
            if start == end or not (
                plain[start].isalnum() and plain[start - 2 : start - 1].isalnum()
            ):
                break
        elif character == "(":
            if not brackets:
                break
            brackets -= 1
        elif character in _ENDS_LOCAL_PART or character.isspace():
            break
        brackets += character == ")"
        start -= 1
    return (start if start < end else None), spaced
