"""The client and every fault of a server, over real HTTP.

The `request_page` fixture checks charges and secrets in each test.
"""

import asyncio
import gc
import gzip
import json
import tracemalloc
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import stamina
from exchange import (
    CALL,
    CALLER,
    CALLER_DIGITS,
    KEY,
    QUICK,
    SENDER,
    KeyClosedError,
    RecordingGuard,
    chain,
)
from scripted_server import ScriptedServer, answer, cut, drip, flood, hang, page, raw, reset

from magnetis_dagster import api
from magnetis_dagster.api import CHARGED_AHEAD, ApiCall, ClientLimits, MagnetisClient
from magnetis_dagster.api_calls import GRANT_SECONDS, LONGEST_CALL
from magnetis_dagster.errors import PermanentError, TransientError

ROWS = [
    {"id": f"call-{number}", "caller_number": CALLER_DIGITS, "name": SENDER} for number in range(3)
]
GOOD = page(ROWS)
ECHO = {
    "message": f"Bad thing: {KEY} {CALLER} {CALLER_DIGITS} {SENDER}",
    "errors": {"from": [CALLER], "to": ["bad"]},
}
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


def test_a_page_is_requested_as_documented(request_page):
    exchange = request_page(
        page(ROWS, total=7, last_page=3, following="https://elsewhere.example/calls?page=2")
    )
    assert exchange.page.rows == ROWS
    assert (exchange.page.total, exchange.page.last_page, exchange.page.has_next) == (7, 3, True)
    head = exchange.requests[0].lower()
    assert head.startswith(
        "get /calls?from=20250101000000&to=20250102000000&limit=250&page=1 http/1.1"
    )
    assert f"x-api-key: {KEY}" in head
    assert "accept: application/json" in head
    assert "user-agent: magnetis_dagster/" in head
    assert "cookie" not in head
    assert "authorization" not in head
    outcome = exchange.outcomes[0]
    assert (outcome.status, outcome.rows, outcome.bytes, outcome.error) == (
        200,
        3,
        exchange.page.bytes,
        None,
    )
    assert len(exchange.requests) == 1, "`next` names another host and is never followed"


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, api.RequestRejected, ["from, to", "limit", "MAGNETIS_CONFIG"]),
        (401, api.KeyRefused, ["unknown or expired", "API & connecteurs > API"]),
        (403, api.AccessForbidden, ["scope", "IP filter"]),
        (404, api.RouteUnavailable, ["magnetis probe", "/calls"]),
        (405, api.RouteUnavailable, ["magnetis probe"]),
        (409, api.RequestRejected, ["HTTP 409"]),
        (410, api.RouteUnavailable, ["HTTP 410"]),
        (422, api.RequestRejected, ["Rejected parameters: from, to."]),
    ],
)
def test_a_permanent_error_is_not_retried(request_page, status, error, words):
    exchange = request_page(answer(status, ECHO))
    assert type(exchange.error) is error
    assert isinstance(exchange.error, PermanentError)
    assert len(exchange.requests) == 1
    for word in [
        "calls: GET /calls, page 1",
        f"HTTP {status}",
        "Bad thing: [key] [digits]",
        *words,
    ]:
        assert word in str(exchange.error)
    assert (exchange.outcomes[0].status, exchange.outcomes[0].error) == (status, error.__name__)
    assert not exchange.outcomes[0].over_quota


