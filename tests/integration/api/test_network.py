"""Proxies, NO_PROXY and certificates from the environment: as a table, and over real HTTP."""

import asyncio
import base64
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
from exchange import CALL, KEY, QUICK, RecordingGuard, assert_no_secrets, chain
from scripted_server import ScriptedServer, page, raw

from magnetis_dagster import api
from magnetis_dagster.api import MagnetisClient
from magnetis_dagster.api.network import (
    bypasses_proxy,
    certificates,
    proxy_address,
    proxy_for,
    transport_options,
)
from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.webhook_client import post_json

PASSWORD = "pa55word"
API = "https://api.magnetis.io"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *PROXY_VARIABLES,
        *map(str.upper, PROXY_VARIABLES),
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "no_proxy", "expected"),
    [
        (API, "", False),
        (API, "*", True),
        (API, "other.io, *", True),
        (API, "api.magnetis.io", True),
        (API, "API.Magnetis.IO", True),
        (API, "magnetis.io", True),
        (API, ".magnetis.io", True),
        ("https://magnetis.io", ".magnetis.io", True),
        (API, "*.magnetis.io", True),
        (API, "magnetis.io.", True),
        ("https://api.magnetis.io.", "magnetis.io", True),
        ("https://notmagnetis.io", "magnetis.io", False),
        (API, "api.magnetis.io.example.com", False),
        (API, ".", False),
        (API, ",,  ,", False),
        (API, "other.io,magnetis.io", True),
        (API, "other.io , magnetis.io", True),
        (API, "other.io magnetis.io", True),
        (API, "magnetis.io:443", True),
        (API, ".magnetis.io:443", True),
        (API, "magnetis.io:80", False),
        ("http://api.magnetis.io", "magnetis.io:80", True),
        (f"{API}:8443", "magnetis.io:8443", True),
        (f"{API}:8443", "magnetis.io:443", False),
        (f"{API}:8443", "magnetis.io", True),
        (API, "magnetis.io:", False),
        ("http://127.0.0.2:8250", "127.0.0.2", True),
        ("http://127.0.0.2:8250", "127.0.0.2:8250", True),
        ("http://127.0.0.2:8250", "127.0.0.2:8251", False),
        ("http://127.0.0.2:8250", "127.0.0.0/8", True),
        ("http://127.0.0.2:8250", "127.9.9.9/8", True),
        ("http://10.1.2.3", "10.1.0.0/16", True),
        ("http://10.2.2.3", "10.1.0.0/16", False),
        ("http://10.1.2.3", "10.0.0.0/255.0.0.0", True),
        ("http://10.1.2.3", "0.0.0.0/0", True),
        ("http://10.1.2.3", "10.1.2.3/33", False),
        ("http://10.1.2.3", "10.1", False),
        ("http://110.1.2.3", "10.1.2.3", False),
        ("http://1.10.1.2.3.example.com", "10.1.2.3", False),
        ("http://10.1.2.3", "::/0", False),
        ("http://[fd00::5]:8250", "fd00::5", True),
        ("http://[fd00::5]:8250", "FD00:0:0::5", True),
        ("http://[fd00::5]:8250", "[fd00::5]", True),
        ("http://[fd00::5]:8250", "[fd00::5]:8250", True),
        ("http://[fd00::5]:8250", "[fd00::5]:8251", False),
        ("http://[fd00::5]:8250", "fd00::/8", True),
        ("http://[fd00::5]:8250", "[fd00::/8]:8250", True),
        ("http://[fe00::5]", "fd00::/8", False),
        ("http://[fd00::5]", "0.0.0.0/0", False),
        (API, "10.0.0.0/8", False),
    ],
)
def test_no_proxy_is_read_as_curl_and_requests_read_it(
    url: str, no_proxy: str, expected: bool
) -> None:
    assert bypasses_proxy(httpx.URL(url), no_proxy) is expected


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({}, API, None),
        ({"HTTPS_PROXY": "proxy:3128"}, API, "proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, API, "proxy:3128"),
        ({"HTTPS_PROXY": " http://proxy:3128 "}, API, "proxy:3128"),
        ({"HTTPS_PROXY": "https://proxy"}, API, "proxy:443"),
        ({"HTTPS_PROXY": "foo"}, API, "foo:80"),
        ({"HTTPS_PROXY": f"http://me:{PASSWORD}@proxy:3128/"}, API, "proxy:3128"),
        ({"HTTPS_PROXY": f"me:{PASSWORD}@[fd00::1]:3128"}, API, "[fd00::1]:3128"),
        ({"HTTPS_PROXY": "proxy"}, "http://api.magnetis.io", None),
        ({"HTTP_PROXY": "proxy"}, API, None),
        ({"HTTP_PROXY": "a", "ALL_PROXY": "b"}, API, "b:80"),
        ({"HTTPS_PROXY": "a", "ALL_PROXY": "b"}, API, "a:80"),
        ({"all_proxy": "a", "ALL_PROXY": "b"}, API, "a:80"),
        ({"HTTPS_PROXY": "a", "https_proxy": "b"}, API, "b:80"),
        ({"HTTPS_PROXY": "a", "https_proxy": ""}, API, None),
        ({"HTTPS_PROXY": ""}, API, None),
        ({"HTTPS_PROXY": "a", "NO_PROXY": "magnetis.io"}, API, None),
        ({"HTTPS_PROXY": "a", "NO_PROXY": "magnetis.io", "no_proxy": "other.io"}, API, "a:80"),
        ({"HTTPS_PROXY": "a", "NO_PROXY": "other.io", "no_proxy": "magnetis.io"}, API, None),
        ({"HTTP_PROXY": "a"}, "http://127.0.0.1:8250", None),
        ({"HTTP_PROXY": "a"}, "http://localhost:8250", None),
        ({"HTTP_PROXY": "a"}, "http://[::1]:8250", None),
        ({"HTTP_PROXY": "a"}, "http://127.0.0.2:8250", "a:80"),
    ],
)
def test_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, expected: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(httpx.URL(url))
    assert (proxy and proxy_address(proxy)) == expected


