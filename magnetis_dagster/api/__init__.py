"""Request pages from the Magnetis API, one at a time.

The client charges each request before it sends it, retries, and raises errors named by their
remedy.

`ingest` decides which pages form a window and checks that they are complete. `quota` counts the
calls. This package contains no SQL and no Dagster.
"""

from magnetis_dagster.api.client import ClientLimits, MagnetisClient
from magnetis_dagster.api.concurrency import CHARGED_AHEAD
from magnetis_dagster.api.errors import (
    AccessForbidden,
    CertificateRefused,
    NotConnected,
    ProxyRefused,
    RateLimited,
    RedirectRefused,
    RequestNotAllowed,
    RequestRejected,
    ResponseTooLarge,
    RouteUnavailable,
    ServerUnavailable,
    UnexpectedResponse,
    Unreachable,
)
from magnetis_dagster.api.response import Page, read_envelope
from magnetis_dagster.api_calls import ApiCall, CallOutcome, ConfirmingGuard, QuotaGuard
from magnetis_dagster.errors import KeyRefused

__all__ = [
    "CHARGED_AHEAD",
    "AccessForbidden",
    "ApiCall",
    "CallOutcome",
    "CertificateRefused",
    "ClientLimits",
    "ConfirmingGuard",
    "KeyRefused",
    "MagnetisClient",
    "NotConnected",
    "Page",
    "ProxyRefused",
    "QuotaGuard",
    "RateLimited",
    "RedirectRefused",
    "RequestNotAllowed",
    "RequestRejected",
    "ResponseTooLarge",
    "RouteUnavailable",
    "ServerUnavailable",
    "UnexpectedResponse",
    "Unreachable",
    "read_envelope",
]