@pytest.mark.parametrize(
    ("fault", "error", "status", "word"),
    [
        pytest.param(answer(500, ECHO), api.ServerUnavailable, 500, "HTTP 500", id="500"),
        pytest.param(
            raw(502, b"<html>Bad gateway</html>"),
            api.ServerUnavailable,
            502,
            "HTTP 502",
            id="502 in HTML",
        ),
        pytest.param(raw(408), api.ServerUnavailable, 408, "HTTP 408", id="408"),
        pytest.param(hang, api.Unreachable, None, "no data arrived", id="hang"),
        pytest.param(reset, api.Unreachable, None, "lost", id="reset"),
        pytest.param(cut(GOOD), api.Unreachable, 200, "lost", id="body cut short"),
        pytest.param(cut(GOOD, 0.1), api.Unreachable, None, "lost", id="head cut short"),
        pytest.param(
            f"{CALLER} {KEY}\r\n\r\n".encode(), api.Unreachable, None, "lost", id="not HTTP"
        ),
        pytest.param(
            raw(200, b"<!DOCTYPE html><p>" + CALLER.encode()),
            api.UnexpectedResponse,
            200,
            "HTML",
            id="HTML",
        ),
        pytest.param(
            raw(200, GOOD.split(b"\r\n\r\n")[1][:-9]),
            api.UnexpectedResponse,
            200,
            "truncated",
            id="JSON cut short",
        ),
        pytest.param(raw(200), api.UnexpectedResponse, 200, "an empty body", id="empty"),
        pytest.param(raw(204), api.UnexpectedResponse, 204, "an empty body", id="204"),
        pytest.param(
            answer(200, {"data": None}),
            api.UnexpectedResponse,
            200,
            "`data` is null",
            id="data null",
        ),
        pytest.param(
            answer(200, {"x": 1}), api.UnexpectedResponse, 200, "without `data`", id="no data"
        ),
        pytest.param(
            answer(200, ECHO),
            api.ServerUnavailable,
            200,
            "in the body of an HTTP 200 response",
            id="message without data",
        ),
        pytest.param(
            answer(200, {"success": False, "data": []}),
            api.ServerUnavailable,
            200,
            "in the body of an HTTP 200 response",
            id="no success",
        ),
        pytest.param(
            raw(200, b"gzip?", content_encoding="gzip"),
            api.UnexpectedResponse,
            200,
            "compressed",
            id="broken gzip",
        ),
        pytest.param(
            raw(200, gzip.compress(b'{"data": []}')[:-9], content_encoding="gzip"),
            api.UnexpectedResponse,
            200,
            "truncated compressed stream",
            id="gzip cut short",
        ),
        pytest.param(
            raw(200, b"x", content_encoding="br"),
            api.UnexpectedResponse,
            200,
            "compression",
            id="brotli",
        ),
    ],
)
def test_a_transient_error_is_retried(request_page, fault, error, status, word):
    lasting = request_page(fault)
    assert type(lasting.error) is error
    assert isinstance(lasting.error, TransientError)
    assert word in str(lasting.error)
    assert "calls: GET /calls, page 1" in str(lasting.error)
    assert [(outcome.status, outcome.error) for outcome in lasting.outcomes] == [
        (status, error.__name__)
    ] * 3

    passing = request_page(fault, fault, GOOD)
    assert passing.page.rows == ROWS
    assert [outcome.error for outcome in passing.outcomes] == [error.__name__] * 2 + [None]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"data": [], "success": False, "message": "Daily quota exceeded"}, api.RateLimited),
        ({"data": [], "error": {"code": 429}}, api.RateLimited),
        ({"status": "error", "message": "Unauthenticated."}, api.KeyRefused),
        ({"error": {"status": 403, "message": "Scope"}}, api.AccessForbidden),
        ({"code": 404, "data": None}, api.RouteUnavailable),
        (
            {"success": False, "code": 422, "errors": {"from": [CALLER]}, "data": []},
            api.RequestRejected,
        ),
    ],
)
def test_an_error_in_a_200_is_treated_like_its_status(request_page, content, error):
    exchange = request_page(answer(200, content), guard=RecordingGuard(close_when_over_quota=True))
    again = error is api.RateLimited
    assert type(exchange.error) is (KeyClosedError if again else error)
    assert [
        (outcome.status, outcome.error, outcome.over_quota) for outcome in exchange.outcomes
    ] == [(200, error.__name__, again)]
    assert len(exchange.requests) == 1
    if not again:
        assert "in the body of an HTTP 200 response" in str(exchange.error)


def test_an_error_body_is_searched_for_its_message(request_page):
    exchange = request_page(
        answer(403, {"error": {"message": "Daily quota exceeded"}}),
        guard=RecordingGuard(close_when_over_quota=True),
    )
    assert [outcome.over_quota for outcome in exchange.outcomes] == [True]
    exchange = request_page(
        raw(
            403,
            '{"message": "Quota d’appels dépassé"}'.encode("cp1252"),
            content_type="application/json; charset=windows-1252",
        ),
        guard=RecordingGuard(close_when_over_quota=True),
    )
    assert [outcome.over_quota for outcome in exchange.outcomes] == [True]


