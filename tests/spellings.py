"""Spellings of phone numbers and e-mail addresses, and the search for them in any output."""

import html
import random
import re
import unicodedata
from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote

from hypothesis import strategies as st

NATIONAL = st.from_regex(r"[1-79][0-9]{8}", fullmatch=True)
"""A French number without its first 0."""

ZERO_WIDTH = ("\u200b", "\u200d", "\u2060", "\u00ad", "\ufeff")
SEPARATORS = (
    *("", " ", ".", "-", "/", "_", ":", ",", "\u00b7", "\u2022", "\u2013", "\u2014", "\u2011"),
    *("\u00a0", "\u202f", "\u2009", " - ", " \u2013 ", " / ", *ZERO_WIDTH),
)
"""Also a middle dot, dashes, and spaces that are thin or do not break."""
PREFIXES = ("0", "+33", "0033", "+33 (0)", "00 33 (0)", "(+33) ", "+33-", "+33(0)")
GROUPS = ((1, 2, 2, 2, 2), (3, 3, 3), (9,), (1, 4, 4), (3, 2, 4))


def _script(zero: str) -> dict[int, str]:
    return str.maketrans({str(digit): chr(ord(zero) + digit) for digit in range(10)})


_FULL_WIDTH = _script("\uff10") | str.maketrans("+@", "\uff0b\uff20")
SCRIPTS = (
    *({}, {}, {}, _FULL_WIDTH, _script("\u0660"), _script("\u06f0"), _script("\u0966")),
    *(_script("\U0001d7ce"), str.maketrans("0123456789+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺")),
    str.maketrans("0123456789", "⓪①②③④⑤⑥⑦⑧⑨"),
)
"""Digits of ASCII, full width, Arabic, Persian, Hindi, mathematics, superscripts and circles."""

ENCODINGS: tuple[Callable[[str], str], ...] = (
    *(str,) * 12,
    quote,
    lambda text: quote(quote(text)),
    lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    lambda text: re.sub(r"[^\w]", lambda match: f"&#x{ord(match[0]):x};", text),
    lambda text: html.escape(text).replace("\u00a0", "&nbsp;").replace("\u2013", "&ndash;"),
    lambda text: re.sub(r"[^\w ]", lambda match: f"\\u{ord(match[0]):04x}", text),
)
"""None, of URLs (once and twice), of HTML and of JSON."""


@st.composite
def spellings(draw: st.DrawFn, national: str) -> str:
    """Return a spelling with the same separator between all groups, as people write numbers."""
    separator = draw(st.sampled_from(SEPARATORS))
    prefix = draw(st.sampled_from(PREFIXES))
    groups = draw(st.sampled_from(GROUPS))
    extension = draw(st.sampled_from(["", "", "", " poste 12", " x3", "x1"]))
    text = _spell(national, prefix, groups, [separator] * len(groups)) + extension
    return text.translate(draw(st.sampled_from(SCRIPTS)))


def _spell(national: str, prefix: str, groups: tuple[int, ...], separators: list[str]) -> str:
    parts, start = [], 0
    for length in groups:
        parts.append(national[start : start + length])
        start += length
    between = "" if prefix == "0" or prefix.endswith((")", " ", "-")) else separators[0]
    pairs = zip(parts, [*separators[1 : len(parts)], ""], strict=True)
    return prefix + between + "".join(part + separator for part, separator in pairs)


FICTION = ("19900", "26191", "35301", "46571", "53649", "63998")
"""Beginnings of French numbers that ARCEP reserves for fiction, without the first 0."""
LOCAL_PART = "zquux"
"""Part of every generated address."""


def spelled_numbers(number: int, seed: int = 1) -> list[tuple[str, str]]:
    """Return French numbers without their first 0, each with a random spelling."""
    pick = random.Random(seed)
    found = []
    for _ in range(number):
        national = f"{pick.choice(FICTION)}{pick.randrange(10_000):04}"
        groups = pick.choice(GROUPS)
        separators = [pick.choice(SEPARATORS)] * len(groups)
        if pick.random() < 0.2:
            separators = pick.choices(SEPARATORS, k=len(groups))
        text = _spell(national, pick.choice(PREFIXES), groups, separators)
        if pick.random() < 0.05:
            text = f"{text[:-2]}({text[-2:]})"
        if pick.random() < 0.1:
            text = f"tel:{text}"
        text = text.translate(pick.choice(SCRIPTS))
        found.append((national, pick.choice(ENCODINGS)(text)))
    return found


def spelled_addresses(number: int, seed: int = 2) -> list[str]:
    """Return e-mail addresses in random spellings; each contains LOCAL_PART."""
    pick = random.Random(seed)
    found = []
    for _ in range(number):
        local = pick.choice(
            (
                f"jean.{LOCAL_PART}",
                f"{LOCAL_PART}+{pick.randrange(100)}",
                f'"jean {LOCAL_PART}"',
                f"o'{LOCAL_PART}",
                f"{LOCAL_PART}(home)",
                f"J\u00c9AN-{LOCAL_PART.upper()}",
            )
        )
        at = pick.choice(("@", "@", "\uff20", "\ufe6b", " @ ", "(at)", " [at] ", "\u200b@", "@ "))
        domain = pick.choice(("exemple.fr", "mail.exemple.co", "exemple(dot)fr", "ex\u00e9mple.fr"))
        found.append(pick.choice(ENCODINGS)(local + at + domain))
    return found


def plain(output: str) -> str:
    """Return the output decoded and in ASCII digits, without invisible characters.

    Independent of the code that masks.
    """
    for _ in range(3):
        output = html.unescape(unquote(output))
    output = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), output)
    output = unicodedata.normalize("NFKC", output)
    return "".join(
        str(unicodedata.digit(each, each))
        for each in output
        if unicodedata.category(each) not in {"Cf", "Mn", "Me"}
    )


def persons_in(output: str, nationals: Iterable[str]) -> set[str]:
    """Return the numbers and the addresses that an output contains in any spelling.

    `nationals`: the numbers, with nine digits each.
    """
    wanted = frozenset(nationals)
    text = plain(output)
    found = {LOCAL_PART} if LOCAL_PART in text.casefold() else set()
    for run in re.findall(r"[0-9](?:[\W_]{0,20}[0-9]){8,}", text):
        digits = re.sub(r"[^0-9]", "", run)
        found.update(
            digits[start : start + 9]
            for start in range(len(digits) - 8)
            if digits[start : start + 9] in wanted
        )
    return found
