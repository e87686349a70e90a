"""What a connection without an answer means: a failure of httpx becomes an error that names the host, not the request."""

import re
import ssl
from urllib.parse import urlsplit

import httpx

from magnetis_dagster.api.error_mapping import place
from magnetis_dagster.api.errors import (
    CertificateRefused,
    NotConnected,
    ProxyRefused,
    RequestNotAllowed,
    Unreachable,
)
from magnetis_dagster.api_calls import ApiCall
from magnetis_dagster.errors import MagnetisError

_PROXY_CHECK = "the user, password and address in HTTPS_PROXY (HTTP_PROXY, ALL_PROXY), and NO_PROXY"
"""What a person checks if a proxy fails."""


def describe(
    call: ApiCall,
    origin: str,
    failure: Exception,
    deadline: float,
    *,
    sent: bool,
    proxy: str | None = None,
) -> MagnetisError:
    """Return the error that `failure` of httpx, or the deadline in seconds, means.

    The text contains nothing of the failure's text, except the status of a proxy.
    `sent`: whether the request was sent; if it was not, the failure is one to connect.
    `proxy`: host and port of the proxy on the way.
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
    """Return the error for a request that the proxy rejects with a 4xx `status`."""
    return ProxyRefused(
        f"{place(call)}: the proxy {proxy} rejected the request (HTTP {status}). The API did not receive it. Check {_PROXY_CHECK}."
    )


def _untrusted(failure: BaseException | None) -> bool:
    while failure is not None:
        if isinstance(failure, ssl.SSLCertVerificationError):
            return True
        failure = failure.__cause__ or failure.__context__
    return False
