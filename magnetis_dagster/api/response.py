"""Parse the JSON envelope `data`, `links`, `meta` with its undocumented variants.

This module makes no request.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from magnetis_dagster.api.error_mapping import find_embedded_error
from magnetis_dagster.exact_json import STRING, BrokenJson, dump_json, load_json

MOST_VALUES = 1_000_000
"""Limit of values on one page: members and elements at every level. A page of 250 rows with 1,000
members each has 250,000."""
MOST_ROWS = 100_000
"""Limit of rows on one page. The API's limit is 250, but a server without pagination returns all
rows in one response."""

_REMAINING = (
    "remaining",
    "calls_remaining",
    "remaining_calls",
    "quota_remaining",
    "remaining_today",
)
_STRING = re.compile(STRING.encode(), re.DOTALL)

# a member of Page is named `bytes`
Body = bytes


@dataclass(frozen=True, slots=True)
class Page:
    """One received page."""

    rows: list[Any]
    """The received rows in order. A row that is not an object is kept as it is, and the row parser
    quarantines it.

    Values are those of JSON. A number that a float or 64 bits would round is a Decimal. A value
    that no row can contain is an Unparsed."""
    total: int | None
    """`meta.total`: rows announced over all pages; None if the envelope has none."""
    last_page: int | None
    """`meta.last_page`."""
    has_next: bool | None
    """Whether `links.next` is set; None if there are no links. Its URL is never followed."""
    bytes: int
    """Size of the body after decompression."""
    remaining: int | None
    """Calls left for the key according to `meta.apiKey`; None if unknown. Only the object's `id` is
    documented."""
    replaced_characters: int
    """NUL characters, lone surrogates and undecodable bytes replaced by U+FFFD, because PostgreSQL
    stores none of them."""
    per_page: int | None = None
    """`meta.per_page`: announced rows of a full page; None if the envelope has none."""
    current_page: int | None = None
    """`meta.current_page`."""
    body: Body = field(default=b"", repr=False)
    """The response body in UTF-8, from which `read_envelope` can parse the page again."""


class EnvelopeError(ValueError):
    """The body is not a usable envelope.

    The text names the reason and never quotes the body.
    """


class EnvelopeTooLarge(EnvelopeError):
    """The body has too many rows or values for a page. It was not parsed."""


class ErrorInside(EnvelopeError):
    """The body of a successful response reports an error instead of rows."""

    def __init__(self, status: int, message: str, fields: object) -> None:
        super().__init__("an error instead of rows")
        self.status = status
        """The HTTP status that the response should have had."""
        self.body = dump_json({"message": message, "errors": fields}).encode()
        """The error in the form of an error body."""


def read_envelope(body: bytes, limit: int) -> Page:
    """Return the page in `body`, which was requested with `limit` rows.

    A bare array announces neither a total nor a last page. If a member occurs twice, the last one
    counts, as in PostgreSQL's jsonb.

    Raises: EnvelopeError, or its subclasses EnvelopeTooLarge and ErrorInside.
    """
    if not body.strip():
        raise EnvelopeError("an empty body")
    if body.lstrip()[:1] == b"<":
        raise EnvelopeError("HTML or XML instead of JSON")
    _refuse_too_many_values(body)
    try:
        content, replaced = load_json(body)
    except BrokenJson as error:
        raise EnvelopeError(str(error)) from None
    page = _page(content, len(body), replaced)
    if len(page.rows) > MOST_ROWS:
        raise EnvelopeTooLarge(f"{len(page.rows)} rows for a limit of {limit}")
    return page


def _page(content: Any, size: int, replaced: int) -> Page:
    if isinstance(content, list):
        return Page(content, None, None, None, size, None, replaced)
    if not isinstance(content, dict):
        raise EnvelopeError(f"a JSON {type(content).__name__} instead of an object with `data`")
    if error := find_embedded_error(content):
        raise ErrorInside(*error, content.get("errors"))
    # The older Laravel paginator puts the members of `meta` and `next_page_url` at the top.
    meta = content["meta"] if isinstance(content.get("meta"), dict) else content
    links = content["links"] if isinstance(content.get("links"), dict) else {}
    following = links["next"] if "next" in links else content.get("next_page_url", ...)
    total = _whole_number(meta.get("total"))
    return Page(
        rows=_rows(content, total),
        total=total,
        last_page=_whole_number(meta.get("last_page")),
        has_next=None if following is ... else bool(following),
        bytes=size,
        remaining=_remaining(meta.get("apiKey")),
        replaced_characters=replaced,
        per_page=_whole_number(meta.get("per_page")),
        current_page=_whole_number(meta.get("current_page")),
    )


def _refuse_too_many_values(body: bytes) -> None:
    """Raise EnvelopeTooLarge before the body is parsed.

    An empty object takes 2 bytes of the body and 64 bytes of memory.
    """
    # each value except the outermost follows a comma or an opening bracket
    if len(body) <= MOST_VALUES or _separators(body) <= MOST_VALUES:
        return
    found = end = 0
    for number, string in enumerate(_STRING.finditer(body)):
        found += _separators(body[end : string.start()])
        end = string.end()
        # a value has at most a name and a text
        if max(found, number // 2) > MOST_VALUES:
            break
    else:
        if found + _separators(body[end:]) <= MOST_VALUES:
            return
    raise EnvelopeTooLarge(f"more than {MOST_VALUES} values")


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _remaining(key: object) -> int | None:
    """Return the calls left according to `meta.apiKey`; None if unknown.

    Searches the likely names, in the object and one level below it.
    """
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
            kind = "null" if other is None else f"a single {type(other).__name__}"
            raise EnvelopeError(f"`data` is {kind} instead of rows")


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if (
        isinstance(value, str)
        and len(text := value.strip()) <= 18
        and text.isascii()
        and text.isdigit()
    ):
        value = int(text)
    return value if isinstance(value, int) and value >= 0 else None
