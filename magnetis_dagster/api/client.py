"""The client: one page at a time, charged before it is sent, settled whatever comes, tried again where that can help.

Which pages make a window, and what they must add up to, belongs to `ingest`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Self

import httpx
import stamina

from magnetis_dagster.api.body import read_body
from magnetis_dagster.api.contract import Call, Gate, Outcome, Page
from magnetis_dagster.api.envelope import EnvelopeError, EnvelopeTooLarge, ErrorInside, read_envelope
from magnetis_dagster.api.errors import BodyTooLarge, RedirectRefused, ServerUnwell, TooManyCalls, UnexpectedAnswer, Unreachable
from magnetis_dagster.api.failures import describe
from magnetis_dagster.api.inflight import InFlight
from magnetis_dagster.api.transport import REDIRECTED_TO, open_http
from magnetis_dagster.api.verdict import judge, place
from magnetis_dagster.errors import MagnetisError

_ERROR_BODY = 64 * 1024
"""Bytes of an error answer that are read: Laravel's are below 1 KiB, a debug page is of no use."""
_ERROR_BODY_SECONDS = 5.0
"""The status is known by then, and matters more than the words: a 429 must close the key even if its body never ends."""
_LONGEST_HONOURED_WAIT = 60.0
"""Seconds of a 503's Retry-After that are worth holding a run open for."""


Keep = Callable[[Page], Awaitable[None]]
"""Writes a page where it outlives the process."""

_log = logging.getLogger(__name__)


def _tell(details: stamina.instrumentation.RetryDetails) -> None:
    _log.info("Trying again in %.1f s (try %d): %s", details.wait_for, details.retry_num + 1, details.caused_by)


