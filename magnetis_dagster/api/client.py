"""The client: one page at a time, charged before it is sent, settled whatever comes, tried again where that can help.

Which pages make a window, and what they must add up to, belongs to `ingest`.
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
from magnetis_dagster.api.error_mapping import describe, judge, place, refused_by_proxy
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
    ApiCall,
    CallOutcome,
    ConfirmingGuard,
    QuotaGuard,
    RateLimit,
)
from magnetis_dagster.errors import KeyRefused, MagnetisError

_ERROR_BODY = 64 * 1024
"""Bytes of an error answer that are read: Laravel's are below 1 KiB, a debug page is of no use."""
_ERROR_BODY_SECONDS = 5.0
"""The status is known by then, and matters more than the words: a 429 must close the key even if its body never ends."""
_LONGEST_HONOURED_WAIT = 60.0
"""Seconds of a 503's Retry-After that are worth holding a run open for."""
_SHORTEST_HONOURED_WAIT = 0.25
"""Seconds; a shorter Retry-After, such as 0, would make a hot loop: the client's own backoff applies."""
_CONNECTING_SECONDS = 25.0
"""No attempt to connect begins that could end later than this after the first one began: people learn within 30 s why nothing
arrives."""
_GRACE_SECONDS = 30.0
"""From the end of a request until its outcome is settled, under a busy database."""
_SENDING = "http11.send_request_headers.started"
"""httpcore's trace event directly before the first byte of a request: the connection, through a proxy and TLS too, stands.
https://www.encode.io/httpcore/extensions/#trace"""
NOT_SENT = "NotSent"
"""Error in the ledger of a charge whose request was never sent."""


Keep = Callable[[Page], Awaitable[None]]
"""Writes a page where it outlives the process."""

_log = logging.getLogger(__name__)


def _tell(details: stamina.instrumentation.RetryDetails) -> None:
    _log.info(
        "Trying again in %.1f s (try %d): %s",
        details.wait_for,
        details.retry_num + 1,
        details.caused_by,
    )


