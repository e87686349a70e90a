"""Restrict HTTP to GET requests of one origin, without redirects.

`network.py` chooses proxy and certificates.
"""

import logging
from importlib.metadata import version
from ipaddress import IPv4Address
from urllib.parse import urlsplit

import httpx

from magnetis_dagster.api.errors import RequestNotAllowed
from magnetis_dagster.api.network import transport_options
from magnetis_dagster.api.response_body import ACCEPT_ENCODING
from magnetis_dagster.errors import KeyRefused, PermanentError
from magnetis_dagster.redaction import scrub

REDIRECTED_TO = "magnetis_redirected_to"
"""Extension of a 3xx response: the origin of its target, as text."""


class GetOnlySameOrigin(httpx.AsyncBaseTransport):
    """Passes GET requests of `origin` to `inner`.

    Raises RequestNotAllowed for any other request before a byte is sent.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, origin: httpx.URL) -> None:
        self._inner = inner
        self._origin = _origin(origin)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return the response.

        Removes a redirect's Location header, and the reason of the status line, which httpx logs.
        """
        if request.method != "GET":
            raise RequestNotAllowed(
                f"The client only reads: expected a GET, got {request.method}. Nothing was sent."
            )
        if _origin(request.url) != self._origin:
            raise RequestNotAllowed(
                f"Expected a request to {self._origin}, got one to {_origin(request.url)}. Nothing "
                "was sent, because it would have sent the key there. Check the route in "
                "MAGNETIS_CONFIG and the origin in MAGNETIS_API_URL."
            )
        response = await self._inner.handle_async_request(request)
        response.extensions.pop("reason_phrase", None)
        if 300 <= response.status_code < 400:
            location = response.headers.pop("location", "")
            response.extensions[REDIRECTED_TO] = _target(location, self._origin)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def open_http(
    origin: str, key: str, *, connections: int, timeout: httpx.Timeout
) -> httpx.AsyncClient:
    """Return an HTTP client that sends `key` as `x-api-key` to `origin` only.

    Raises: KeyRefused if the key cannot be a header value; PermanentError if the origin is invalid,
    or the environment names an unusable proxy or unusable certificates.
    """
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise KeyRefused(
            "MAGNETIS_API_KEY, or the key of the connection, is empty or contains a space, a line "
            "break or a non-ASCII character, so it is not a key. Copy it again from the Magnetis "
            "interface: API & connecteurs > API."
        )
    try:
        url = httpx.URL(origin)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise PermanentError(
            "MAGNETIS_API_URL: expected an origin such as https://api.magnetis.io."
        )
    logging.getLogger("httpcore.http11").addFilter(without_received_values)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    inner = httpx.AsyncHTTPTransport(**transport_options(url), limits=limits)
    return httpx.AsyncClient(
        transport=GetOnlySameOrigin(inner, url),
        headers={
            "x-api-key": key,
            "accept": "application/json",
            "accept-encoding": ACCEPT_ENCODING,
            "user-agent": f"magnetis_dagster/{version('magnetis_dagster')}",
        },
        timeout=timeout,
        follow_redirects=False,
        # The environment may name a proxy and certificates (network.py), but nothing else: a .netrc
        # must not add a second identity beside the key.
        trust_env=False,
    )


def without_received_values(record: logging.LogRecord) -> bool:
    """Remove received values from an httpcore log event.

    At DEBUG, httpcore logs response headers, in which a server may echo the key.
    """
    record.msg = str(record.msg).split(" return_value=")[0].split(" exception=")[0]
    return True


def _origin(url: httpx.URL) -> str:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host}:{port}"


def _target(location: str, origin: str) -> str:
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an unreadable address"
    if not parts.hostname:
        return origin
    try:
        host = str(IPv4Address(parts.hostname))
    except ValueError:
        host = scrub(parts.hostname)
    return f"{scrub(parts.scheme) or 'https'}://{host}"
