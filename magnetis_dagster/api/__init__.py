"""HOW to ask Magnetis: one page at a time, every call charged before it is sent, errors named by what to do about them.

Reading a window (which pages, how often, what they must add up to) belongs to `ingest`; counting calls belongs to `quota`.
No SQL, no Dagster.
"""

from magnetis_dagster.api.client import ClientLimits, MagnetisClient
from magnetis_dagster.api.contract import Call, ConfirmingGate, Gate, Outcome, Page
from magnetis_dagster.api.envelope import read_envelope
from magnetis_dagster.api.errors import (
    AccessForbidden,
    BodyTooLarge,
    CertificateRefused,
    KeyRefused,
    NotConnected,
    ProxyRefused,
    RedirectRefused,
    RequestNotAllowed,
    RequestRejected,
    RouteUnavailable,
    ServerUnwell,
    TooManyCalls,
    UnexpectedAnswer,
    Unreachable,
)
from magnetis_dagster.api.inflight import CHARGED_AHEAD

__all__ = [
    "CHARGED_AHEAD",
    "AccessForbidden",
    "BodyTooLarge",
    "Call",
    "CertificateRefused",
    "ClientLimits",
    "ConfirmingGate",
    "Gate",
    "KeyRefused",
    "MagnetisClient",
    "NotConnected",
    "Outcome",
    "Page",
    "ProxyRefused",
    "RedirectRefused",
    "RequestNotAllowed",
    "RequestRejected",
    "RouteUnavailable",
    "ServerUnwell",
    "TooManyCalls",
    "UnexpectedAnswer",
    "Unreachable",
    "read_envelope",
]