def client() -> None:
    MagnetisClient(API, KEY, RecordingGuard())


def webhook() -> None:
    post_json("https://hooks.invalid/services/T0", {"text": "x"})


def launch() -> None:
    DagsterApi("https://dagster.invalid")


everybody = pytest.mark.parametrize("user", [client, webhook, launch])


@everybody
@pytest.mark.parametrize(
    "value",
    [
        f"gopher://me:{PASSWORD}@proxy",
        "http://",
        "http://:3128",
        "http://proxy:port",
        "http://proxy:99999",
        "http://proxy:0",
        "http://two words:80",
        "https://[::1",
        "http//proxy:3128",
        f"http://me:{PASSWORD}@x@proxy:3128",
        f"http://me:12/{PASSWORD}@proxy:3128",
        f"http://me:12#{PASSWORD}@proxy:3128",
        f"http://me:12?{PASSWORD}@proxy:3128",
        f"http://{PASSWORD} word@proxy:99999",
    ],
)
def test_a_malformed_proxy_is_reported_without_its_value(
    monkeypatch: pytest.MonkeyPatch, user: Callable[[], None], value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(
        PermanentError, match=r"^HTTPS_PROXY does not name a proxy: expected http://host:port"
    ) as caught:
        user()
    assert PASSWORD not in "".join(map(repr, chain(caught.value)))
    monkeypatch.setenv("NO_PROXY", "*")
    proxy_for(httpx.URL(API))


@everybody
def test_a_socks_proxy_without_its_package(
    monkeypatch: pytest.MonkeyPatch, user: Callable[[], None]
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://me:{PASSWORD}@proxy")
    with pytest.raises(
        PermanentError, match=r"^ALL_PROXY names a SOCKS proxy, .* socksio"
    ) as caught:
        user()
    assert PASSWORD not in str(caught.value)


@everybody
@pytest.mark.parametrize(
    ("variable", "content", "reason"),
    [
        ("SSL_CERT_FILE", None, "No such file or directory"),
        ("SSL_CERT_FILE", ..., "Is a directory|contains no certificates"),
        ("SSL_CERT_FILE", b"", "contains no certificates in PEM format"),
        ("SSL_CERT_FILE", b"no certificate", "contains no certificates in PEM format"),
        ("SSL_CERT_FILE", b"\xff\xfe\x00", "contains no certificates in PEM format"),
        (
            "SSL_CERT_FILE",
            b"-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n",
            "contains no certificates in PEM format",
        ),
        ("SSL_CERT_DIR", None, "No such file or directory"),
        ("SSL_CERT_DIR", b"", "Not a directory"),
        ("SSL_CERT_DIR", ..., "expected certificates named by `openssl rehash`"),
    ],
)
def test_unusable_certificates_are_reported_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: Callable[[], None],
    variable: str,
    content: bytes | None,
    reason: str,
) -> None:
    path = tmp_path / "ca"
    if content is ...:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(
        PermanentError, match=rf"^{variable}: .*({reason}).*Correct the variable, or unset it"
    ):
        user()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").touch(mode=0)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(PermanentError, match=r"^SSL_CERT_FILE: .*Permission denied"):
        certificates()


def test_an_empty_variable_means_the_usual_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = len(certificates().get_ca_certs())
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("SSL_CERT_DIR", "")
    assert len(certificates().get_ca_certs()) == usual > 50


def test_each_client_reads_the_certificates_as_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replaced authority is trusted, and a removed one no longer, without a restart."""
    file = tmp_path / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    trusted = []
    for authority in (trustme.CA(), trustme.CA()):
        authority.cert_pem.write_to_path(str(file))
        os.utime(file, (0, 0))  # as `cp -p` and `rsync -t` keep it
        options = transport_options(httpx.URL("https://api.test"))
        trusted.append(options["verify"].get_ca_certs(binary_form=True))
    assert len(trusted[0]) == len(trusted[1]) == 1
    assert trusted[0] != trusted[1]


def test_plain_http_trusts_no_certificate() -> None:
    assert transport_options(httpx.URL("http://127.0.0.1:8250"))["verify"].get_ca_certs() == []


class Proxy:
    """A proxy on loopback that tunnels every CONNECT to `target` or answers it with `refusal`."""

    def __init__(self, target: int = 0, refusal: bytes = b"") -> None:
        self._target, self._refusal = target, refusal
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self._refusal or b"HTTP/1.1 200 Connected\r\n\r\n")
        if not self._refusal:
            inward, outward = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_forward(reader, outward), _forward(inward, writer))
        writer.close()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def listen(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _one_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(page([{"id": 1}]))
    await writer.drain()
    writer.close()


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
@pytest.mark.parametrize("by_directory", [False, True])
def test_tls_through_a_proxy_with_the_companys_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_directory: bool
) -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.test").configure_cert(serving)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)

    async def attempt() -> None:
        async with listen(_one_page, serving) as target:
            proxy = Proxy(target)
            async with listen(proxy.serve) as port:
                monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{port}")
                async with MagnetisClient(
                    "https://api.test", KEY, RecordingGuard(), limits=QUICK
                ) as untrusting:
                    with pytest.raises(api.CertificateRefused, match="SSL_CERT_FILE"):
                        await untrusting.page(CALL)
                if by_directory:
                    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
                else:
                    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
                async with MagnetisClient(
                    "https://api.test", KEY, RecordingGuard(), limits=QUICK
                ) as trusting:
                    assert (await trusting.page(CALL)).rows == [{"id": 1}]
            credentials = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
            assert proxy.heads[-1].startswith("CONNECT api.test:443 ")
            assert credentials in proxy.heads[-1]
            assert KEY not in "".join(proxy.heads)

    asyncio.run(attempt())


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (407, api.ProxyRefused, "rejected the request (HTTP 407). The API did not receive it."),
        (403, api.ProxyRefused, "rejected the request (HTTP 403). The API did not receive it."),
        (502, api.NotConnected, "cannot connect to it (HTTP 502)"),
        (504, api.NotConnected, "cannot connect to it (HTTP 504)"),
    ],
)
def test_a_refusing_proxy_is_named_without_credentials(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    kind: type[Exception],
    words: str,
) -> None:
    async def attempt() -> str:
        proxy = Proxy(
            refusal=raw(status, b"me: " + PASSWORD.encode()).replace(b"Scripted", PASSWORD.encode())
        )
        async with listen(proxy.serve) as port:
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{port}")
            guard = RecordingGuard()
            async with MagnetisClient(API, KEY, guard, limits=QUICK) as client:
                with pytest.raises(kind) as caught:
                    await client.page(CALL)
            assert type(caught.value) is kind
            assert f"the proxy 127.0.0.1:{port} {words}" in str(caught.value)
            assert_no_secrets(caught.value, caplog.text)
            assert [outcome.status for outcome in guard.outcomes.values()] == [None]
            return "".join(map(str, chain(caught.value))) + caplog.text

    assert PASSWORD not in asyncio.run(attempt())


def test_a_proxy_that_rejects_plain_http_and_an_unreachable_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(kind: type[Exception]) -> str:
        async with MagnetisClient(
            "http://api.invalid", KEY, RecordingGuard(), limits=QUICK
        ) as client:
            with pytest.raises(kind) as caught:
                await client.page(CALL)
        return str(caught.value)

    async def attempt() -> None:
        async with ScriptedServer([raw(407)]) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.origin)
            address = proxy.origin.removeprefix("http://")
            assert f"the proxy {address} rejected the request (HTTP 407)" in await fails(
                api.ProxyRefused
            )
        assert f"api.invalid: no connection through the proxy {address}. Check " in await fails(
            api.NotConnected
        )

    asyncio.run(attempt())
