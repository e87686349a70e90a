"""Define the API's errors, named by their remedy.

`error_mapping.py` composes their texts. None contains the key, a row or a value of a row.
KeyRefused is in `magnetis_dagster.errors`, because the quota guard raises it too.
"""

from magnetis_dagster.errors import PermanentError, TransientError


class AccessForbidden(PermanentError):
    """403: the key's scope excludes the collection, or its IP filter this machine."""

    everywhere = False
    """Whether the IP filter is the reason, so that the API rejects every request of this machine.
    """


class RouteUnavailable(PermanentError):
    """404, 405 or 410: the API does not serve the collection under this route.

    `magnetis probe` tries other routes.
    """


class RequestRejected(PermanentError):
    """400, 422 or another 4xx: the API does not accept the parameters."""


class RedirectRefused(PermanentError):
    """3xx: the response redirects to another address.

    Following the redirect would send the key there.
    """


class ResponseTooLarge(PermanentError):
    """The decompressed response body exceeds the size limit; the rest was not read."""


class CertificateRefused(PermanentError):
    """This machine does not trust the server's TLS certificate."""


class ProxyRefused(PermanentError):
    """The proxy rejects the request (4xx) because of its credentials or its rules.

    The API did not receive the request.
    """


class RequestNotAllowed(PermanentError):
    """The request is not a GET of the configured origin; it was not sent."""


class RateLimited(TransientError):
    """429, or a 403 about the quota: the key has no calls left for now."""

    retry_after: float | None = None
    """Seconds that the server requests to wait; None if it names none."""


class ServerUnavailable(TransientError):
    """5xx, also at the last attempt."""

    retry_after: float | None = None
    """Seconds that the server requests to wait; None if it names none."""


class UnexpectedResponse(TransientError):
    """The response is not the JSON envelope.

    It is HTML, truncated, empty, or without usable `data`. A proxy often causes this temporarily.
    """


class Unreachable(TransientError):
    """No complete response: connection refused or lost, unknown host, time-out."""


class NotConnected(Unreachable):
    """No connection to the API; nothing was sent.

    The connection was refused, the host is unknown, or the handshake failed.
    """
