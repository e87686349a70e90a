"""HOW to ask Magnetis: one page at a time, every call charged before it is sent, errors named by what to do about them.

Reading a window (which pages, how often, what they must add up to) belongs to `ingest`; counting calls belongs to `quota`.
No SQL, no Dagster.
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