# stamina's own hooks print a line of Python's objects for each retry, through structlog where that is installed
stamina.instrumentation.set_on_retry_hooks([_tell])


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How long and how much. Times are in seconds, for one attempt."""

    attempts: int = 5
    """Attempts of one page, each charged."""
    connect: float = 10.0
    """Name, TCP, proxy and TLS together."""
    read: float = 60.0
    """Silence on the line."""
    total: float = 180.0
    """From the first byte sent to the last received: ends a server that drips."""
    body_bytes: int = 64 * 2**20
    """Largest body after decompression."""
    wait_initial: float = 0.5
    wait_max: float = 20.0

    @property
    def longest_call(self) -> float:
        """Seconds from a grant until its request is certainly settled."""
        return GRANT_SECONDS + self.connect + self.total + _GRACE_SECONDS

    def __post_init__(self) -> None:
        """Raise ValueError for a request that could take longer than the ledger counts it."""
        if self.longest_call > LONGEST_CALL.total_seconds():
            raise ValueError(
                f"a request may take {self.longest_call:g} s, which exceeds LONGEST_CALL ({LONGEST_CALL}): the ledger would miss it"
            )


@dataclass(slots=True)
class _Answer:
    """What is known of an attempt so far; becomes its CallOutcome."""

    charge: int
    sent: bool = False
    """Whether a byte of the request may have left."""
    status: int | None = None
    rows: int | None = None
    bytes: int = 0
    remaining: int | None = None
    rate_limit: RateLimit | None = None


class MagnetisClient:
    """Reads pages of the API at `origin` with `key`. An async context manager; one event loop, any number of tasks."""

    def __init__(
        self,
        origin: str,
        key: str,
        gate: QuotaGuard,
        concurrency: int = 8,
        limits: ClientLimits = ClientLimits(),
        start: int | None = None,
        report: Callable[[str], None] = _log.info,
    ) -> None:
        """`start`: requests in flight at first, if fewer than `concurrency`. `report` gets a line per failure to connect."""
        self._origin = origin.rstrip("/")
        self._key = key
        self._gate = gate
        self._confirm = gate.confirm if isinstance(gate, ConfirmingGuard) else None
        self._limits = limits
        self._report = report
        self._refusal_of_all: KeyRefused | AccessForbidden | None = None
        """Set once every further request would be refused too."""
        self.in_flight = ConcurrencyLimit(concurrency, start)
        self._settling: set[asyncio.Task[None]] = set()
        # `pool` has nothing to wait for while calls in flight have as many places as the pool; it ends a leak, should there be one.
        timeout = httpx.Timeout(limits.read, connect=limits.connect, pool=limits.total)
        self._http = open_http(self._origin, key, connections=concurrency, timeout=timeout)
        proxy = proxy_for(httpx.URL(self._origin))
        self._proxy = proxy and proxy_address(proxy)

    async def __aenter__(self) -> Self:
        """Return the client, ready."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the connections, and settle what is not settled yet; where that fails, the block's own error goes first."""
        await self._http.aclose()
        try:
            await self.settled()
        except MagnetisError as error:
            if kind is None:
                raise
            _log.warning("The outcome of a call was not noted: %s", error)

    async def settled(self) -> None:
        """Wait until the outcome of every answered call is settled at the gate; raise what the gate raised there."""
        settling, self._settling = self._settling, set()
        # all to their end: what is still under way when one fails would end with the event loop
        for outcome in await asyncio.gather(*settling, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def page(self, call: ApiCall, keep: Keep | None = None) -> Page:
        """Return the page that `call` asks for.

        Every request is charged at the gate before it is sent, and settled afterwards, also when it fails or is cancelled; a page
        is returned meanwhile (`settled` waits). What the gate raises at a charge passes through, and nothing is sent. An attempt
        that could not connect sent nothing, so the next one uses its charge. After the key is refused, nothing more is charged.
        After a careful start, `keep` has kept the page before another call has its place.
        Raises, all subclasses of PermanentError or TransientError: KeyRefused, AccessForbidden, RouteUnavailable, RequestRejected,
        RedirectRefused, ResponseTooLarge, CertificateRefused, RequestNotAllowed at once; RateLimited, ServerUnavailable, UnexpectedResponse,
        Unreachable after the last attempt.
        """
        async for attempt in stamina.retry_context(
            on=_worth_another,
            attempts=self._limits.attempts,
            timeout=None,
            wait_initial=self._limits.wait_initial,
            wait_max=self._limits.wait_max,
            wait_jitter=1.0,
        ):
            with attempt:
                return await self._attempt(call, keep)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _attempt(self, call: ApiCall, keep: Keep | None) -> Page:
        page: Page | None = None
        failure: BaseException | None = None
        async with self.in_flight.turn():
            self._raise_refusal()
            answer = _Answer(await self._gate.charge(call))
            started = time.monotonic()
            try:
                async with self.in_flight:
                    started = time.monotonic()
                    body = await self._connect_and_send(call, answer)
                await asyncio.sleep(0)  # what waits for the place is sent first
                page = self._page_of(call, body, answer)
            except BaseException as error:  # noqa: BLE001 - raised below, once it is settled
                failure = error
                if isinstance(error, KeyRefused) or (
                    isinstance(error, AccessForbidden) and error.everywhere
                ):
                    self._refusal_of_all = error
                if isinstance(error, RateLimited | ServerUnavailable | Unreachable):
                    self.in_flight.trouble(started)
            else:
                self.in_flight.went_well()
            outcome = CallOutcome(
                status=answer.status,
                rows=answer.rows,
                bytes=answer.bytes,
                remaining=answer.remaining,
                milliseconds=round((time.monotonic() - started) * 1000),
                error=_error_name(failure, answer),
                retry_after=getattr(failure, "retry_after", None),
                over_quota=isinstance(failure, RateLimited),
                key_refused=answer.sent and isinstance(failure, KeyRefused),
                rate_limit=answer.rate_limit,
            )
            settling = asyncio.ensure_future(self._gate.settle(answer.charge, outcome))
            if page is not None:
                self._settling.add(settling)
                if keep and self.in_flight.careful:
                    await keep(page)
                return page
        try:
            await _to_its_end(settling)
            assert failure is not None
            raise failure
        finally:
            failure = None  # a traceback that holds its own frame would live until the garbage collector comes

    def _raise_refusal(self) -> None:
        if self._refusal_of_all is not None:
            # not the same object again: its traceback would grow with each page
            raise type(self._refusal_of_all)(str(self._refusal_of_all))

    async def _connect_and_send(self, call: ApiCall, answer: _Answer) -> bytes:
        """Send the request; while no connection can be made, try again under the same charge, for _CONNECTING_SECONDS at most."""
        began, wait = time.monotonic(), self._limits.wait_initial
        for number in range(2, self._limits.attempts + 2):
            try:
                return await self._send(call, answer)
            except NotConnected as error:
                pause = wait * random.uniform(1, 2)  # noqa: S311 - spreads attempts that failed together; not a secret
                end = time.monotonic() - began + pause + self._limits.connect
                if number > self._limits.attempts or end > _CONNECTING_SECONDS:
                    raise
                self._report(
                    f"{error} Nothing was sent. Next attempt in {pause:.1f} s ({number} of {self._limits.attempts})."
                )
            await asyncio.sleep(pause)
            wait = min(2 * wait, self._limits.wait_max)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, call: ApiCall, answer: _Answer) -> bytes:
        parameters = {**call.parameters, "limit": str(call.limit), "page": str(call.page)}
        # Errors of httpx hold the request and so the key: they are described, dropped, and not even kept as the context of ours.
        failure: MagnetisError | None = None
        body: bytes | None = None
        deadline = asyncio.timeout(self._limits.connect)

        async def trace(event: str, info: dict[str, Any]) -> None:
            # a proxy's CONNECT is an event too
            if event == _SENDING and info["request"].method == b"GET":
                deadline.reschedule(asyncio.get_running_loop().time() + self._limits.total)
                if self._confirm:
                    answer.charge = await self._confirm(answer.charge)
                answer.sent = True

        try:
            async with (
                deadline,
                self._http.stream(
                    "GET", self._origin + call.route, params=parameters, extensions={"trace": trace}
                ) as response,
            ):
                answer.status = response.status_code
                answer.rate_limit = read_rate_limit(response.headers, time.time())
                if response.is_success:
                    body = await self._read(call, response, answer)
                else:
                    failure = await self._refusal(call, response, answer)
        except EnvelopeError as error:
            failure = _unexpected(call, answer, error)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            seconds = self._limits.total if answer.sent else self._limits.connect
            failure = describe(
                call, self._origin, error, seconds, sent=answer.sent, proxy=self._proxy
            )
        if failure is not None:
            raise failure
        assert body is not None
        return body

    def _page_of(self, call: ApiCall, body: bytes, answer: _Answer) -> Page:
        try:
            page = replace(read_envelope(body, call.limit), body=body)
        except EnvelopeError as error:
            failure = self._no_page(call, answer, error)
        else:
            answer.rows, answer.remaining = len(page.rows), page.remaining
            return page
        raise failure

    def _no_page(self, call: ApiCall, answer: _Answer, error: EnvelopeError) -> MagnetisError:
        match error:
            case ErrorInside():
                failure = judge(call, error.status, answer.rate_limit, error.body, self._key)
                failure.args = (
                    f"{failure} The response had HTTP {answer.status} and this error in its body.",
                )
                return failure
            case EnvelopeTooLarge():
                return ResponseTooLarge(
                    f"{place(call)}: expected at most {call.limit} rows, and the response has {error}; it was not loaded. "
                    "Check that MAGNETIS_API_URL names the Magnetis API, and ask Magnetis."
                )
            case _:
                return _unexpected(call, answer, error)

    async def _read(self, call: ApiCall, response: httpx.Response, answer: _Answer) -> bytes:
        body = await read_body(response, self._limits.body_bytes)
        if body is None:
            answer.bytes = self._limits.body_bytes
            raise ResponseTooLarge(
                f"{place(call)}: expected at most {self._limits.body_bytes} bytes for {call.limit} rows, and the answer is longer; "
                "the rest was not read. Ask for a smaller page, or check that MAGNETIS_API_URL names the Magnetis API."
            )
        answer.bytes = len(body)
        return body

    async def _refusal(
        self, call: ApiCall, response: httpx.Response, answer: _Answer
    ) -> MagnetisError:
        if response.status_code == 407:  # of a proxy only, which receives plain http itself
            return refused_by_proxy(call, 407, self._proxy)
        if response.is_redirect or response.status_code < 400:
            target = response.extensions.get(REDIRECTED_TO, "nowhere")
            return RedirectRefused(
                f"{place(call)}: answered with a redirect to {target} (HTTP {response.status_code}). Redirects are not followed, "
                "since the key would travel along. Set MAGNETIS_API_URL to the API's own origin, "
                "or correct the route in MAGNETIS_CONFIG."
            )
        body = None
        try:
            async with asyncio.timeout(_ERROR_BODY_SECONDS):
                body = await read_body(response, _ERROR_BODY)
        except (httpx.HTTPError, TimeoutError, EnvelopeError):
            pass  # the status says enough
        return judge(call, response.status_code, answer.rate_limit, body, self._key)


