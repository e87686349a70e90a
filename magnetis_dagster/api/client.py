"""Request one page at a time: charge, send, retry, settle.

`ingest` decides which pages form a window and checks that they are complete.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import httpx
import stamina

from magnetis_dagster.api.concurrency import ConcurrencyLimit
from magnetis_dagster.api.error_mapping import (
    error_for_connection,
    error_for_proxy,
    error_for_response,
    location,
)
from magnetis_dagster.api.errors import (
    AccessForbidden,
    NotConnected,
    RateLimited,
    RedirectRefused,
    ResponseTooLarge,
    ServerUnavailable,
    UnexpectedResponse,
    Unreachable,
)
from magnetis_dagster.api.network import proxy_address, proxy_for
from magnetis_dagster.api.rate_limit import read_rate_limit
from magnetis_dagster.api.response import (
    EnvelopeError,
    EnvelopeTooLarge,
    ErrorInside,
    Page,
    read_envelope,
)
from magnetis_dagster.api.response_body import read_body
from magnetis_dagster.api.transport import REDIRECTED_TO, open_http
from magnetis_dagster.api_calls import (
    GRANT_SECONDS,
    LONGEST_CALL,
    NOT_SENT,
    ApiCall,
    CallOutcome,
    ConfirmingGuard,
    QuotaGuard,
    RateLimit,
)
from magnetis_dagster.errors import KeyRefused, MagnetisError

_ERROR_BODY = 64 * 1024
"""Bytes of an error body that are read. Laravel's are below 1 KiB, and a debug page is of no use.
"""
_ERROR_BODY_SECONDS = 5.0
"""Time limit for an error body. The status is known by then and matters more: a 429 must close the
key even if its body never ends."""
_LONGEST_HONOURED_WAIT = 60.0
"""Longest Retry-After of a 503, in seconds, that the client waits out; a longer one fails the
request."""
_SHORTEST_HONOURED_WAIT = 0.25
"""Shortest Retry-After of a 503, in seconds, that the client obeys. A shorter one, such as 0, would
cause a hot loop; the client's own backoff applies instead."""
_CONNECTING_SECONDS = 25.0
"""Seconds. No connection attempt starts that could end later than this after the first attempt
began. So an operator learns within 30 s why no data arrives."""
_GRACE_SECONDS = 30.0
"""Seconds from the end of a request until its outcome is settled, even if the database is busy."""
_SENDING = "http11.send_request_headers.started"
"""httpcore's trace event directly before the first byte of a request. By then the connection is
open, through any proxy and TLS. https://www.encode.io/httpcore/extensions/#trace"""


Keep = Callable[[Page], Awaitable[None]]
"""Stores a page where it survives the process."""

_log = logging.getLogger(__name__)


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    _log.info(
        "Retrying in %.1f s (attempt %d): %s",
        details.wait_for,
        details.retry_num + 1,
        details.caused_by,
    )


