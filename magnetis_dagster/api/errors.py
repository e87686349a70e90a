"""Errors of the API, named by what to do about them. Their texts are composed in `verdict.py` and `failures.py`.

None of them carries the key, a row or a value of a row.
"""

from magnetis_dagster.errors import PermanentError, TransientError


class AccessForbidden(PermanentError):
    """403: the collection lies outside the key's scope, or the key's IP filter does not list this machine."""

    everywhere = False
    """Whether the message names the IP filter, so that every other request of this machine would be refused too."""


class RouteUnavailable(PermanentError):
    """404, 405 or 410: the API does not serve the collection under this route. `magnetis probe` looks for another."""


class RequestRejected(PermanentError):
    """400, 422 or another 4xx: the API does not accept the parameters."""


class RedirectRefused(PermanentError):
    """3xx: the answer sends the request elsewhere; following it would carry the key there."""


class ResponseTooLarge(PermanentError):
    """The body of an answer passes the cap after decompression; the rest was not read."""


class CertificateRefused(PermanentError):
    """The server's TLS certificate is not trusted by this machine."""


class ProxyRefused(PermanentError):
    """The proxy of the environment rejects the request (4xx): credentials, or its rules. The API did not receive it."""


class RequestNotAllowed(PermanentError):
    """The HTTP layer was asked for something else than a GET of the configured origin; nothing was sent."""


class RateLimited(TransientError):
    """429, or a 403 that speaks of the quota: the key has no calls left for now."""

    retry_after: float | None = None
    """Seconds that the server asks to wait; None where it does not say."""


class ServerUnavailable(TransientError):
    """5xx, and still so at the last attempt."""

    retry_after: float | None = None
    """Seconds that the server asks to wait; None where it does not say."""


class UnexpectedResponse(TransientError):
    """The answer is not the JSON envelope: HTML, cut short, empty, or without usable `data`. Often a proxy's passing hiccup."""


class Unreachable(TransientError):
    """No complete answer: refused or lost connection, unknown host, time-out."""


class NotConnected(Unreachable):
    """No connection to the API: refused, unknown host, no answer to the handshake. The request was not sent."""