def test_a_small_response_with_many_values_is_not_parsed(request_page):
    bomb = raw(
        200, gzip.compress(b'{"data":[' + b"{}," * 5_000_000 + b"{}]}", 1), content_encoding="gzip"
    )
    tracemalloc.start()
    exchange = request_page(bomb, limits=ClientLimits(attempts=3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(exchange.error) is api.ResponseTooLarge
    assert "more than 1000000 values" in str(exchange.error)
    assert len(exchange.requests) == 1
    assert peak < 60 * 2**20, "the body of 15 MB, its pieces, and what the transport holds"


def test_a_trickling_response_ends_at_the_deadline(request_page):
    limits = ClientLimits(attempts=2, read=1, total=0.3)
    exchange = request_page(
        drip(
            CHUNKED[: -len(b"transfer-encoding: chunked\r\n\r\n")] + b"content-length: 999\r\n\r\n"
        ),
        limits=limits,
    )
    assert type(exchange.error) is api.Unreachable
    assert "not complete after 0.3 s" in str(exchange.error)
    assert 0.6 <= exchange.seconds < 3


def test_a_closed_port_is_reported(request_page):
    async def attempt():
        async with ScriptedServer([GOOD]) as server:
            origin = server.origin
        async with MagnetisClient(
            origin, KEY, guard, limits=QUICK, report=reported.append
        ) as client:
            await client.page(CALL)

    guard, reported = RecordingGuard(), []
    with pytest.raises(
        api.NotConnected, match=r"127\.0\.0\.1:\d+: no connection\. Check .* MAGNETIS_API_URL"
    ) as caught:
        asyncio.run(attempt())
    assert isinstance(caught.value, api.Unreachable)
    assert len(guard.charges) == len(guard.outcomes) == 1, (
        "nothing was sent, so the next attempt uses the same charge"
    )
    assert chain(caught.value) == [caught.value]
    assert [line.split("Next attempt")[0] for line in reported] == [
        f"{caught.value} Nothing was sent. "
    ] * 2


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "90"}, 90),
        ({"retry_after": "in 600 s"}, 600),
        ({}, None),
    ],
)
def test_429_closes_the_key(request_page, headers, wait):
    if (
        headers.get("retry_after") == "in 600 s"
    ):  # an absolute date is made now, because tests are collected long before they run
        headers = {
            "retry_after": format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
        }
    exchange = request_page(
        answer(429, {"message": "Too Many Attempts."}, **headers),
        guard=RecordingGuard(close_when_over_quota=True),
    )
    assert isinstance(exchange.error, KeyClosedError)
    assert len(exchange.requests) == 1, "the first request closes the key, so nothing more is sent"
    assert exchange.outcomes[0].over_quota
    assert exchange.outcomes[0].error == "RateLimited"
    assert exchange.outcomes[0].retry_after == pytest.approx(wait, abs=5)


def test_after_429_the_guard_decides_the_wait(request_page):
    with stamina.set_testing(False):
        exchange = request_page(
            answer(429, {}, retry_after="30"),
            GOOD,
            limits=ClientLimits(wait_initial=30, wait_max=30),
        )
    assert exchange.page.rows == ROWS
    assert exchange.seconds < 1


def test_429_is_retried_a_limited_number_of_times_if_the_guard_stays_open(request_page):
    exchange = request_page(answer(429, {"message": "Too Many Attempts."}, retry_after="7"))
    assert type(exchange.error) is api.RateLimited
    assert isinstance(exchange.error, TransientError)
    assert exchange.error.retry_after == 7
    assert len(exchange.requests) == 3


@pytest.mark.parametrize(
    "body",
    [
        drip(raw(429, content_length="999", retry_after="5")),
        cut(answer(429, ECHO, retry_after="5"), 0.95),
    ],
)
def test_429_counts_even_if_its_body_never_ends(request_page, body, monkeypatch):
    monkeypatch.setattr("magnetis_dagster.api.client._ERROR_BODY_SECONDS", 0.1)
    exchange = request_page(body, guard=RecordingGuard(close_when_over_quota=True))
    assert isinstance(exchange.error, KeyClosedError)
    assert exchange.outcomes[0].retry_after == 5


