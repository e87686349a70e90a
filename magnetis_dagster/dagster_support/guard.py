"""ASGI middleware that refuses requests to Dagster from pages of other sites.

Dagster's webserver has no login, accepts every host name and origin, and accepts mutations by GET.
The guard checks, in this order (docs/decisions/0018-guard.md):

1. Host: one header with an allowed name, against DNS rebinding.
2. Method: GET, HEAD and POST only. Headers that override the method have no effect.
3. Origin and Sec-Fetch-Site: our own pages only, or a link to the UI that somebody follows. Curl
   and Python clients send neither.
4. GraphQL by GET is refused. POST requires `Content-Type: application/json`, which a form cannot
   send.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import chain
from typing import Self
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "webserver", "viewer"})
"""Loopback, and the services of docker-compose.yml."""
OWN_SITE = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for our pages, and for an address that the user typed or a bookmark."""
SECURITY_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
CONTENT_SECURITY_POLICY = "frame-ancestors 'none'; form-action 'self'; img-src 'self' data: blob:"
"""Added to Dagster's own policy: no text that the UI renders requests an image elsewhere."""

_AUTHORITY = re.compile(
    r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?)(?::([0-9]{1,5}))?", re.ASCII
)
_JSON = re.compile(
    r"application/json\s*(;\s*[\w-]+=(\"[^\"]*\"|[\w.-]+)\s*)*", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Authority:
    """Host and port of a Host header, an Origin or a URL; `port` is None for the default."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str, scheme: str = "") -> Self | None:
        """Return the authority in lower case, without a trailing dot; None if `text` is not one."""
        match = _AUTHORITY.fullmatch(text.strip().lower())
        if match is None:
            return None
        address, name, port = match.groups()
        try:
            host = canonical(address) if address else name
        except ValueError:
            return None
        return cls(host, None if port is None else int(port)).without_default_port(scheme)

    def without_default_port(self, scheme: str) -> Self:
        """Return the authority without the port if it is the default of the scheme."""
        is_default = self.port == {"http": 80, "https": 443}.get(scheme)
        return replace(self, port=None) if is_default else self


def canonical(address: str) -> str:
    """Return the canonical spelling of an IP address. Raises: ValueError if it is not one."""
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


class Guard:
    """Passes allowed requests and websockets to `app`, refuses others, adds security headers.

    `hosts` are names or addresses without a port. `ui_url` is the address under which people open
    the UI: its pages are our own, even if a proxy replaces the Host header.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str] = (), ui_url: str | None = None
    ) -> None:
        self._app = app
        self._ui = _origin(ui_url) if ui_url else None
        named = {*map(str.lower, hosts), *([self._ui[1].host] if self._ui else [])}
        # Browsers connect to loopback under 0.0.0.0 too, and pages of other sites may use that.
        self._hosts = (LOCAL_NAMES | named) - {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                headers.append("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            await send(message)

        if scope["type"] == "http":
            await (self._refusal(scope) or self._app)(scope, receive, send_with_headers)
        elif scope["type"] == "websocket" and (refusal := self._refusal(scope)):
            await WebSocket(scope, receive, send).send_denial_response(refusal)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        own = Authority.parse(hosts[0]) if len(hosts) == 1 else None
        if own is None:
            return _refuse(
                HTTPStatus.BAD_REQUEST, "Expected one Host header with a host name or an address.\n"
            )
        forwarded = (value.split(",") for value in headers.getlist("x-forwarded-host"))
        for authority in (own, *map(Authority.parse, chain.from_iterable(forwarded))):
            if authority is None or not self._is_allowed(authority.host, scope):
                return _foreign_host(authority.host if authority else "")
        method = scope.get("method", "GET")
        if method not in {"GET", "HEAD", "POST"}:
            return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, "Expected GET, HEAD or POST.\n")
        sites = {value.strip().lower() for value in headers.getlist("sec-fetch-site")}
        if not self._is_own_page(headers, own) or not (
            sites <= OWN_SITE or _follows_link(headers, method)
        ):
            return _foreign_page(own.host)
        return _wrong_form(scope, headers, method)

    def _is_allowed(self, host: str, scope: Scope) -> bool:
        if host in self._hosts:
            return True
        # The local address of this connection, such as a pod's: no DNS name leads to it.
        address = (scope.get("server") or ("",))[0]
        try:
            return host == canonical(address)
        except ValueError:
            return False

    def _is_own_page(self, headers: Headers, own: Authority) -> bool:
        """Return whether every Origin header is the address of this request or of the UI."""
        origins = map(_origin, headers.getlist("origin"))
        return all(
            each and (each == self._ui or each[1] == own.without_default_port(each[0]))
            for each in origins
        )


def _origin(url: str) -> tuple[str, Authority] | None:
    """Return scheme and authority; None for `null` and for anything but an http address."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"}:
        return None
    authority = Authority.parse(parts.netloc, parts.scheme)
    return (parts.scheme, authority) if authority else None


def _follows_link(headers: Headers, method: str) -> bool:
    """Return whether a tab navigates to the UI: the page with the link cannot read the response."""
    return (
        method != "POST"
        and headers.getlist("sec-fetch-mode") == ["navigate"]
        and headers.getlist("sec-fetch-dest") == ["document"]
    )


def _wrong_form(scope: Scope, headers: Headers, method: str) -> Response | None:
    if scope["type"] == "websocket":
        return None
    if method == "POST":
        kinds = headers.getlist("content-type")
        if len(kinds) != 1 or not _JSON.fullmatch(kinds[0].strip()):
            return _refuse(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "Expected POST with exactly Content-Type: application/json.\n",
            )
    # rstrip: a route's `$` matches before a line break too
    elif scope["path"].rstrip().endswith("/graphql") and scope["query_string"]:
        return _refuse(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "Expected GraphQL as POST with Content-Type: application/json, not in the address.\n",
        )
    return None


def _refuse(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(text, status, SECURITY_HEADERS)


def _foreign_host(host: str) -> Response:
    shown = f" {host}" if host else ""
    return _refuse(
        HTTPStatus.FORBIDDEN,
        f"The host name{shown} is not allowed for this Dagster UI. If you open the UI under this "
        "name, add it to MAGNETIS_UI_HOSTS (names, separated by commas) or set MAGNETIS_UI_URL to "
        "its address, and restart the webserver.\n",
    )


def _foreign_page(host: str) -> Response:
    return _refuse(
        HTTPStatus.FORBIDDEN,
        f"A page of another site sent this request to {host}. Expected Origin and Sec-Fetch-Site "
        "of the UI itself. If people open the UI under another address (a proxy), set "
        "MAGNETIS_UI_URL to it, and restart the webserver.\n",
    )
