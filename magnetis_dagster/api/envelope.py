"""Reading the JSON envelope `data`, `links`, `meta` as tolerantly as the unknowns of the API ask. No HTTP here.

What PostgreSQL cannot store (NUL, lone surrogates, undecodable bytes) becomes U+FFFD and is counted.
"""

import json
import re
from typing import Any

import orjson

from magnetis_dagster.api.contract import Page

_REMAINING = ("remaining", "calls_remaining", "remaining_calls", "quota_remaining", "remaining_today")
_NUL = b"\\u0000"
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UTF8_REPLACEMENT = "\ufffd".encode()


class EnvelopeError(ValueError):
    """The body is not a usable envelope. The text says why in a few words and never quotes the body."""


def read_envelope(body: bytes, limit: int) -> Page:
    """Return the page in `body`, asked with `limit` rows. Raises EnvelopeError.

    A bare array is one page, unless it holds `limit` rows or more: then nothing says whether it is the last.
    An integer beyond 64 bits arrives as text, so that an id keeps every digit and the row can be stored.
    """
    content, replaced = _decode(body)
    if isinstance(content, list):
        whole = len(content) < limit
        return Page(content, None, 1 if whole else None, False if whole else None, len(body), None, replaced)
    if not isinstance(content, dict):
        raise EnvelopeError(f"a JSON {type(content).__name__} instead of an object with `data`")
    # The older Laravel paginator writes the members of `meta` and `next_page_url` beside `data`.
    meta = content["meta"] if isinstance(content.get("meta"), dict) else content
    links = content["links"] if isinstance(content.get("links"), dict) else {}
    following = links["next"] if "next" in links else content.get("next_page_url", ...)
    total = _whole_number(meta.get("total"))
    return Page(
        rows=_rows(content, total),
        total=total,
        last_page=_whole_number(meta.get("last_page")),
        has_next=None if following is ... else bool(following),
        bytes=len(body),
        remaining=_remaining(meta.get("apiKey")),
        replaced_characters=replaced,
        per_page=_whole_number(meta.get("per_page")),
        current_page=_whole_number(meta.get("current_page")),
    )


def _remaining(key: object) -> int | None:
    """Return the calls left that `meta.apiKey` tells under one of the likely names, in it or one level below; None without any."""
    if not isinstance(key, dict):
        return None
    for members in (key, *(value for value in key.values() if isinstance(value, dict))):
        for name in _REMAINING:
            if (number := _whole_number(members.get(name))) is not None:
                return number
    return None


def _rows(content: dict[str, Any], total: int | None) -> list[Any]:
    if "data" not in content:
        raise EnvelopeError("JSON without `data`")
    match content["data"]:
        case list() as rows:
            return rows
        case None if total == 0:
            return []
        case dict() as keyed if all(isinstance(value, dict) for value in keyed.values()):
            return list(keyed.values())  # a PHP array with gaps, or rows keyed by id
        case dict() as row if "id" in row:
            return [row]
        case other:
            raise EnvelopeError(f"`data` is {'null' if other is None else f'a single {type(other).__name__}'} instead of rows")


def _decode(body: bytes) -> tuple[Any, int]:
    """Return the JSON value in `body` and the number of characters replaced."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _decode_slowly(body)
    return _decode_slowly(body) if _NUL in body or _has_rounded_ids(content) else (content, 0)


def _has_rounded_ids(content: Any) -> bool:
    """Whether a row's id came out as a float: orjson rounds integers beyond 64 bits. Searching the body would cost more."""
    rows = content.get("data") if isinstance(content, dict) else content
    return isinstance(rows, list) and any(type(row) is dict and type(row.get("id")) is float for row in rows)


def _decode_slowly(body: bytes) -> tuple[Any, int]:
    if not body.strip():
        raise EnvelopeError("an empty body")
    if body.lstrip()[:1] == b"<":
        raise EnvelopeError("HTML or XML instead of JSON")
    text = body.decode("utf-8-sig", errors="replace")
    undecodable = text.count("\ufffd") - body.count(_UTF8_REPLACEMENT)
    try:
        content = json.loads(text, strict=False, parse_int=_integer, parse_float=_finite, parse_constant=lambda _: None)
        content, replaced = _clean(content)
    except json.JSONDecodeError as error:
        raise EnvelopeError(f"JSON that is cut short or broken at character {error.pos} of {len(text)}") from None
    except RecursionError:
        raise EnvelopeError("JSON nested too deeply") from None
    return content, replaced + undecodable


def _clean(content: Any) -> tuple[Any, int]:
    """Return `content` with what PostgreSQL cannot store replaced, and how many characters that were."""
    replaced = 0

    def clean(value: Any) -> Any:
        nonlocal replaced
        if isinstance(value, str):
            value, count = _UNSTORABLE.subn("\ufffd", value)
            replaced += count
            return value
        if isinstance(value, list):
            return [clean(member) for member in value]
        if isinstance(value, dict):
            return {clean(name): clean(member) for name, member in value.items()}
        return value

    return clean(content), replaced


def _integer(digits: str) -> int | str:
    if len(digits) < 19:
        return int(digits)
    number = int(digits) if len(digits) <= 20 else None
    return number if number is not None and -(2**63) <= number < 2**64 else digits


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if abs(number) != float("inf") else None


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and len(text := value.strip()) <= 18 and text.isascii() and text.isdigit():
        value = int(text)
    return value if isinstance(value, int) and value >= 0 else None