@pytest.mark.parametrize(
    ("message", "over_quota"),
    [
        ("Daily quota exceeded", True),
        ("Your key reached the limit of 5000 calls", True),
        ("Limite d'appels atteinte : quota", True),
        ("This action is unauthorized.", False),
        ("Access limited to authorized IP addresses", False),
    ],
)
def test_403_may_mean_the_quota(request_page, message, over_quota):
    exchange = request_page(answer(403, {"message": message}))
    assert {outcome.over_quota for outcome in exchange.outcomes} == {over_quota}
    assert type(exchange.error) is (api.RateLimited if over_quota else api.AccessForbidden)


def test_503_waits_for_a_short_retry_after(request_page):
    with stamina.set_testing(False):
        exchange = request_page(
            answer(503, {}, retry_after="0.3"),
            GOOD,
            limits=ClientLimits(wait_initial=30, wait_max=30),
        )
    assert exchange.page.rows == ROWS
    assert 0.3 <= exchange.seconds < 5
    assert exchange.outcomes[0].retry_after == 0.3
    assert not exchange.outcomes[0].over_quota


def test_503_with_a_long_retry_after_is_not_retried(request_page):
    exchange = request_page(answer(503, {}, retry_after="3600"), GOOD)
    assert type(exchange.error) is api.ServerUnavailable
    assert exchange.error.retry_after == 3600
    assert len(exchange.requests) == 1


def test_a_redirect_is_refused_and_the_key_is_not_sent(request_page):
    async def request_redirected_page():
        async with ScriptedServer([GOOD]) as elsewhere:
            location = elsewhere.origin.replace("127.0.0.1", "localhost") + f"/calls?key={KEY}"
            async with ScriptedServer([raw(302, location=location)]) as server:
                async with MagnetisClient(server.origin, KEY, guard, limits=QUICK) as client:
                    with pytest.raises(api.RedirectRefused) as caught:
                        await client.page(CALL)
                assert len(server.requests) == 1
            assert elsewhere.requests == []
            return caught.value

    guard = RecordingGuard()
    error = asyncio.run(request_redirected_page())
    assert "redirected the request to http://localhost (HTTP 302)" in str(error)
    assert [outcome.error for outcome in guard.outcomes.values()] == ["RedirectRefused"]
    exchange = request_page(raw(301, location="http://[broken"))
    assert type(exchange.error) is api.RedirectRefused
    exchange = request_page(raw(304))
    assert type(exchange.error) is api.RedirectRefused


def test_a_field_of_5_mb_arrives_complete(request_page):
    rows = [{"id": 1, "pages": "é" * 2_500_000}]
    assert request_page(page(rows)).page.rows == rows
    zipped = raw(200, gzip.compress(json.dumps({"data": rows}).encode()), content_encoding="gzip")
    assert request_page(zipped).page.rows == rows


def test_deflate_is_decompressed(request_page):
    assert request_page(
        raw(200, zlib.compress(b'{"data": [{"id": 1}]}'), content_encoding="deflate")
    ).page.rows == [{"id": 1}]


