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

_MENTIONS_QUOTA = re.compile(
    r"quota|too many|rate.?limit|(daily|hourly|call|request)s? limit"
    r"|limit\w* (is |was |has been |est )?(reached|exceeded|atteinte|dépassée)"
    r"|(exceed|reach)\w* (\w+ ){0,4}limit|trop d['e ]|calls? (per|a) day|appels? par jour",
    re.IGNORECASE,
)
_MENTIONS_KEY = re.compile(
    r"\b(api.?)?key\b.{0,20}\b(disabled|revoked|suspended|blocked|deactivated|inactive|expired|invalid|unknown)"
    r"|\b(disabled|revoked|suspended|blocked|deactivated|inactive|expired|invalid|unknown)\b.{0,10}\b(api.?)?key\b"
    r"|\bclé\b.{0,20}\b(désactivée|révoquée|suspendue|bloquée|expirée|invalide|inconnue)",
    re.IGNORECASE,
)
_MENTIONS_ADDRESS = re.compile(r"\bIPs?\b|\b(white|allow).?list", re.IGNORECASE)
_SHORTEST_CLOSING = 1.0
"""Seconds that a 429 closes the key if it names no time (`Retry-After: 0`), so that its retries do
not become a hot loop."""
_SHOWN_FIELDS = 10
_SEARCHED = 4_000
"""Characters of a message that are searched."""
_PROXY_CHECK = "the user, password and address in HTTPS_PROXY (HTTP_PROXY, ALL_PROXY), and NO_PROXY"
"""What an operator checks if a proxy fails."""


def location(call: ApiCall) -> str:
    """Return collection, route and page of a call, for an error text."""
    return f"{call.collection}: GET {call.route}, page {call.page}"


def error_for_response(
    call: ApiCall, status: int, rate_limit: RateLimit | None, body: bytes | None, key: str
) -> MagnetisError:
    """Return the error for a response with a 4xx or 5xx `status`.

    `body` is None if it could not be read.
    """
    content = _error_members(body)
    message = content.get("message") or content.get("error")
    message = message if isinstance(message, str) else ""
    says = f' The server says: "{scrub(message, key)}".' if message.strip() else ""
    where, searched = location(call), message[:_SEARCHED]
    if status == 429 or (status == 403 and _MENTIONS_QUOTA.search(searched)):
        return _rate_limited(where, status, rate_limit, says)
    if status == 401 or (status == 403 and _MENTIONS_KEY.search(searched)):
        return KeyRefused(
            f"{where}: the key is unknown or expired (HTTP {status}).{says} Check "
            "MAGNETIS_API_KEY, or the key of the connection. Create keys in the Magnetis interface, in the organisation, "
            "network or account: API & connecteurs > API."
        )
    match status:
        case 403:
            forbidden = AccessForbidden(
                f"{where}: the key has no access (HTTP 403).{says} Either the collection is "
                "outside the key's scope, or the key's IP filter excludes this machine: see "
                "API & connecteurs > API in the Magnetis interface. To exclude the collection, "
                "set `enabled: false` for it in MAGNETIS_CONFIG."
            )
            forbidden.everywhere = bool(_MENTIONS_ADDRESS.search(searched))
            return forbidden
        case 404 | 405 | 410:
            return RouteUnavailable(
                f"{where}: the API does not serve this route (HTTP {status}).{says} Run "
                "`magnetis probe` to find the correct one, or set "
                f"collections.{call.collection}.route in MAGNETIS_CONFIG."
            )
        case _ if status >= 500 or status in {408, 425}:
            return _unavailable(where, status, rate_limit, says)
    fields = _fields(content, key)
    rejected = f" Rejected parameters: {fields}." if fields else ""
    return RequestRejected(
        f"{where}: the API rejected the request (HTTP {status}).{says}{rejected} "
        f"Sent parameters: {', '.join([*call.parameters, 'limit', 'page'])}. "
        f"Correct collections.{call.collection}.parameters or .window in MAGNETIS_CONFIG."
    )