def _unexpected(call: ApiCall, answer: _Answer, error: EnvelopeError) -> UnexpectedResponse:
    return UnexpectedResponse(
        f"{place(call)}: expected the JSON envelope with `data` and `meta`, got {error} (HTTP {answer.status}). "
        "Run it again; if it stays so, check MAGNETIS_API_URL and any proxy on the way."
    )


def _worth_another(error: Exception) -> bool | float:
    """Return whether to try again, or the seconds to wait before it, as `stamina` asks."""
    if isinstance(error, RateLimited):
        return 0.0  # the gate knows until when the key is closed: it waits or raises at the next charge
    if (
        isinstance(error, ServerUnavailable)
        and error.retry_after is not None
        and error.retry_after >= _SHORTEST_HONOURED_WAIT
    ):
        return error.retry_after if error.retry_after <= _LONGEST_HONOURED_WAIT else False
    return isinstance(
        error, ServerUnavailable | UnexpectedResponse | Unreachable
    ) and not isinstance(error, NotConnected)


def _error_name(failure: BaseException | None, answer: _Answer) -> str | None:
    if failure is None:
        return None
    return type(failure).__name__ if answer.sent or isinstance(failure, NotConnected) else NOT_SENT


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Await `task` to its end even if this one is cancelled meanwhile; the cancellation is passed on afterwards."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