def test_a_decompression_bomb_does_not_fill_memory(request_page):
    bomb = raw(200, gzip.compress(b"[" + b" " * 200_000_000, 1), content_encoding="gzip")
    limits = ClientLimits(attempts=3, body_bytes=2**20)
    tracemalloc.start()
    exchange = request_page(bomb, limits=limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert type(exchange.error) is api.ResponseTooLarge
    assert isinstance(exchange.error, PermanentError)
    assert "1048576 bytes" in str(exchange.error)
    assert len(exchange.requests) == 1
    assert peak < 12 * 2**20, "the cap, plus the buffers of the transport"


def test_an_endless_body_ends_at_the_cap(request_page):
    exchange = request_page(
        flood(CHUNKED, b"10000\r\n" + b" " * 0x10000 + b"\r\n"),
        limits=ClientLimits(body_bytes=2**20),
    )
    assert type(exchange.error) is api.ResponseTooLarge


@pytest.mark.parametrize("refuse_from", [1, 2])
def test_an_error_of_the_guard_is_raised_unchanged_and_nothing_is_sent(request_page, refuse_from):
    exchange = request_page(answer(500, {}), guard=RecordingGuard(refuse_from=refuse_from))
    assert type(exchange.error) is KeyClosedError
    assert exchange.error.__cause__ is None
    assert len(exchange.requests) == refuse_from - 1


@pytest.mark.parametrize("cancellations", [1, 2])
def test_a_cancelled_call_is_settled(cancellations):
    async def cancel_request():
        async with (
            ScriptedServer([hang]) as server,
            MagnetisClient(server.origin, KEY, guard) as client,
        ):
            task = asyncio.create_task(client.page(CALL))
            await server.request_received.wait()
            for _ in range(cancellations):
                task.cancel()
                await asyncio.sleep(0.001)
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(guard.outcomes) == 1, "settled before the cancellation is raised"

    guard = RecordingGuard()
    asyncio.run(cancel_request())
    assert len(guard.charges) == 1
    assert [(outcome.status, outcome.error) for outcome in guard.outcomes.values()] == [
        (None, "CancelledError")
    ]


def test_an_outcome_that_cannot_be_recorded_does_not_affect_the_others():
    class FailingGuard(RecordingGuard):
        async def settle(self, charge, outcome):
            if charge == 1:
                raise TransientError("the database is unavailable")
            await super().settle(charge, outcome)

    async def two():
        async with (
            ScriptedServer([GOOD]) as server,
            MagnetisClient(server.origin, KEY, guard) as client,
        ):
            await asyncio.gather(client.page(CALL), client.page(CALL))

    guard = FailingGuard()
    with pytest.raises(TransientError):
        asyncio.run(two())
    assert list(guard.outcomes) == [2]


@pytest.mark.parametrize("start", [1, None])
def test_after_a_cautious_start_a_page_is_stored_before_the_next_call(start):
    async def two():
        async with (
            ScriptedServer([GOOD]) as server,
            MagnetisClient(
                server.origin, KEY, RecordingGuard(), concurrency=2, start=start
            ) as client,
        ):
            kept = []

            async def keep(page):
                await asyncio.sleep(0.01)
                kept.append(len(server.requests))

            await asyncio.gather(client.page(CALL, keep), client.page(CALL, keep))
            return kept

    assert asyncio.run(two()) == ([1, 2] if start else [])


def test_no_more_requests_are_in_flight_than_allowed():
    async def slow(writer):
        await asyncio.sleep(0.05)
        writer.write(GOOD)

    class CountingGuard(RecordingGuard):
        most_open = 0
        answered = 0

        async def charge(self, call):
            number = await super().charge(call)
            self.most_open = max(self.most_open, number - self.answered)
            return number

        async def settle(self, charge, outcome):
            self.answered += 1
            await super().settle(charge, outcome)

    async def many():
        guard = CountingGuard()
        async with (
            ScriptedServer([slow]) as server,
            MagnetisClient(server.origin, KEY, guard, concurrency=3) as client,
        ):
            await asyncio.gather(
                *(client.page(ApiCall("calls", "/calls", {}, page=number)) for number in range(12))
            )
            return server.most_at_once, guard.most_open, len(server.requests)

    assert asyncio.run(many()) == (3, 3 + CHARGED_AHEAD, 12), (
        "few calls are charged before they can be sent"
    )


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # httpcore does not close a cancelled handshake
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_unresponsive_api_is_reported_in_time(scheme, monkeypatch):
    """No TCP connection, or no TLS handshake. The limits are a tenth of the real ones."""
    monkeypatch.setattr("magnetis_dagster.api.client._CONNECTING_SECONDS", 2.5)
    limits = ClientLimits(connect=1.0, read=6.0, total=18.0, wait_initial=0.05, wait_max=2.0)

    async def never(*_, **__):
        await asyncio.sleep(60)
        connected.append(True)

    async def attempt():
        async with ScriptedServer([hang]) as server:
            origin = server.origin.replace("http:", f"{scheme}:")
            if scheme == "http":
                monkeypatch.setattr("anyio.connect_tcp", never)
            async with MagnetisClient(
                origin, KEY, guard, limits=limits, report=reported.append
            ) as client:
                pages = (client.page(CALL) for _ in range(4))
                return await asyncio.gather(*pages, return_exceptions=True)

    guard, reported, connected = RecordingGuard(), [], []
    with stamina.set_testing(False):
        errors = asyncio.run(attempt())
    gc.collect()
    assert {type(error) for error in errors} == {api.NotConnected}
    assert "no connection within 1 s" in str(errors[0])
    assert connected == [], "it waited for `never`"
    assert "Next attempt in 0." in reported[0], "the first failure is reported before the pause"
    assert len(guard.charges) == 4


def test_a_refused_connection_is_an_error_well_within_30_seconds():
    limits = ClientLimits()
    assert (
        sum(
            min(limits.wait_initial * 2**tried, limits.wait_max) * 2
            for tried in range(limits.attempts - 1)
        )
        < 20
    )


def test_no_request_can_take_longer_than_the_ledger_counts_it():
    assert ClientLimits().longest_call < LONGEST_CALL.total_seconds()
    assert (
        ClientLimits().longest_call > GRANT_SECONDS + ClientLimits().connect + ClientLimits().total
    )
    with pytest.raises(ValueError, match="LONGEST_CALL"):
        ClientLimits(total=LONGEST_CALL.total_seconds())


class ReplacingGuard(RecordingGuard):
    """Replaces the first charge when its request is about to be sent, or refuses every charge."""

    def __init__(self, *, refuses=False):
        super().__init__()
        self.refuses = refuses
        self.confirmed = []

    async def confirm(self, charge):
        self.confirmed.append(charge)
        if self.refuses:
            raise KeyClosedError
        if charge == 1:
            self.outcomes[charge] = "replaced"
            return await self.charge(CALL)
        return charge


def test_a_charge_is_confirmed_directly_before_each_request_and_may_be_replaced():
    async def two():
        async with (
            ScriptedServer([GOOD]) as server,
            MagnetisClient(server.origin, KEY, guard) as client,
        ):
            await client.page(CALL)
            await client.page(CALL)
            return len(server.requests)

    guard = ReplacingGuard()
    assert asyncio.run(two()) == 2
    assert guard.confirmed == [1, 3]
    assert guard.outcomes[1] == "replaced"
    assert [guard.outcomes[number].status for number in (2, 3)] == [200, 200]


def test_a_charge_that_is_not_confirmed_is_not_sent(request_page):
    exchange = request_page(GOOD, guard=ReplacingGuard(refuses=True), sent=1)
    assert type(exchange.error) is KeyClosedError
    assert exchange.requests == []
    assert [outcome.error for outcome in exchange.outcomes] == ["NotSent"]


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (answer(401, {"message": "Unauthenticated."}), api.KeyRefused),
        (answer(403, {"message": "This API key has been revoked."}), api.KeyRefused),
        (
            answer(403, {"message": "Access limited to authorized IP addresses"}),
            api.AccessForbidden,
        ),
    ],
)
def test_after_a_refused_key_nothing_more_is_charged(refusal, error):
    async def many():
        async with (
            ScriptedServer([GOOD, refusal]) as server,
            MagnetisClient(server.origin, KEY, guard, concurrency=2) as client,
        ):
            await client.page(CALL)
            pages = await asyncio.gather(
                *(client.page(CALL) for _ in range(30)), return_exceptions=True
            )
            assert {type(page) for page in pages} == {error}
            with pytest.raises(error):
                await client.page(CALL)
            return len(server.requests)

    guard = RecordingGuard()
    received = asyncio.run(many())
    assert received == len(guard.charges) <= 1 + 2 + CHARGED_AHEAD, (
        "those that were charged before the first refusal"
    )


