"""The transport sends only GET requests to one origin with one key."""

import asyncio
import re
import ssl
from pathlib import Path

import httpx
import pytest
from exchange import CALL, KEY, QUICK, RecordingGuard
from scripted_server import ScriptedServer, page, raw

from magnetis_dagster import api
from magnetis_dagster.api import ApiCall, MagnetisClient
from magnetis_dagster.api.error_mapping import error_for_connection
from magnetis_dagster.api.transport import open_http
from magnetis_dagster.errors import MagnetisError, PermanentError, TransientError

GOOD = page([{"id": 1}])


METHODS = [
    *("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"),
    *(
        "PROPFIND",
        "MKCOL",
        "MOVE",
        "QUERY",
        "post",
        "Delete",
        "GETX",
        " GET",
        "GET ",
        "G\u00cbT",
        "",
    ),
]


@pytest.mark.parametrize("method", METHODS)
def test_only_get_requests_are_sent(method):
    async def attempt():
        async with (
            ScriptedServer([GOOD]) as server,
            open_http(server.origin, KEY, connections=1, timeout=httpx.Timeout(1)) as http,
        ):
            address = f"{server.origin}/calls"

            async def stream():
                async with http.stream(method, address, content=b"{}"):
                    pass

            for send in (
                lambda: http.request(method, address),
                lambda: http.request(method, address, json={"enabled": 1}, follow_redirects=True),
                lambda: http.send(http.build_request(method, address)),
                stream,
            ):
                with pytest.raises(
                    api.RequestNotAllowed, match=f"expected a GET, got {method.upper()}"
                ):
                    await send()
            assert server.requests == []
            assert (await http.get(address)).status_code == 200

    asyncio.run(attempt())


def test_no_other_method_of_the_http_client_sends():
    async def attempt():
        async with (
            ScriptedServer([GOOD]) as server,
            open_http(server.origin, KEY, connections=1, timeout=httpx.Timeout(1)) as http,
        ):
            for shortcut in (http.post, http.put, http.patch, http.delete, http.head, http.options):
                with pytest.raises(api.RequestNotAllowed):
                    await shortcut(f"{server.origin}/alerts/email")
            assert server.requests == []

    asyncio.run(attempt())


def test_no_other_module_sends_requests_to_the_api():
    """Other modules use HTTP only without the key.

    Three send requests to this machine's Dagster and sandbox, and one posts alerts to a webhook.
    """
    package = Path(api.__file__).parent.parent
    way_out = re.compile(
        r"httpx\.(Async)?(Client|HTTPTransport)\(|httpx\.(get|post|put|patch|delete|request|stream)\(|urlopen|http\.client"
    )
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if way_out.search(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "api/transport.py",
        "cli/sandbox.py",
        "dagster_support/webserver_client.py",
        "dev/run.py",
        "webhook_client.py",
    }


def test_only_the_origin_receives_requests():
    async def attempt():
        async with (
            ScriptedServer([GOOD]) as server,
            ScriptedServer([GOOD]) as elsewhere,
            open_http(server.origin, KEY, connections=1, timeout=httpx.Timeout(1)) as http,
        ):
            for address in (
                elsewhere.origin,
                server.origin.replace("http:", "https:"),
                server.origin.replace("127.0.0.1", "localhost"),
            ):
                with pytest.raises(api.RequestNotAllowed, match="Expected a request to"):
                    await http.get(address)
            assert server.requests == elsewhere.requests == []

    asyncio.run(attempt())


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_cannot_be_followed_even_on_request(status):
    async def attempt():
        async with ScriptedServer([GOOD]) as elsewhere:
            for location in ("/other", f"{elsewhere.origin}/other"):
                async with (
                    ScriptedServer([raw(status, location=location)]) as server,
                    open_http(server.origin, KEY, connections=1, timeout=httpx.Timeout(1)) as http,
                ):
                    assert (
                        await http.get(server.origin, follow_redirects=True)
                    ).status_code == status
                    assert [request.split(" ")[0] for request in server.requests] == ["GET"]
            assert elsewhere.requests == []

    asyncio.run(attempt())


def test_a_route_cannot_name_another_host():
    async def attempt():
        async with ScriptedServer([GOOD]) as elsewhere, ScriptedServer([GOOD]) as server:
            async with MagnetisClient(server.origin, KEY, RecordingGuard(), limits=QUICK) as client:
                with pytest.raises(api.RequestNotAllowed):
                    await client.page(
                        ApiCall("calls", f"@{elsewhere.origin.removeprefix('http://')}/", {})
                    )
            assert server.requests == elsewhere.requests == []

    asyncio.run(attempt())


def test_netrc_adds_no_second_identity(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other")
    monkeypatch.setenv("NETRC", str(netrc))

    async def attempt():
        async with (
            ScriptedServer([GOOD]) as server,
            MagnetisClient(server.origin, KEY, RecordingGuard()) as client,
        ):
            await client.page(CALL)
            assert "authorization" not in server.requests[0].lower()

    asyncio.run(attempt())


@pytest.fixture
def _no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("_no_proxies")
def test_calls_go_through_the_proxy(monkeypatch):
    async def attempt():
        async with ScriptedServer([GOOD]) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.origin)
            async with MagnetisClient(
                "http://api.invalid", KEY, RecordingGuard(), limits=QUICK
            ) as client:
                assert (await client.page(CALL)).rows == [{"id": 1}]
                assert proxy.requests[0].startswith("GET http://api.invalid/calls?")
                with pytest.raises(api.RequestNotAllowed):
                    await client._http.get("http://other.invalid/")
            assert len(proxy.requests) == 1

    asyncio.run(attempt())


@pytest.mark.parametrize("key", ["", "key with-space", "key\nnext", "clé-secrète"])
def test_a_key_that_cannot_be_a_header_is_refused_and_not_shown(key):
    with pytest.raises(api.KeyRefused, match="API & connecteurs > API") as caught:
        MagnetisClient("https://api.magnetis.io", key, RecordingGuard())
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("origin", ["ftp://x", "api.magnetis.io", "http://a\nb", ""])
def test_an_unusable_origin_is_refused(origin):
    with pytest.raises(PermanentError, match="MAGNETIS_API_URL"):
        MagnetisClient(origin, KEY, RecordingGuard())


def test_an_untrusted_certificate_is_a_permanent_error():
    failure = httpx.ConnectError("x")
    failure.__cause__ = OSError()
    failure.__cause__.__context__ = ssl.SSLCertVerificationError()
    error = error_for_connection(CALL, "https://api.magnetis.io", failure, 1, sent=False)
    assert type(error) is api.CertificateRefused
    assert "SSL_CERT_FILE" in str(error)
    assert "api.magnetis.io" in str(error)


def test_every_error_is_permanent_or_transient():
    public = [getattr(api, name) for name in api.__all__]
    errors = [one for one in public if isinstance(one, type) and issubclass(one, Exception)]
    assert len(errors) == 14
    for error in errors:
        assert issubclass(error, MagnetisError)
        assert issubclass(error, PermanentError) != issubclass(error, TransientError), error
