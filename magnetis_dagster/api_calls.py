"""Define what client, quota guard, ledger and probe share about an API call.

Imports nothing of the package, so that `api` and `quota` need not import each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Protocol, runtime_checkable

LONGEST_CALL = timedelta(minutes=5)
"""Longest time from a charge, or its last confirmation, until the API can no longer receive the
request. The ledger counts a call of a dead process for this long."""
GRANT_SECONDS = 30.0
"""The client confirms a charge that is older than this before it sends the request."""
NOT_SENT = "NotSent"
"""Error in the ledger of a charge whose request was never sent."""
DAILY_LIMIT = 1_000
"""Requests: a smaller limit is a throttle, unless its reset is more than an hour away."""
_THROTTLE_WAIT = 60.0
"""Seconds to wait after a throttle that names no time: Laravel's is 60 requests a minute."""
_HOUR = 3_600.0
_HALF_A_DAY = 43_200.0


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One GET request for one page of a collection; nothing secret or personal."""

    collection: str
    route: str
    """Path under the origin, such as `/calls`."""
    parameters: Mapping[str, str]
    """Query parameters except `limit` and `page`."""
    page: int = 1
    limit: int = 250
    days: tuple[date, date] | None = None
    """First and last requested day, for the ledger."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """One rate limit that the server enforces."""

    limit: float | None = None
    """Requests per window. None in any field: the server does not state it."""
    remaining: float | None = None
    reset: float | None = None
    """Seconds until the window ends."""
    window: float | None = None
    """Length of the window in seconds."""

    @property
    def is_throttle(self) -> bool:
        """Whether it limits requests per minute or hour, not per quota day."""
        if self.window is not None:
            return self.window < _HALF_A_DAY
        return (
            self.limit is not None
            and self.limit < DAILY_LIMIT
            and (self.reset is None or self.reset <= _HOUR)
        )


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The rate-limit headers of one response."""

    retry_after: float | None
    """Seconds of Retry-After; None if it is absent, unreadable or implausible."""
    allowances: tuple[Allowance, ...]
    signal: str
    """The headers in a canonical form: only numbers and dates, whatever the server sent."""

    @property
    def is_throttle(self) -> bool:
        """Whether every exhausted limit is per minute or per hour."""
        exhausted = self._exhausted()
        return bool(exhausted) and all(
            replace(each, reset=self._longer(each)).is_throttle for each in exhausted
        )

    @property
    def wait(self) -> float | None:
        """Seconds that a 429 justifies to wait; None if the headers name none.

        0 means that the server names no time: the client's own backoff applies.
        """
        exhausted = self._exhausted()
        resets = [each.reset for each in exhausted if each.reset is not None]
        named = [wait for wait in (self.retry_after, max(resets, default=None)) if wait is not None]
        if named:
            return next((wait for wait in named if wait > 0), named[0])
        if self.is_throttle:
            return max(_THROTTLE_WAIT if each.window is None else each.window for each in exhausted)
        return None

    def remaining_today(self, daily_quota: int) -> int | None:
        """Return the requests left in the quota day; None if no allowance describes it."""
        for each in self.allowances:
            if each.remaining is None or each.limit is None:
                continue
            daily = each.window is not None and each.window >= _HALF_A_DAY
            if each.window is None and each.limit >= DAILY_LIMIT:
                daily = each.limit == daily_quota or (each.reset or 0) > _HOUR
            if daily and 0 <= each.remaining <= each.limit:
                return int(each.remaining)
        return None

    def _exhausted(self) -> list[Allowance]:
        return [each for each in self.allowances if each.remaining == 0] or list(self.allowances)

    def _longer(self, allowance: Allowance) -> float | None:
        waits = [wait for wait in (self.retry_after, allowance.reset) if wait is not None]
        return max(waits, default=None)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The result of a charged call, for the ledger."""

    status: int | None
    """HTTP status; None if no response arrived."""
    rows: int | None = None
    bytes: int = 0
    milliseconds: int = 0
    error: str | None = None
    """Class name of the error; None on success."""
    retry_after: float | None = None
    """Seconds that the server requests to wait (429 and 503); None if it names none."""
    remaining: int | None = None
    """Calls left for the key according to the API; None if it does not report them."""
    over_quota: bool = False
    """Whether the server reports an exhausted quota (429, or 403 with such a message)."""
    key_refused: bool = False
    """Whether the server rejects the key itself (401), so that any other request would fail too."""
    rate_limit: RateLimit | None = None


class QuotaGuard(Protocol):
    """Decides whether a request may be sent now.

    The client charges every request, retries included, before it sends it, and settles it after.
    """

    async def charge(self, call: ApiCall) -> int:
        """Charge `call` and return the number of the charge.

        Waits briefly, or raises, if the quota is exhausted.
        """

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        """Record the outcome of a charged call.

        An `over_quota` outcome closes the key for every process.
        """


@runtime_checkable
class ConfirmingGuard(QuotaGuard, Protocol):
    """A quota guard whose charges expire."""

    async def confirm(self, charge: int) -> int:
        """Confirm a charge directly before its request; return its number or its replacement's.

        A charge expires if it waits, or the machine is suspended, until the next quota window.

        Raises: what `charge` raises, after the old charge is settled.
        """