# stamina's own hooks log Python objects for each retry, through structlog if it is installed.
stamina.instrumentation.set_on_retry_hooks([_log_retry])


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits of one attempt. Times are in seconds."""

    attempts: int = 5
    """Attempts per page, each charged."""
    connect: float = 10.0
    """Name resolution, TCP, proxy and TLS together."""
    read: float = 60.0
    """Longest silence while a response is read."""
    total: float = 180.0
    """From the first byte sent to the last received. Ends a response that trickles."""
    body_bytes: int = 64 * 2**20
    """Largest response body after decompression."""
    wait_initial: float = 0.5
    wait_max: float = 20.0

    @property
    def longest_call(self) -> float:
        """Longest time in seconds from a charge until its outcome is settled."""
        return GRANT_SECONDS + self.connect + self.total + _GRACE_SECONDS

    def __post_init__(self) -> None:
        """Raise ValueError if a request could outlast the time that the ledger counts it."""
        if self.longest_call > LONGEST_CALL.total_seconds():
            raise ValueError(
                f"a request may take {self.longest_call:g} s, which exceeds LONGEST_CALL "
                f"({LONGEST_CALL}); the ledger would no longer count it"
            )


@dataclass(slots=True)
class _Attempt:
    """The progress of one attempt; becomes its CallOutcome."""

    charge: int
    sent: bool = False
    """Whether a byte of the request may have been sent."""
    status: int | None = None
    rows: int | None = None
    bytes: int = 0
    remaining: int | None = None
    rate_limit: RateLimit | None = None

    def outcome(self, failure: BaseException | None, started: float) -> CallOutcome:
        """Return the outcome of an attempt that started at `started` (time.monotonic())."""
        error = None
        if failure is not None:
            is_known = self.sent or isinstance(failure, NotConnected)
            error = type(failure).__name__ if is_known else NOT_SENT
        return CallOutcome(
            status=self.status,
            rows=self.rows,
            bytes=self.bytes,
            remaining=self.remaining,
            milliseconds=round((time.monotonic() - started) * 1000),
            error=error,
            retry_after=getattr(failure, "retry_after", None),
            over_quota=isinstance(failure, RateLimited),
            key_refused=self.sent and isinstance(failure, KeyRefused),
            rate_limit=self.rate_limit,
        )


class MagnetisClient:
    """Requests pages of the API at `origin` with `key`.

    An async context manager for one event loop and any number of tasks.
    """

    def __init__(
        self,
        origin: str,
        key: str,
        guard: QuotaGuard,
        concurrency: int = 8,
        limits: ClientLimits = ClientLimits(),
        start: int | None = None,
        report: Callable[[str], None] = _log.info,
    ) -> None:
        """Create a client; no connection is opened yet.

        `start`: requests in flight at first, if fewer than `concurrency`. `report` receives one
        line per failed connection.
        """
        self._origin = origin.rstrip("/")
        self._key = key
        self._guard = guard
        self._confirm = guard.confirm if isinstance(guard, ConfirmingGuard) else None
        self._limits = limits
        self._report = report
        self._permanent_refusal: KeyRefused | AccessForbidden | None = None
        """Set when the API would reject every further request too."""
        self.in_flight = ConcurrencyLimit(concurrency, start)
        self._settlements: set[asyncio.Task[None]] = set()
        # `pool` never waits, because calls in flight have as many slots as the pool. It only ends a
        # leak.
        timeout = httpx.Timeout(limits.read, connect=limits.connect, pool=limits.total)
        self._http = open_http(self._origin, key, connections=concurrency, timeout=timeout)
        proxy = proxy_for(httpx.URL(self._origin))
        self._proxy = proxy and proxy_address(proxy)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the connections and wait for the pending settlements.

        If a settlement fails, the block's own error takes precedence.
        """
        await self._http.aclose()
        try:
            await self.wait_for_settlements()
        except MagnetisError as error:
            if kind is None:
                raise
            _log.warning("The outcome of a call was not recorded: %s", error)

    async def wait_for_settlements(self) -> None:
        """Wait until the guard has settled every answered call; raise its errors."""
        pending, self._settlements = self._settlements, set()
        # Wait for all of them: a settlement still running when another fails would end with the
        # event loop.
        for outcome in await asyncio.gather(*pending, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def page(self, call: ApiCall, keep: Keep | None = None) -> Page:
        """Request the page that `call` describes and return it.

        The guard charges every request before it is sent and settles it afterwards, also after an
        error or a cancellation. A page is returned before its settlement ends, for which
        `wait_for_settlements` waits. An error of the guard's `charge` is raised unchanged, and
        nothing is sent. An attempt that could not connect sent nothing, so the next attempt reuses
        its charge. After the API rejected the key, nothing more is charged. After a cautious
        start, `keep` stores the page before another call gets its slot.

        Raises: immediately, as PermanentError: KeyRefused, AccessForbidden, RouteUnavailable,
        RequestRejected, RedirectRefused, ResponseTooLarge, CertificateRefused, ProxyRefused,
        RequestNotAllowed. After the last attempt, as TransientError: RateLimited,
        ServerUnavailable, UnexpectedResponse, Unreachable.
        """
        async for attempt in stamina.retry_context(
            on=_retry_delay,
            attempts=self._limits.attempts,
            timeout=None,
            wait_initial=self._limits.wait_initial,
            wait_max=self._limits.wait_max,
            wait_jitter=1.0,
        ):
            with attempt:
                return await self._request_page(call, keep)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _request_page(self, call: ApiCall, keep: Keep | None) -> Page:
        page: Page | None = None
        failure: BaseException | None = None
        async with self.in_flight.charging_turn():
            self._raise_permanent_refusal()
            attempt = _Attempt(await self._guard.charge(call))
            started = time.monotonic()
            try:
                async with self.in_flight:
                    started = time.monotonic()
                    body = await self._send_when_connected(call, attempt)
                await asyncio.sleep(0)  # let the request that waits for the slot be sent first
                page = self._page_of(call, body, attempt)
            except BaseException as error:  # noqa: BLE001 - raised below, once it is settled
                failure = error
                if isinstance(error, KeyRefused) or (
                    isinstance(error, AccessForbidden) and error.everywhere
                ):
                    self._permanent_refusal = error
                if isinstance(error, RateLimited | ServerUnavailable | Unreachable):
                    self.in_flight.record_failure(started)
            else:
                self.in_flight.record_success()
            outcome = attempt.outcome(failure, started)
            settlement = asyncio.ensure_future(self._guard.settle(attempt.charge, outcome))
            if page is not None:
                self._settlements.add(settlement)
                if keep and self.in_flight.is_cautious:
                    await keep(page)
                return page
        try:
            await _wait_for_end(settlement)
            assert failure is not None
            raise failure
        finally:
            # a traceback that refers to its own frame survives until garbage collection
            failure = None

    def _raise_permanent_refusal(self) -> None:
        if self._permanent_refusal is not None:
            # A new object, because the traceback of a shared one would grow with each page.
            raise type(self._permanent_refusal)(str(self._permanent_refusal))

    async def _send_when_connected(self, call: ApiCall, attempt: _Attempt) -> bytes:
        """Send the request; retry failed connections under the same charge.

        The retries end after _CONNECTING_SECONDS.
        """
        began, wait = time.monotonic(), self._limits.wait_initial
        for number in range(2, self._limits.attempts + 2):
            try:
                return await self._send(call, attempt)
            except NotConnected as error:
                pause = wait * random.uniform(1, 2)  # noqa: S311 - spreads attempts that failed together; not a secret
                end = time.monotonic() - began + pause + self._limits.connect
                if number > self._limits.attempts or end > _CONNECTING_SECONDS:
                    raise
                self._report(
                    f"{error} Nothing was sent. "
                    f"Next attempt in {pause:.1f} s ({number} of {self._limits.attempts})."
                )
            await asyncio.sleep(pause)
            wait = min(2 * wait, self._limits.wait_max)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, call: ApiCall, attempt: _Attempt) -> bytes:
        parameters = {**call.parameters, "limit": str(call.limit), "page": str(call.page)}
        # Errors of httpx contain the request and so the key. They are translated and dropped, and
        # not even kept as the context of our errors.
        failure: MagnetisError | None = None
        body: bytes | None = None
        deadline = asyncio.timeout(self._limits.connect)

        async def trace(event: str, info: dict[str, Any]) -> None:
            # a proxy's CONNECT also emits this event
            if event == _SENDING and info["request"].method == b"GET":
                deadline.reschedule(asyncio.get_running_loop().time() + self._limits.total)
                if self._confirm:
                    attempt.charge = await self._confirm(attempt.charge)
                attempt.sent = True

        try:
            async with (
                deadline,
                self._http.stream(
                    "GET", self._origin + call.route, params=parameters, extensions={"trace": trace}
                ) as response,
            ):
                attempt.status = response.status_code
                attempt.rate_limit = read_rate_limit(response.headers, time.time())
                if response.is_success:
                    body = await self._read(call, response, attempt)
                else:
                    failure = await self._error_response(call, response, attempt)
        except EnvelopeError as error:
            failure = _unexpected(call, attempt, error)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            seconds = self._limits.total if attempt.sent else self._limits.connect
            failure = error_for_connection(
                call, self._origin, error, seconds, sent=attempt.sent, proxy=self._proxy
            )
        if failure is not None:
            raise failure
        assert body is not None
        return body

    def _page_of(self, call: ApiCall, body: bytes, attempt: _Attempt) -> Page:
        try:
            page = replace(read_envelope(body, call.limit), body=body)
        except EnvelopeError as error:
            failure = self._error_for_body(call, attempt, error)
        else:
            attempt.rows, attempt.remaining = len(page.rows), page.remaining
            return page
        raise failure

    def _error_for_body(
        self, call: ApiCall, attempt: _Attempt, error: EnvelopeError
    ) -> MagnetisError:
        match error:
            case ErrorInside():
                failure = error_for_response(
                    call, error.status, attempt.rate_limit, error.body, self._key
                )
                failure.args = (
                    f"{failure} The error was in the body of an HTTP {attempt.status} response.",
                )
                return failure
            case EnvelopeTooLarge():
                return ResponseTooLarge(
                    f"{location(call)}: expected at most {call.limit} rows, but the response has "
                    f"{error}. It was not loaded. Check that MAGNETIS_API_URL is the Magnetis API, "
                    "or contact Magnetis."
                )
            case _:
                return _unexpected(call, attempt, error)

    async def _read(self, call: ApiCall, response: httpx.Response, attempt: _Attempt) -> bytes:
        body = await read_body(response, self._limits.body_bytes)
        if body is None:
            attempt.bytes = self._limits.body_bytes
            raise ResponseTooLarge(
                f"{location(call)}: expected at most {self._limits.body_bytes} bytes for "
                f"{call.limit} rows, but the response is larger. The rest was not read. "
                "Request a smaller page, or check that MAGNETIS_API_URL is the Magnetis API."
            )
        attempt.bytes = len(body)
        return body

    async def _error_response(
        self, call: ApiCall, response: httpx.Response, attempt: _Attempt
    ) -> MagnetisError:
        if response.status_code == 407:  # only a proxy that receives plain http sends 407
            return error_for_proxy(call, 407, self._proxy)
        if response.is_redirect or response.status_code < 400:
            target = response.extensions.get(REDIRECTED_TO, "nowhere")
            return RedirectRefused(
                f"{location(call)}: the API redirected the request to {target} "
                f"(HTTP {response.status_code}). Redirects are not followed, because that would "
                "send the key there. Set MAGNETIS_API_URL to the API's own origin, or correct the "
                "route in MAGNETIS_CONFIG."
            )
        body = None
        try:
            async with asyncio.timeout(_ERROR_BODY_SECONDS):
                body = await read_body(response, _ERROR_BODY)
        except (httpx.HTTPError, TimeoutError, EnvelopeError):
            pass  # the status is sufficient
        return error_for_response(call, response.status_code, attempt.rate_limit, body, self._key)


def _unexpected(call: ApiCall, attempt: _Attempt, error: EnvelopeError) -> UnexpectedResponse:
    return UnexpectedResponse(
        f"{location(call)}: expected the JSON envelope with `data` and `meta`, got {error} "
        f"(HTTP {attempt.status}). Retry; if it persists, check MAGNETIS_API_URL and any proxy in "
        "between."
    )


def _retry_delay(error: Exception) -> bool | float:
    """Return whether to retry, or the seconds to wait first, as `stamina` expects."""
    if isinstance(error, RateLimited):
        return 0.0  # the guard knows when the key reopens: it waits or raises at the next charge
    if (
        isinstance(error, ServerUnavailable)
        and error.retry_after is not None
        and error.retry_after >= _SHORTEST_HONOURED_WAIT
    ):
        return error.retry_after if error.retry_after <= _LONGEST_HONOURED_WAIT else False
    return isinstance(
        error, ServerUnavailable | UnexpectedResponse | Unreachable
    ) and not isinstance(error, NotConnected)


async def _wait_for_end(task: asyncio.Task[None]) -> None:
    """Wait for the end of `task`, even if the caller is cancelled.

    The cancellation is raised afterwards.
    """
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
