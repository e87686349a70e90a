"""What an answer that is not a page means: status, headers and an error body become an error named by what to do about it."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from magnetis_dagster.api.error_body import find_error, message_of
from magnetis_dagster.api.errors import (
    AccessForbidden,
    RateLimited,
    RequestRejected,
    RouteUnavailable,
    ServerUnavailable,
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
"""Seconds that a 429 closes the key if it asks for no time at all (`Retry-After: 0`): its requests must not become a hot loop."""
_SHOWN_FIELDS = 10


def place(call: ApiCall) -> str:
    """Return where an error happened, for its text: collection, route and page."""
    return f"{call.collection}: GET {call.route}, page {call.page}"


def judge(
    call: ApiCall, status: int, rate_limit: RateLimit | None, body: bytes | None, key: str
) -> MagnetisError:
    """Return the error that an answer with a 4xx or 5xx `status` means; `body` is None where it could not be read."""
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
    """Return the names of the refused parameters in Laravel's `errors` object: names only, their messages may echo values."""
    errors = content.get("errors")
    names = list(errors) if isinstance(errors, dict) else []
    return ", ".join(scrub(name, key, 40) for name in names[:_SHOWN_FIELDS])


def _with_wait(error: RateLimited | ServerUnavailable, retry_after: float | None) -> MagnetisError:
    error.retry_after = retry_after
    return error


def error_inside(content: Mapping[str, Any]) -> tuple[int, str] | None:
    """Return the HTTP status that the error in an envelope should have had, and its message; None if there is none."""
    return find_error(content, _SPEAKS_OF_QUOTA)
