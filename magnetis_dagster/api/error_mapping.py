"""Map failed responses and failed connections to errors named by their remedy."""

import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from magnetis_dagster.api.error_body import find_error, message_of
from magnetis_dagster.api.errors import (
    AccessForbidden,
    CertificateRefused,
    NotConnected,
    ProxyRefused,
    RateLimited,
    RequestNotAllowed,
    RequestRejected,
    RouteUnavailable,
    ServerUnavailable,
    Unreachable,
)
from magnetis_dagster.api_calls import ApiCall, RateLimit
from magnetis_dagster.errors import KeyRefused, MagnetisError
from magnetis_dagster.redaction import scrub

_SPEAKS_OF_QUOTA = re.compile(
    r"quota|too many|rate.?limit|(daily|hourly|call|request)s? limit"
    r"|limit\w* (is |was |has been |est )?(reached|exceeded|atteinte|dépassée)"
    r"|(exceed|reach)\w* (\w+ ){0,4}limit|trop d['e ]|calls? (per|a) day|appels? par jour",
    re.IGNORECASE,
)
_SPEAKS_OF_THE_KEY = re.compile(
    r"\b(api.?)?key\b.{0,20}\b(disabled|revoked|suspended|blocked|deactivated|inactive|expired|invalid|unknown)"
    r"|\b(disabled|revoked|suspended|blocked|deactivated|inactive|expired|invalid|unknown)\b.{0,10}\b(api.?)?key\b"
    r"|\bclé\b.{0,20}\b(désactivée|révoquée|suspendue|bloquée|expirée|invalide|inconnue)",
    re.IGNORECASE,
)
_SPEAKS_OF_THE_ADDRESS = re.compile(r"\bIPs?\b|\b(white|allow).?list", re.IGNORECASE)
_SHORTEST_CLOSING = 1.0
"""Seconds that a 429 closes the key if it names no time (`Retry-After: 0`), so that its retries do
not become a hot loop."""
_SHOWN_FIELDS = 10
_PROXY_CHECK = "the user, password and address in HTTPS_PROXY (HTTP_PROXY, ALL_PROXY), and NO_PROXY"
"""What an operator checks if a proxy fails."""


def place(call: ApiCall) -> str:
    """Return collection, route and page of a call, for an error text."""
    return f"{call.collection}: GET {call.route}, page {call.page}"


def judge(
    call: ApiCall, status: int, rate_limit: RateLimit | None, body: bytes | None, key: str
) -> MagnetisError:
    """Return the error for a response with a 4xx or 5xx `status`.

    `body` is None if it could not be read.
    """
    content = _error_members(body)
    message = content.get("message") or content.get("error")
    message = message if isinstance(message, str) else ""
    says = f' The server says: "{scrub(message, key)}".' if message.strip() else ""
    where = place(call)
    if status == 429 or (status == 403 and _SPEAKS_OF_QUOTA.search(message[:4_000])):
        wait = rate_limit.wait if rate_limit else None
        wait = wait if wait is None else max(wait, _SHORTEST_CLOSING)
        asks = f" It asks to wait {wait:.0f} s." if wait is not None else ""
        return _with_wait(
            RateLimited(
                f"{where}: the key has no calls left for now (HTTP {status}).{asks}{says} Wait, lower MAGNETIS_DAILY_QUOTA to what "
                "the contract grants, or ask Magnetis to raise it."
            ),
            wait,
        )
    if status == 401 or (status == 403 and _SPEAKS_OF_THE_KEY.search(message[:4_000])):
        return KeyRefused(
            f"{where}: the key is unknown or expired (HTTP {status}).{says} Check MAGNETIS_API_KEY; keys are made in the Magnetis "
            "interface, in the organisation, network or account: API & connecteurs > API."
        )
    match status:
        case 403:
            forbidden = AccessForbidden(
                f"{where}: the key may not read this (HTTP 403).{says} Either the collection lies outside the key's scope, or the "
                "IP filter of the key does not list this machine: see API & connecteurs > API in the Magnetis interface. "
                "To leave the collection out, set `enabled: false` for it in MAGNETIS_CONFIG."
            )
            forbidden.everywhere = bool(_SPEAKS_OF_THE_ADDRESS.search(message[:4_000]))
            return forbidden
        case 404 | 405 | 410:
            return RouteUnavailable(
                f"{where}: the API does not serve this route (HTTP {status}).{says} Run `magnetis probe` to find the right one, or "
                f"set collections.{call.collection}.route in MAGNETIS_CONFIG."
            )
        case _ if status >= 500 or status in {408, 425}:
            return _with_wait(
                ServerUnavailable(
                    f"{where}: the API is not well (HTTP {status}).{says} Nothing is lost; run it again later."
                ),
                rate_limit.retry_after if rate_limit else None,
            )
    fields = _fields(content, key)
    about = f" Refused: {fields}." if fields else ""
    return RequestRejected(
        f"{where}: the API does not accept the request (HTTP {status}).{says}{about} Sent parameters: "
        f"{', '.join([*call.parameters, 'limit', 'page'])}. "
        f"Correct collections.{call.collection}.parameters or .window in MAGNETIS_CONFIG."
    )


