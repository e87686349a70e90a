"""Parse and write JSON without losing a digit, and check it against jsonb.

orjson does nearly all of it. But it rounds numbers beyond 64 bits or 17 digits and rejects deep
nesting. A cheap test of the bytes finds pages that may contain such numbers. Only those are parsed
by the json module.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from operator import itemgetter
from typing import Any

import orjson

MOST_LEVELS = 254
"""Levels that orjson writes. PostgreSQL stores thousands; not every reader of its tables can."""
TOO_DEEP = f"nested more than {MOST_LEVELS} levels"
TOO_MANY_DIGITS = "a number with more digits than PostgreSQL stores"

_MOST_DIGITS = 131_072
"""PostgreSQL's limit before the decimal point; psycopg's limit for all digits of a number."""
_MOST_DIGITS_AFTER_POINT = 16_383
_ZEROS_OF_EXPONENT = 1_000
"""PostgreSQL expands exponents: 64 MiB full of `1e131071` would become a row of a terabyte."""

_DEEPEST_PARSED = MOST_LEVELS + 50
"""Levels of a parsed page: below the recursion limits of both parsers, above a valid row's."""
_UNPARSED = "\0"
"""Name of the only member of an object for unparsed text. No received name contains a NUL."""

_SHAPES = bytes.maketrans(b"0123456789.eE,]} \t\r\n", b"0" * 11 + b"ee" + b"," * 7)
"""Translates a body so that numbers of the same shape look the same."""
_LONG_RUN = b"0" * 16
_TINY_BEGIN = b"0e-000"
_LONG_NUMBER = re.compile(rb"[:,\[]\s*(?:[0-9]{20}|-[0-9]{19}|-?(?=[0-9.]{16})[0-9]+[.eE])")
"""A float keeps 15 digits of any number; 64 bits keep every positive integer of 19 digits."""
_TINY_NUMBER = re.compile(_TINY_BEGIN + rb"0*,")
"""Matches in a translated body. Below 1e-300 a float loses digits; below 1e-323 it is 0."""

