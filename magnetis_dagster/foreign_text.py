"""Find phone numbers and e-mail addresses in foreign text, in any spelling, and mask them.

    mask("tel:+33(0)6·12_34/56 78, jean%40exemple.fr", 8, "***", "***")  # "tel:***, ***"

Foreign text is everything that this program did not write: messages of a server, titles, ids, names
of members. Each such text is masked here before it is displayed or logged, so that every place
recognises the same spellings. All functions need linear time.
"""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

Span = tuple[int, int]
"""First position, and the position after the last one."""

_MOST_CACHED = 10_000
"""Characters whose plain spelling is kept: a hostile text may contain a million different ones."""
_INVISIBLE = frozenset({"Cf", "Mn", "Me"})
"""Categories of characters without a width: joiners, directions, combining accents, keycaps."""
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")
"""Letters that are displayed as nothing."""

_BEGINS_ESCAPE = re.compile(r"[%&\\(\[{]")
_PERCENT = re.compile(r"%(?:25){0,4}([0-9A-Fa-f]{2})")
"""An encoded byte, also if it was encoded several times: %2B, %252B."""
_ESCAPE = re.compile(
    r"(?P<percent>(?:%(?:25){0,4}[0-9a-f]{2})+)"
    r"|&(?:amp;){0,4}(?P<entity>\#[0-9]{1,7}|\#x[0-9a-f]{1,6}|[a-z]{2,31});"
    r"|\\u(?P<unicode>[0-9a-f]{4})"
    r"|(?P<at>\s?[(\[{]\s?(?:at|arobase)\s?[)\]}]\s?)"
    r"|(?P<dot>\s?[(\[{]\s?(?:dot|point)\s?[)\]}]\s?)",
    re.IGNORECASE,
)

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


class _PlainCharacters(dict[int, str]):
    """Maps code points to their plain spelling, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        plain = _plain_character(chr(code))
        if len(self) < _MOST_CACHED:
            self[code] = plain
        return plain


_PLAIN = _PlainCharacters()


def plain_text(text: str) -> str:
    """Return the text with ASCII digits and signs, decoded and without invisible characters.

    Decodes percent-encoding, HTML entities, JSON escapes, and `(at)` and `(dot)` in addresses.
    """
    if _BEGINS_ESCAPE.search(text):
        text = _ESCAPE.sub(_decode, text)
    return text if text.isascii() else text.translate(_PLAIN)


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
            if domain := domain or _SPACED_DOMAIN.match(plain, at + 1):
                end = domain.end()
                yield start, end
        at = plain.find("@", max(at + 1, end))


def mask(text: str, fewest_digits: int, number: str, address: str) -> str:
    """Return the text with `number` and `address` in place of each number and address.

    A run of at least `fewest_digits` digits counts as a number, with all separators between them,
    unless it consists of dates and times or belongs to a UUID.
    """
    plain, starts, ends = _with_positions(text)
    parts, position = [], 0
    for (start, end), shown in _spans(plain, fewest_digits, number, address):
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


def _with_positions(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """Return the plain text, and where each of its characters starts and ends in `text`."""
    if text.isascii() and not (_BEGINS_ESCAPE.search(text) and _ESCAPE.search(text)):
        return text, range(len(text)), range(1, len(text) + 1)
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for decoded, start, end in _decoded(text):
        plain = _PLAIN[ord(decoded)]
        parts.append(plain)
        starts += [start] * len(plain)
        ends += [end] * len(plain)
    return "".join(parts), starts, ends


def _decoded(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the characters that a text contains or encodes, with their positions in it."""
    position = 0
    for escape in _ESCAPE.finditer(text):
        for number in range(position, escape.start()):
            yield text[number], number, number + 1
        if escape["percent"]:
            yield from _decoded_bytes(escape)
        else:
            for character in _decode(escape):
                yield character, *escape.span()
        position = escape.end()
    for number in range(position, len(text)):
        yield text[number], number, number + 1


def _decoded_bytes(escape: re.Match[str]) -> Iterator[tuple[str, int, int]]:
    encoded = list(_PERCENT.finditer(escape.string, *escape.span()))
    first = 0
    for character in _decode(escape):
        last = first + len(character.encode(errors="surrogateescape"))
        yield character, encoded[first].start(), encoded[last - 1].end()
        first = last


def _decode(escape: re.Match[str]) -> str:
    """Return what an escape encodes; bytes that are not UTF-8 become lone surrogates."""
    if escape["percent"]:
        encoded = bytes(int(each, 16) for each in _PERCENT.findall(escape["percent"]))
        return encoded.decode(errors="surrogateescape")
    if escape["unicode"]:
        return chr(int(escape["unicode"], 16))
    if escape["entity"]:
        return html.unescape(f"&{escape['entity']};")
    return "@" if escape["at"] else "."


def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in _INVISIBLE or character in _FILLERS:
        return ""
    if category == "Cs":
        return "\ufffd"
    plain = unicodedata.normalize("NFKC", character).replace("➕", "+")
    return "".join(str(unicodedata.digit(each, each)) for each in plain)