def _error_members(body: bytes | None) -> dict[str, Any]:
    try:
        content = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return {}
    return content | {"message": message_of(content)} if isinstance(content, dict) else {}


def _fields(content: dict[str, Any], key: str) -> str:
    """Return the names of the rejected parameters in Laravel's `errors` object.

    Names only: the messages may echo values.
    """
    errors = content.get("errors")
    names = list(errors) if isinstance(errors, dict) else []
    return ", ".join(scrub(name, key, 40) for name in names[:_SHOWN_FIELDS])


def _with_wait(error: RateLimited | ServerUnavailable, retry_after: float | None) -> MagnetisError:
    error.retry_after = retry_after
    return error


def error_inside(content: Mapping[str, Any]) -> tuple[int, str] | None:
    """Return the HTTP status and the message of an error in an envelope; None if there is none.

    The status is the one that the response should have had.
    """
    return find_error(content, _SPEAKS_OF_QUOTA)


def describe(
    call: ApiCall,
    origin: str,
    failure: Exception,
    deadline: float,
    *,
    sent: bool,
    proxy: str | None = None,
) -> MagnetisError:
    """Return the error for a failure of httpx or an exceeded deadline.

    The text quotes nothing of the failure except the status of a proxy.

    `deadline`: seconds. `sent`: whether the request was sent; if not, the connection failed.
    `proxy`: host and port of the proxy, if there is one.
    """
    where, host = place(call), urlsplit(origin).netloc
    if _untrusted(failure):
        return CertificateRefused(
            f"{where}: the TLS certificate of {host} is not trusted by this machine. Behind a company proxy, set SSL_CERT_FILE to "
            "the company's certificates; otherwise check MAGNETIS_API_URL and the clock."
        )
    if isinstance(failure, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return RequestNotAllowed(
            f"{where}: origin and route do not make an address that can be asked. Nothing was sent. "
            "Check the route in MAGNETIS_CONFIG."
        )
    match failure:
        case httpx.ProxyError() if status := re.match(r"[45]\d\d\b", str(failure)):
            if status[0].startswith("4"):
                return refused_by_proxy(call, int(status[0]), proxy)
            what, check = f"the proxy {proxy} cannot connect to it (HTTP {status[0]})", _PROXY_CHECK
        case httpx.ProxyError():
            what, check = f"the proxy {proxy} refused the connection", _PROXY_CHECK
        case _ if not sent and proxy:
            what, check = f"no connection through the proxy {proxy}", _PROXY_CHECK
        case httpx.ConnectTimeout() | TimeoutError() if not sent:
            what, check = f"no connection within {deadline:g} s", "the network, the firewall"
        case _ if not sent:
            what, check = "no connection", "the name, the network, the firewall"
        case httpx.TimeoutException():
            what, check = "silence beyond the time-out", "the network"
        case TimeoutError():
            what, check = (
                f"the answer was not complete after {deadline:g} s",
                "the network; a shorter window makes smaller answers",
            )
        case _:
            what, check = (
                "the connection was lost before the answer was complete",
                "the network and any proxy on the way",
            )
    kind = Unreachable if sent else NotConnected
    return kind(f"{where}: {host}: {what}. Check {check} and MAGNETIS_API_URL, then run it again.")


def refused_by_proxy(call: ApiCall, status: int, proxy: str | None) -> ProxyRefused:
    """Return the error for a request that a proxy rejects with a 4xx `status`."""
    return ProxyRefused(
        f"{place(call)}: the proxy {proxy} rejected the request (HTTP {status}). The API did not receive it. Check {_PROXY_CHECK}."
    )


def _untrusted(failure: BaseException | None) -> bool:
    while failure is not None:
        if isinstance(failure, ssl.SSLCertVerificationError):
            return True
        failure = failure.__cause__ or failure.__context__
    return False
