"""What an answer that is not a page means: status, headers and an error body become an error named by what to do about it."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from magnetis_dagster.api.complaint import find_error, message_of
from magnetis_dagster.api.contract import Call
from magnetis_dagster.api.errors import (
    AccessForbidden,
    KeyRefused,
    RequestRejected,
    RouteUnavailable,
    ServerUnwell,
    TooManyCalls,
)
from magnetis_dagster.api.scrub import scrub
from magnetis_dagster.errors import MagnetisError

_SPEAKS_OF_QUOTA = re.compile(
    r"quota|too many|rate.?limit|(daily|hourly|call|request)s? limit"
    r"|limit\w* (is |was |has been |est )?(reached|exceeded|atteinte|dépassée)"
    r"|(exceed|reach)\w* (\w+ ){0,4}limit|trop d['e ]|calls? (per|a) day|appels? par jour",
    re.IGNORECASE,
)
_LONGEST_WAIT = 7 * 86_400.0
"""Seconds: a server that asks for more than a week is not taken at its word."""
_SHOWN_FIELDS = 10


def place(call: Call) -> str:
    """Return where an error happened, for its text: collection, route and page."""
    return f"{call.collection}: GET {call.route}, page {call.page}"


def judge(call: Call, status: int, headers: Mapping[str, str], body: bytes | None, key: str) -> MagnetisError:
    """Return the error that an answer with a 4xx or 5xx `status` means; `body` is None where it could not be read."""
    content = _error_members(body)
    message = content.get("message") or content.get("error")
    message = message if isinstance(message, str) else ""
    says = f' The server says: "{scrub(message, key)}".' if message.strip() else ""
    where = place(call)
    retry_after = read_retry_after(headers.get("retry-after"))
    if status == 429 or (status == 403 and _SPEAKS_OF_QUOTA.search(message[:4_000])):
        wait = f" It asks to wait {retry_after:.0f} s." if retry_after is not None else ""
        return _with_wait(
            TooManyCalls(
                f"{where}: the key has no calls left for now (HTTP {status}).{wait}{says} Wait, lower MAGNETIS_DAILY_QUOTA to what "
                "the contract grants, or ask Magnetis to raise it."
            ),
            retry_after,
        )
    match status:
        case 401:
            return KeyRefused(
                f"{where}: the key is unknown or expired (HTTP 401).{says} Check MAGNETIS_API_KEY; keys are made in the Magnetis "
                "interface, in the organisation, network or account: API & connecteurs > API."
            )
        case 403:
            return AccessForbidden(
                f"{where}: the key may not read this (HTTP 403).{says} Either the collection lies outside the key's scope, or the "
                "IP filter of the key does not list this machine: see API & connecteurs > API in the Magnetis interface. "
                "To leave the collection out, set `enabled: false` for it in MAGNETIS_CONFIG."
            )
        case 404 | 405 | 410:
            return RouteUnavailable(
                f"{where}: the API does not serve this route (HTTP {status}).{says} Run `magnetis probe` to find the right one, or "
                f"set collections.{call.collection}.route in MAGNETIS_CONFIG."
            )
        case _ if status >= 500 or status in {408, 425}:
            return _with_wait(
                ServerUnwell(f"{where}: the API is not well (HTTP {status}).{says} Nothing is lost; run it again later."),
                retry_after,
            )
    fields = _fields(content, key)
    about = f" Refused: {fields}." if fields else ""
    return RequestRejected(
        f"{where}: the API does not accept the request (HTTP {status}).{says}{about} Sent parameters: "
        f"{', '.join([*call.parameters, 'limit', 'page'])}. "
        f"Correct collections.{call.collection}.parameters or .window in MAGNETIS_CONFIG."
    )


def read_retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header (seconds or an HTTP date) asks to wait; None where it is not usable."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", value):
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = math.ceil((moment - datetime.now(UTC)).total_seconds())
    return min(max(seconds, 0.0), _LONGEST_WAIT)


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


def _with_wait(error: TooManyCalls | ServerUnwell, retry_after: float | None) -> MagnetisError:
    error.retry_after = retry_after
    return error


def error_inside(content: Mapping[str, Any]) -> tuple[int, str] | None:
    """Return the HTTP status that the error in an envelope should have had, and its message; None if there is none."""
    return find_error(content, _SPEAKS_OF_QUOTA)