_OPTION = orjson.OPT_PASSTHROUGH_DATACLASS
"""orjson passes an Unparsed to `_number`, which rejects it."""
_NUL = b"\\u0000"
_UTF8_REPLACEMENT = "\ufffd".encode()
_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<unstorable>\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2}))"
    r"|\\.",
    re.DOTALL,
)
STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
"""A string, closed or truncated by the end of the text; matched in linear time."""
_BRACKET = re.compile(rf"{STRING}|[\[{{]|[\]}}]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A received value that no row can contain: nested too deeply, or a number out of range."""

    text: str
    """Its JSON text."""


class BrokenJson(ValueError):
    """The text is not JSON. The message never quotes it."""


def load_json(body: bytes) -> tuple[Any, int]:
    """Return the JSON value in a UTF-8 `body`, and the number of replaced characters.

    Characters that PostgreSQL cannot store (NUL, lone surrogates, undecodable bytes) become U+FFFD.
    An integer beyond 64 bits, or a number that a float would round, becomes a Decimal.

    Raises: BrokenJson if the text is not JSON.
    """
    if not (b"\\" in body and _NUL in body) and not _may_be_rounded(body):
        try:
            return orjson.loads(body), 0
        except orjson.JSONDecodeError:
            pass
    text = body.decode("utf-8-sig", errors="replace")
    undecodable = text.count("\ufffd") - body.count(_UTF8_REPLACEMENT)
    text, replaced = _storable(text)
    try:
        try:
            content = _parse(text)
        except RecursionError:
            content = _parse(
                _without_depths(text),
                lambda members: Unparsed(members[_UNPARSED]) if _UNPARSED in members else members,
            )
    except json.JSONDecodeError as error:
        raise BrokenJson(
            f"truncated or invalid JSON at character {error.pos} of {len(text)}"
        ) from None
    except RecursionError:
        raise BrokenJson("JSON nested too deeply") from None
    return content, replaced + undecodable


def load_stored(text: bytes) -> Any:
    """Return the value of JSON text from PostgreSQL, with numbers as in `load_json`."""
    return load_json(text)[0]


def dump_json(value: object, *, sort: bool = False) -> str:
    """Return JSON text of any depth; numbers keep every digit.

    `sort` orders the members of objects by name.
    """
    return dump_jsonb(value, sort=sort)[0]


def dump_jsonb(value: object, *, sort: bool = False) -> tuple[str, str | None]:
    """Return JSON text, and the reason if it cannot be stored as jsonb.

    The limits are those of PostgreSQL or of readers of its tables.
    """
    option = _OPTION | orjson.OPT_SORT_KEYS * sort
    try:
        return orjson.dumps(value, default=_number, option=option).decode(), None
    except TypeError:
        return _write(value, sort=sort)


def dump_rows(rows: Sequence[object]) -> tuple[list[str], dict[int, str]]:
    """Return the JSON text of each row, and `dump_jsonb`'s reasons by row number."""
    try:
        return [orjson.dumps(row, default=_number, option=_OPTION).decode() for row in rows], {}
    except TypeError:
        texts, reasons = zip(*map(dump_jsonb, rows), strict=True)
        return list(texts), {number: reason for number, reason in enumerate(reasons) if reason}


def fits_numeric(number: Decimal) -> bool:
    """Return whether PostgreSQL can store `number` as numeric with all its digits.

    The same limits apply to numbers in jsonb.
    """
    # avoid the tuple of a number with too many digits
    if not number.is_finite() or len(str(number)) > _MOST_DIGITS + 20:
        return False
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return (
        -_ZEROS_OF_EXPONENT <= number.adjusted() < _MOST_DIGITS + min(exponent, 0)
        and -_MOST_DIGITS_AFTER_POINT <= exponent <= _ZEROS_OF_EXPONENT
    )


def _may_be_rounded(body: bytes) -> bool:
    shapes = body.translate(_SHAPES)
    # A search from the end is twice as fast for these patterns.
    if shapes.rfind(_LONG_RUN) >= 0 and _LONG_NUMBER.search(body):
        return True
    at = len(shapes)
    while (at := shapes.rfind(_TINY_BEGIN, 0, at)) >= 0:
        if _TINY_NUMBER.match(shapes, at):
            return True
    return False


def _storable(text: str) -> tuple[str, int]:
    """Replace what PostgreSQL cannot store; return text and number of replacements."""
    replaced = text.count("\0")
    text = text.replace("\0", "\ufffd")

    def storable(escape: re.Match[str]) -> str:
        nonlocal replaced
        if escape["unstorable"] is None:
            return escape[0]
        replaced += 1
        return "\\ufffd"

    return _ESCAPE.sub(storable, text) if _SUSPECT.search(text) else text, replaced


def _parse(text: str, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    return json.loads(
        text,
        strict=False,
        parse_int=_integer,
        parse_float=_decimal,
        parse_constant=lambda _: None,
        object_hook=object_hook,
    )


def _integer(digits: str) -> object:
    if len(digits) < 19:
        return int(digits)
    number = Decimal(digits)
    return int(number) if -(2**63) <= number < 2**64 else number


def _decimal(digits: str) -> object:
    number = float(digits)
    if len(digits) < 16 and "e" not in digits and "E" not in digits:
        return number
    try:
        exact = Decimal(digits)
    except InvalidOperation:
        return Unparsed(digits)
    return number if math.isfinite(number) and Decimal(repr(number)) == exact else exact


def _without_depths(text: str) -> str:
    """Replace values that are too deep to be parsed by objects with _UNPARSED."""
    parts: list[str] = []
    level = start = end = 0
    for token in _BRACKET.finditer(text):
        match token[0]:
            case "[" | "{":
                level += 1
                if level == _DEEPEST_PARSED + 1:
                    start = token.start()
            case "]" | "}":
                level -= 1
                if level == _DEEPEST_PARSED:
                    parts += [text[end:start], json.dumps({_UNPARSED: text[start : token.end()]})]
                    end = token.end()
    return "".join([*parts, text[end:]])


def _number(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal) and fits_numeric(value):
        return orjson.Fragment(str(value))
    raise TypeError


_END = object()
"""Follows the last member of an object or list that is being written."""


def _write(value: Any, *, sort: bool = False) -> tuple[str, str | None]:
    """Do the same as `dump_jsonb` for any value, without recursion."""
    parts: list[str] = []
    reason: str | None = None
    waiting = [("", value, 1)]
    while waiting:
        before, value, level = waiting.pop()
        parts.append(before)
        match value:
            case _ if value is _END:
                pass
            case Unparsed(text):
                parts.append(text)
                reason = TOO_DEEP if text[0] in "[{" else TOO_MANY_DIGITS
            case dict() | list():
                if level > MOST_LEVELS:
                    reason = TOO_DEEP
                if isinstance(value, dict):
                    items = sorted(value.items(), key=itemgetter(0)) if sort else value.items()
                    brackets, members = "{}", [(f"{_text(name)}:", one) for name, one in items]
                else:
                    brackets, members = "[]", [("", one) for one in value]
                parts.append(brackets[0])
                waiting.append((brackets[1], _END, level))
                waiting += [(f",{name}", one, level + 1) for name, one in reversed(members[1:])]
                waiting += [(name, one, level + 1) for name, one in members[:1]]
            case Decimal():
                parts.append(str(value) if value.is_finite() else "null")
                reason = reason if fits_numeric(value) else TOO_MANY_DIGITS
            case str():
                parts.append(_text(value))
            case int() if not -(2**63) <= value < 2**64:
                waiting.append(("", Decimal(value), level))
            case _:
                parts.append(orjson.dumps(value).decode())
    return "".join(parts), reason


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
