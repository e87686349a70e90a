"""Find the error that a response body reports, whatever its status line says."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_MESSAGES = (
    *(
        "message",
        "error_message",
        "error_description",
        "error",
        "errors",
        "description",
        "detail",
        "details",
    ),
    *("title", "reason", "msg", "fault", "faultstring", "exception", "meta"),
)
"""Members that contain a message, or an object or list with one; the most explicit first."""
_ERRORS = ("error", "errors", "error_message", "error_code", "exception", "fault")
"""Members that report an error unless they are empty."""
_SUCCESS = ("success", "successful", "ok", "is_success", "isSuccess")
_RESULTS = ("status", "result", "state")
_FAILED = {"error", "err", "fail", "failed", "failure", "ko", "nok", "exception"}
_STATUSES = (
    "status",
    "code",
    "status_code",
    "statusCode",
    "http_status",
    "http_code",
    "error_code",
)
_NOTHING = {"", "0", "00", "000", "n", "no", "non", "none", "null", "false", "ko", "ok", "200"}
_FINE = re.compile(
    r"(ok|success\w*|succès|done|complete[d]?|fine|found|active|available|2\d\d|0+|none|null|true|empty"
    r"|(no|0|zero) (calls?|results?|rows?|records?|items?|entries|data|match(es)?)\b.*"
    r"|aucune? .*)?[.! ]*",
    re.IGNORECASE,
)
"""Texts beside an empty list that do not report an error."""
_TROUBLE = re.compile(
    r"unavailable|indisponible|error|erreur|fail|échec|time.?out|timed out|\bdown\b|maintenance"
    r"|exception|overload|surcharg|try again|réessay|partial|partiel|incomplet|degraded|dégradé"
    r"|refused|cannot|could not|impossible",
    re.IGNORECASE,
)
_MODES = ("status", "statut", "result", "state", "code", "error_code")
_NOTICES = ("message", "msg", "warning", "warnings", "notice")
_FLAGS = (
    "timed_out",
    "timeout",
    "partial",
    "is_partial",
    "degraded",
    "incomplete",
    "truncated",
    "terminated_early",
)
_SIGNS = frozenset({*_ERRORS, *_SUCCESS, *_RESULTS, *_STATUSES})
_MENTIONS_KEY = re.compile(
    r"unauthenticated|unauthori[sz]ed|not authenticated|authentication|non authentifié"
    r"|authentification"
    r"|(invalid|unknown|expired|missing|wrong|revoked|disabled)\W+(api\W?)?key"
    r"|\bkey\b.{0,20}(invalid|unknown|expired|missing|revoked|disabled)"
    r"|\bclé\b.{0,20}(invalide|inconnue|expirée|absente|révoquée|désactivée)",
    re.IGNORECASE,
)
_MENTIONS_ACCESS = re.compile(
    r"forbidden|permission|access denied|not allowed|accès (refusé|interdit)|droits? insuffisant",
    re.IGNORECASE,
)
_SEARCHED = 4_000
"""Characters of a message that are searched."""


def message_of(content: object, levels: int = 3) -> str:
    """Return the message of an error body.

    Searches the usual members, and those of nested objects and lists.
    """
    if isinstance(content, str):
        return content.strip()
    members: list[object] = []
    if levels and isinstance(content, dict):
        members = [content.get(name) for name in _MESSAGES]
    elif levels and isinstance(content, list):
        members = content[:3]
    return next(filter(None, (message_of(member, levels - 1) for member in members)), "")


def find_error(
    content: Mapping[str, Any], mentions_quota: re.Pattern[str]
) -> tuple[int, str] | None:
    """Return status and message of the error in an envelope; None if there is none.

    A flag or a non-empty error member counts at the top, in `meta`, and in `data` if that is not a
    row. Without rows, a message also counts if it mentions the quota or the key, or if it stands
    alone.
    """
    data = content.get("data")
    no_row = (
        isinstance(data, dict)
        and "id" not in data
        and not all(isinstance(value, dict) for value in data.values())
    )
    places = [
        content,
        *(
            place
            for place in (content.get("meta"), data if no_row else None)
            if isinstance(place, dict)
        ),
    ]
    rowless = not data or no_row
    if not rowless and all(map(_SIGNS.isdisjoint, places)):
        return None
    message = next(filter(None, map(message_of, places)), "")
    by_message = _status_of_message(message[:_SEARCHED], mentions_quota)
    stated = next((status for place in places for status in _error_statuses(place)), None)
    if (
        rowless
        and not any(_announces_rows(place) for place in places)
        and any(map(_reports_problem, places))
    ):
        return (stated or by_message or 500), message
    if stated is None and not any(map(_reports_error, places)):
        alone = data is None and not any("total" in place for place in places)
        alone = alone and not any(isinstance(value, list) for value in content.values())
        if not (message and rowless and (by_message or alone or no_row)):
            return None
    if by_message == 429 and (stated in {None, 400, 402, 403} or (stated or 0) >= 500):
        return 429, message
    return stated or by_message or 500, message


def _announces_rows(place: Mapping[str, Any]) -> bool:
    total = place.get("total")
    return isinstance(total, int) and total > 0


def _reports_problem(place: Mapping[str, Any]) -> bool:
    """Return whether a member beside an empty list reports a problem.

    An empty list is accepted only if nothing contradicts it.
    """
    stated = (
        str(place[name]).strip()
        for name in _MODES
        if isinstance(place.get(name), str | int | float)
    )
    noticed = (message_of(place.get(name)) for name in _NOTICES)
    return (
        any(not _FINE.fullmatch(text[:200]) for text in stated)
        or any(_TROUBLE.search(text[:_SEARCHED]) for text in noticed)
        or any(_filled(place.get(name)) for name in _FLAGS)
    )


def _reports_error(place: Mapping[str, Any]) -> bool:
    return (
        any(_filled(place.get(name)) and not _is_fine(place.get(name)) for name in _ERRORS)
        or any(
            name in place and place[name] is not None and not _filled(place[name])
            for name in _SUCCESS
        )
        or any(str(place.get(name)).strip().lower() in _FAILED for name in _RESULTS)
    )


def _is_fine(value: object) -> bool:
    return isinstance(value, str) and bool(_FINE.fullmatch(value.strip()[:200]))


def _filled(value: object, levels: int = 3) -> bool:
    if levels and isinstance(value, dict | list):
        return any(
            _filled(member, levels - 1)
            for member in (value.values() if isinstance(value, dict) else value)
        )
    return bool(value) and str(value).strip().lower() not in _NOTHING


def _error_statuses(place: Mapping[str, Any]) -> Iterator[int]:
    """Yield the HTTP error statuses in `place` and in its nested errors."""
    for name in _STATUSES:
        text = str(place.get(name)).strip()
        if re.fullmatch("[45][0-9]{2}", text):
            yield int(text)
    for name in ("error", "errors"):
        errors = place.get(name)
        for error in errors[:3] if isinstance(errors, list) else [errors]:
            if isinstance(error, dict):
                yield from _error_statuses(error)


def _status_of_message(message: str, mentions_quota: re.Pattern[str]) -> int | None:
    if mentions_quota.search(message):
        return 429
    if _MENTIONS_KEY.search(message):
        return 401
    return 403 if _MENTIONS_ACCESS.search(message) else None