def _rate_limited(
    where: str, status: int, rate_limit: RateLimit | None, says: str
) -> MagnetisError:
    wait = rate_limit.wait if rate_limit else None
    wait = wait if wait is None else max(wait, _SHORTEST_CLOSING)
    requested = f" It requests a wait of {wait:.0f} s." if wait is not None else ""
    error = RateLimited(
        f"{where}: the key has no calls left for now (HTTP {status}).{requested}{says} "
        "Wait, lower MAGNETIS_DAILY_QUOTA to the quota of your contract, or ask Magnetis "
        "to raise it."
    )
    error.retry_after = wait
    return error


def _unavailable(where: str, status: int, rate_limit: RateLimit | None, says: str) -> MagnetisError:
    kind = "server" if status >= 500 else "temporary"
    error = ServerUnavailable(
        f"{where}: the API returned a {kind} error (HTTP {status}).{says} "
        "No data was lost; retry later."
    )
    error.retry_after = rate_limit.retry_after if rate_limit else None
    return error


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


def find_embedded_error(content: Mapping[str, Any]) -> tuple[int, str] | None:
    """Return status and message of an error in an envelope; None if there is none.

    The status is the one that the response should have had.
    """
    return find_error(content, _MENTIONS_QUOTA)


def error_for_connection(
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
    where, host = location(call), urlsplit(origin).netloc
    if _is_untrusted(failure):
        return CertificateRefused(
            f"{where}: this machine does not trust the TLS certificate of {host}. Behind a company "
            "proxy, set SSL_CERT_FILE to the company's certificates. Otherwise check "
            "MAGNETIS_API_URL and the clock."
        )
    if isinstance(failure, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return RequestNotAllowed(
            f"{where}: origin and route do not form a valid URL. Nothing was sent. "
            "Check the route in MAGNETIS_CONFIG."
        )
    status = _proxy_status(failure)
    if status and status.startswith("4"):
        return error_for_proxy(call, int(status), proxy)
    what, check = _cause(failure, deadline, status, sent=sent, proxy=proxy)
    kind = Unreachable if sent else NotConnected
    return kind(f"{where}: {host}: {what}. Check {check} and MAGNETIS_API_URL, then retry.")


def _cause(
    failure: Exception, deadline: float, proxy_status: str | None, *, sent: bool, proxy: str | None
) -> tuple[str, str]:
    """Return why no complete response arrived, and what to check."""
    match failure:
        case httpx.ProxyError() if proxy_status:
            return f"the proxy {proxy} cannot connect to it (HTTP {proxy_status})", _PROXY_CHECK
        case httpx.ProxyError():
            return f"the proxy {proxy} refused the connection", _PROXY_CHECK
        case _ if not sent and proxy:
            return f"no connection through the proxy {proxy}", _PROXY_CHECK
        case httpx.ConnectTimeout() | TimeoutError() if not sent:
            what, check = f"no connection within {deadline:g} s", "the network, the firewall"
        case _ if not sent:
            what, check = "no connection", "the name, the network, the firewall"
        case httpx.TimeoutException():
            what, check = "no data arrived within the time-out", "the network"
        case TimeoutError():
            slow = f"the response was not complete after {deadline:g} s"
            what, check = f"{slow} (a shorter window makes it smaller)", "the network"
        case _:
            what = "the connection was lost before the response was complete"
            check = "the network, any proxy in between"
    return what, check


def _proxy_status(failure: Exception) -> str | None:
    if not isinstance(failure, httpx.ProxyError):
        return None
    status = re.match(r"[45]\d\d\b", str(failure))
    return status and status[0]


def error_for_proxy(call: ApiCall, status: int, proxy: str | None) -> ProxyRefused:
    """Return the error for a request that a proxy rejects with a 4xx `status`."""
    return ProxyRefused(
        f"{location(call)}: the proxy {proxy} rejected the request (HTTP {status}). "
        f"The API did not receive it. Check {_PROXY_CHECK}."
    )


def _is_untrusted(failure: BaseException | None) -> bool:
    while failure is not None:
        if isinstance(failure, ssl.SSLCertVerificationError):
            return True
        failure = failure.__cause__ or failure.__context__
    return False
