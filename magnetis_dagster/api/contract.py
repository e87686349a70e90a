"""What passes between the client and those who use it: the call, the page, and the gate that every call goes through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol, runtime_checkable

from magnetis_dagster.api.rate_limit import RateLimit

# `bytes` is the name of a member of Page
Body = bytes


@dataclass(frozen=True, slots=True)
class Call:
    """One GET that may be sent: which page of which collection. Holds nothing secret and nothing personal."""

    collection: str
    route: str
    """Path under the origin, such as `/calls`."""
    parameters: Mapping[str, str]
    """Query parameters except `limit` and `page`."""
    page: int = 1
    limit: int = 250
    days: tuple[date, date] | None = None
    """The first and the last day that are read, for the ledger."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call that was sent."""

    status: int | None
    """HTTP status; None where no answer came."""
    rows: int | None = None
    bytes: int = 0
    milliseconds: int = 0
    error: str | None = None
    """Class name of the error, None on success."""
    retry_after: float | None = None
    """Seconds the server asks to wait (429 and 503), None where it does not say."""
    remaining: int | None = None
    """Calls left for the key by the API's own word; None where it says nothing."""
    over_quota: bool = False
    """Whether the server says that the key has no calls left for now (429, or 403 with a message about the quota)."""
    key_refused: bool = False
    """Whether the server refuses the key itself (401), so that every other request would be refused too."""
    rate_limit: RateLimit | None = None
    """The rate-limit headers; None if the response has none."""


class Gate(Protocol):
    """Who may ask now. The client charges every call, retries too, before a byte is sent, and settles it afterwards."""

    async def charge(self, call: Call) -> int:
        """Return the number of the charge; wait a little or raise where no call is left."""

    async def settle(self, charge: int, outcome: Outcome) -> None:
        """Note what became of the charged call; an `over_quota` outcome closes the key for every process."""


@runtime_checkable
class ConfirmingGuard(Gate, Protocol):
    """A gate whose charges expire."""

    async def confirm(self, charge: int) -> int:
        """Return the number under which the request may be sent now: the same, or that of a new charge.

        The client calls this directly before it sends a request. A charge that waited, or that a suspended machine slept through,
        may no longer count in the present quota window. Raises what `charge` raises; the old charge is settled then.
        """


@dataclass(frozen=True, slots=True)
class Page:
    """One page as received, read tolerantly."""

    rows: list[Any]
    """The received rows in order; a row that is not an object is kept as it is, for the reader to quarantine.

    Values are those of JSON, numbers that a float or 64 bits would round are Decimal, and what no row can contain is Unparsed.
    """
    total: int | None
    """`meta.total`: rows announced over all pages; None where the envelope does not say."""
    last_page: int | None
    """`meta.last_page`."""
    has_next: bool | None
    """Whether `links.next` is set; None where there are no links. Its address is never followed."""
    bytes: int
    """Size of the body after decompression."""
    remaining: int | None
    """Calls left for the key, where `meta.apiKey` tells. What that object holds beyond its id is not documented."""
    replaced_characters: int
    """NUL characters, lone surrogates and undecodable bytes that became U+FFFD, since PostgreSQL stores none of them."""
    per_page: int | None = None
    """`meta.per_page`: rows of a full page by the API's own word; None if the envelope does not say."""
    current_page: int | None = None
    """`meta.current_page`."""
    body: Body = field(default=b"", repr=False)
    """What it was read from, in UTF-8: `read_envelope` makes the page from it again."""
