"""One exchange between a client and a scripted server through a recording guard.

Every exchange checks charges and secrets, whatever happens.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import pytest
import stamina
from scripted_server import Answer, ScriptedServer

from magnetis_dagster.api import ApiCall, CallOutcome, ClientLimits, MagnetisClient, Page

KEY = "key-5ecret-0123-never-shown"
CALLER = "+33 6 12 34 56 78"
CALLER_DIGITS = "0033612345678"
SENDER = "jeanne.martin@exemple.fr"
CALL = ApiCall("calls", "/calls", {"from": "20250101000000", "to": "20250102000000"})
QUICK = ClientLimits(attempts=3, connect=1, read=0.2, total=2)


@dataclass
class RecordingGuard:
    refuse_from: int | None = None
    """Number of the first charge that is refused."""
    close_when_over_quota: bool = False
    charges: list[ApiCall] = field(default_factory=list)
    outcomes: dict[int, CallOutcome] = field(default_factory=dict)
    closed: bool = False

    async def charge(self, call: ApiCall) -> int:
        await asyncio.sleep(0)
        if self.closed or (
            self.refuse_from is not None and len(self.charges) + 1 >= self.refuse_from
        ):
            raise KeyClosedError
        self.charges.append(call)
        return len(self.charges)

    async def confirm(self, charge: int) -> int:
        return charge

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        await asyncio.sleep(0.01)
        assert charge not in self.outcomes
        self.outcomes[charge] = outcome
        self.closed = self.closed or (outcome.over_quota and self.close_when_over_quota)


class KeyClosedError(Exception):
    pass


@dataclass
class Exchange:
    page: Page | None
    error: BaseException | None
    guard: RecordingGuard
    requests: list[str]
    seconds: float

    @property
    def outcomes(self) -> list[CallOutcome]:
        return [self.guard.outcomes[number] for number in sorted(self.guard.outcomes)]


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


def chain(error: BaseException | None) -> list[BaseException]:
    """Return the error and every error chained to it, whether a traceback shows it or not."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__]
    return found


def assert_no_secrets(error: BaseException | None, logged: str) -> None:
    errors = chain(error)
    assert not [one for one in errors if isinstance(one, httpx.HTTPError)], (
        "an error of httpx contains the request, and so the key"
    )
    shown = "\n".join([logged, *(f"{one!r} {one} {vars(one)}" for one in errors)])
    if error is not None:
        shown += "".join(traceback.format_exception(error))
    for secret in (KEY, CALLER, CALLER_DIGITS, SENDER):
        assert secret not in shown


@pytest.fixture
def request_page(caplog: pytest.LogCaptureFixture) -> Callable[..., Exchange]:
    """Return a function that requests one page and returns the exchange."""
    caplog.set_level(logging.DEBUG)

    def _request_page(
        *script: Answer,
        call: ApiCall = CALL,
        limits: ClientLimits = QUICK,
        guard: RecordingGuard | None = None,
        sent: int | None = None,
    ) -> Exchange:
        exchange = asyncio.run(_exchange(script, call, limits, guard or RecordingGuard()))
        assert len(exchange.guard.charges) == (len(exchange.requests) if sent is None else sent)
        assert len(exchange.guard.outcomes) == len(exchange.guard.charges), (
            "every charge is settled"
        )
        assert_no_secrets(exchange.error, caplog.text + repr(exchange.outcomes))
        return exchange

    return _request_page


async def _exchange(
    script: Sequence[Answer], call: ApiCall, limits: ClientLimits, guard: RecordingGuard
) -> Exchange:
    page = error = None
    async with ScriptedServer(script) as server:
        started = asyncio.get_running_loop().time()
        async with MagnetisClient(server.origin, KEY, guard, limits=limits) as client:
            try:
                page = await client.page(call)
            except BaseException as caught:  # noqa: BLE001 - whatever it is, the test looks at it
                error = caught
        return Exchange(
            page, error, guard, server.requests, asyncio.get_running_loop().time() - started
        )