# stamina's own hooks print a line of Python's objects for each retry, through structlog where that is installed
stamina.instrumentation.set_on_retry_hooks([_tell])


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How long and how much. Times are in seconds, for one attempt."""

    attempts: int = 5
    """Attempts of one page, each charged."""
    connect: float = 10.0
    read: float = 60.0
    """Silence on the line."""
    total: float = 180.0
    """From the first byte sent to the last received: ends a server that drips."""
    body_bytes: int = 64 * 2**20
    """Largest body after decompression."""
    wait_initial: float = 0.5
    wait_max: float = 20.0


@dataclass(slots=True)
class _Answer:
    """What is known of an attempt so far; becomes its Outcome."""

    status: int | None = None
    rows: int | None = None
    bytes: int = 0
    remaining: int | None = None


class MagnetisClient:
    """Reads pages of the API at `origin` with `key`. An async context manager; one event loop, any number of tasks."""

    def __init__(
        self,
        origin: str,
        key: str,
        gate: Gate,
        concurrency: int = 8,
        limits: ClientLimits = ClientLimits(),
        start: int | None = None,
    ) -> None:
        """`start`: calls under way at once at first, where fewer than `concurrency`."""
        self._origin = origin.rstrip("/")
        self._key = key
        self._gate = gate
        self._limits = limits
        self.in_flight = InFlight(concurrency, start)
        self._settling: set[asyncio.Task[None]] = set()
        # `pool` has nothing to wait for while calls in flight have as many places as the pool; it ends a leak, should there be one.
        timeout = httpx.Timeout(limits.read, connect=limits.connect, pool=limits.total)
        self._http = open_http(self._origin, key, connections=concurrency, timeout=timeout)

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

    async def page(self, call: Call, keep: Keep | None = None) -> Page:
        """Return the page that `call` asks for.

        Every attempt is charged at the gate before it is sent, and settled afterwards, also when it fails or is cancelled; a page
        is returned meanwhile (`settled` waits). What the gate raises at a charge passes through, and nothing is sent. After a
        careful start, `keep` has kept the page before another call has its place.
        Raises, all subclasses of NeedsChange or TryAgain: KeyRefused, AccessForbidden, RouteUnavailable, RequestRejected,
        RedirectRefused, BodyTooLarge, CertificateRefused, RequestNotAllowed at once; TooManyCalls, ServerUnwell, UnexpectedAnswer,
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

    async def _attempt(self, call: Call, keep: Keep | None) -> Page:
        answer = _Answer()
        page: Page | None = None
        failure: BaseException | None = None
        async with self.in_flight.turn():
            charge = await self._gate.charge(call)
            started = time.monotonic()
            try:
                async with self.in_flight:
                    started = time.monotonic()
                    body = await self._send(call, answer)
                await asyncio.sleep(0)  # what waits for the place is sent first
                page = self._page_of(call, body, answer)
            except BaseException as error:  # noqa: BLE001 - raised below, once it is settled
                failure = error
                if isinstance(error, TooManyCalls | ServerUnwell | Unreachable):
                    self.in_flight.trouble(started)
            else:
                self.in_flight.went_well()
            outcome = Outcome(
                status=answer.status,
                rows=answer.rows,
                bytes=answer.bytes,
                remaining=answer.remaining,
                milliseconds=round((time.monotonic() - started) * 1000),
                error=type(failure).__name__ if failure else None,
                retry_after=getattr(failure, "retry_after", None),
                over_quota=isinstance(failure, TooManyCalls),
            )
            settling = asyncio.ensure_future(self._gate.settle(charge, outcome))
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

    async def _send(self, call: Call, answer: _Answer) -> bytes:
        parameters = {**call.parameters, "limit": str(call.limit), "page": str(call.page)}
        # Errors of httpx hold the request and so the key: they are described, dropped, and not even kept as the context of ours.
        failure: MagnetisError | None = None
        body: bytes | None = None
        try:
            async with (
                asyncio.timeout(self._limits.total),
                self._http.stream("GET", self._origin + call.route, params=parameters) as response,
            ):
                answer.status = response.status_code
                if response.is_success:
                    body = await self._read(call, response, answer)
                else:
                    failure = await self._refusal(call, response)
        except EnvelopeError as error:
            failure = _unexpected(call, answer, error)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            failure = describe(call, self._origin, error, self._limits.total)
        if failure is not None:
            raise failure
        assert body is not None
        return body

    def _page_of(self, call: Call, body: bytes, answer: _Answer) -> Page:
        try:
            page = replace(read_envelope(body, call.limit), body=body)
        except EnvelopeError as error:
            failure = self._no_page(call, answer, error)
        else:
            answer.rows, answer.remaining = len(page.rows), page.remaining
            return page
        raise failure

    def _no_page(self, call: Call, answer: _Answer, error: EnvelopeError) -> MagnetisError:
        match error:
            case ErrorInside():
                failure = judge(call, error.status, {}, error.body, self._key)
                failure.args = (f"{failure} The response had HTTP {answer.status} and this error in its body.",)
                return failure
            case EnvelopeTooLarge():
                return BodyTooLarge(
                    f"{place(call)}: expected at most {call.limit} rows, and the response has {error}; it was not loaded. "
                    "Check that MAGNETIS_API_URL names the Magnetis API, and ask Magnetis."
                )
            case _:
                return _unexpected(call, answer, error)

    async def _read(self, call: Call, response: httpx.Response, answer: _Answer) -> bytes:
        body = await read_body(response, self._limits.body_bytes)
        if body is None:
            answer.bytes = self._limits.body_bytes
            raise BodyTooLarge(
                f"{place(call)}: expected at most {self._limits.body_bytes} bytes for {call.limit} rows, and the answer is longer; "
                "the rest was not read. Ask for a smaller page, or check that MAGNETIS_API_URL names the Magnetis API."
            )
        answer.bytes = len(body)
        return body

    async def _refusal(self, call: Call, response: httpx.Response) -> MagnetisError:
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
        return judge(call, response.status_code, response.headers, body, self._key)


def _unexpected(call: Call, answer: _Answer, error: EnvelopeError) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{place(call)}: expected the JSON envelope with `data` and `meta`, got {error} (HTTP {answer.status}). "
        "Run it again; if it stays so, check MAGNETIS_API_URL and any proxy on the way."
    )


def _worth_another(error: Exception) -> bool | float:
    """Return whether to try again, or the seconds to wait before it, as `stamina` asks."""
    if isinstance(error, TooManyCalls):
        return 0.0  # the gate knows until when the key is closed: it waits or raises at the next charge
    if isinstance(error, ServerUnwell) and error.retry_after is not None:
        return error.retry_after if error.retry_after <= _LONGEST_HONOURED_WAIT else False
    return isinstance(error, ServerUnwell | UnexpectedAnswer | Unreachable)


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Await `task` to its end even if this one is cancelled meanwhile; the cancellation is passed on afterwards."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
