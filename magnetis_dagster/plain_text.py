"""Write foreign text plainly: ASCII digits and signs, decoded, without invisible characters.

    plain_text("%2B33&nbsp;6%2012")  # "+33 6 12"

Whoever searches foreign text for numbers, addresses or names searches its plain text.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

_MOST_CACHED = 10_000
"""Characters whose plain spelling is kept: a hostile text may contain a million different ones."""
_INVISIBLE = frozenset({"Cf", "Mn", "Me"})
"""Categories of characters without a width: joiners, directions, combining accents, keycaps."""
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")
"""Letters that are displayed as nothing."""

_BEGINS_ESCAPE = re.compile(r"[%&\\]")
_ESCAPE = re.compile(
    r"(?P<percent>(?:%[0-9a-f]{2})+)"
    r"|&(?P<entity>\#[0-9]{1,7}|\#x[0-9a-f]{1,6}|[a-z]{2,31});"
    r"|\\u(?P<unicode>[0-9a-f]{4})",
    re.IGNORECASE,
)
"""An encoded byte or character of a URL, of HTML or of JSON."""
_MOST_ENCODINGS = 3
"""Encodings of one text that are undone, such as a URL in JSON."""
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_SPELLED_SIGN = re.compile(
    r"\s?[(\[{]\s?(?:(?P<at>at|arobase)|dot|point)\s?[)\]}]\s?", re.IGNORECASE
)
"""A sign of an address as a word in brackets: jean (at) exemple (dot) fr."""


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

    Undoes the encodings of URLs, HTML and JSON, and replaces `(at)` and `(dot)`.
    """
    for _ in range(_MOST_ENCODINGS):
        text = _with_plain_characters(text)
        if not _BEGINS_ESCAPE.search(text):
            break
        text = _ESCAPE.sub(_decode, text)
    return _SPELLED_SIGN.sub(_sign, _with_plain_characters(text))


def _with_plain_characters(text: str) -> str:
    return text if text.isascii() else text.translate(_PLAIN)


def with_positions(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """Return the plain text, and where each of its characters starts and ends in `text`."""
    starts: Sequence[int] = range(len(text))
    ends: Sequence[int] = range(1, len(text) + 1)
    for _ in range(_MOST_ENCODINGS):
        text, starts, ends = _replaced(_BEYOND_ASCII, _plain_parts, text, starts, ends)
        if not _BEGINS_ESCAPE.search(text):
            break
        text, starts, ends = _replaced(_ESCAPE, _decoded_parts, text, starts, ends)
    text, starts, ends = _replaced(_BEYOND_ASCII, _plain_parts, text, starts, ends)
    return _replaced(_SPELLED_SIGN, _sign_parts, text, starts, ends)


def _replaced(
    pattern: re.Pattern[str],
    parts_of: Callable[[re.Match[str]], Iterable[tuple[str, int, int]]],
    text: str,
    starts: Sequence[int],
    ends: Sequence[int],
) -> tuple[str, Sequence[int], Sequence[int]]:
    """Replace the matches by their parts, which consist of a text, its start and its end."""
    position = 0
    parts: list[str] = []
    new_starts: list[int] = []
    new_ends: list[int] = []
    for match in pattern.finditer(text):
        parts.append(text[position : match.start()])
        new_starts += starts[position : match.start()]
        new_ends += ends[position : match.start()]
        for part, start, end in parts_of(match):
            parts.append(part)
            new_starts += [starts[start]] * len(part)
            new_ends += [ends[end - 1]] * len(part)
        position = match.end()
    if not position:
        return text, starts, ends
    parts.append(text[position:])
    return "".join(parts), [*new_starts, *starts[position:]], [*new_ends, *ends[position:]]


def _plain_parts(match: re.Match[str]) -> Iterable[tuple[str, int, int]]:
    first, plain = match.start(), [_PLAIN[ord(character)] for character in match[0]]
    return [(each, first + place, first + place + 1) for place, each in enumerate(plain)]


def _sign_parts(match: re.Match[str]) -> Iterable[tuple[str, int, int]]:
    return [(_sign(match), *match.span())]


def _decoded_parts(escape: re.Match[str]) -> Iterable[tuple[str, int, int]]:
    if not escape["percent"]:
        return [(_decode(escape), *escape.span())]
    parts, start = [], escape.start()
    for character in _decode(escape):
        # each byte takes three characters
        end = start + 3 * len(character.encode(errors="surrogateescape"))
        parts.append((character, start, end))
        start = end
    return parts


def _decode(escape: re.Match[str]) -> str:
    """Return what an escape encodes; bytes that are not UTF-8 become lone surrogates."""
    if escape["percent"]:
        return bytes.fromhex(escape["percent"].replace("%", "")).decode(errors="surrogateescape")
    if escape["unicode"]:
        return chr(int(escape["unicode"], 16))
    return html.unescape(f"&{escape['entity']};")


def _sign(match: re.Match[str]) -> str:
    return "@" if match["at"] else "."


def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in _INVISIBLE or character in _FILLERS:
        return ""
    if category == "Cs":
        return "\ufffd"
    plain = unicodedata.normalize("NFKC", character).replace("➕", "+")
    return "".join(str(unicodedata.digit(each, each)) for each in plain)