def test_a_collection_that_is_forbidden_does_not_stop_the_others():
    async def two():
        forbidden = answer(403, {"message": "This action is unauthorized."})
        async with (
            ScriptedServer([forbidden, GOOD]) as server,
            MagnetisClient(server.origin, KEY, RecordingGuard()) as client,
        ):
            with pytest.raises(api.AccessForbidden):
                await client.page(CALL)
            return await client.page(CALL)

    assert asyncio.run(two()).rows == ROWS


@pytest.mark.parametrize("retry_after", ["0", "0.001", "-5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_503_with_a_retry_after_of_0_uses_the_clients_backoff(request_page, retry_after):
    with stamina.set_testing(False):
        limits = ClientLimits(wait_initial=0.3, wait_max=0.3)
        exchange = request_page(answer(503, {}, retry_after=retry_after), GOOD, limits=limits)
    assert exchange.page.rows == ROWS
    assert exchange.seconds >= 0.3


def test_429_with_a_retry_after_of_0_closes_for_a_second(request_page):
    guard = RecordingGuard(close_when_over_quota=True)
    exchange = request_page(answer(429, {}, retry_after="0"), guard=guard)
    assert exchange.outcomes[0].retry_after == 1
    assert exchange.outcomes[0].rate_limit.signal == "Retry-After: 0"
