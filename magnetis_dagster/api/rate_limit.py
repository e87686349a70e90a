"""Read the rate-limit headers of a response, in each form that servers use.

`Retry-After` (seconds, HTTP date, Unix time, joined duplicates), `X-RateLimit-*`, and the
`RateLimit` and `RateLimit-Policy` fields of the IETF drafts:
https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from magnetis_dagster.api_calls import Allowance, RateLimit

LONGEST_WAIT = 90_000.0
"""Seconds: the longest quota day, 25 hours. A longer wait is implausible; a larger number is a Unix
time."""

_NUMBER = re.compile(
    r'"?\+?(?P<number>-?[0-9]{1,20}(\.[0-9]{1,9})?)"?\s*(?P<unit>ms|s|secs?|seconds?)?',
    re.IGNORECASE,
)
_DATE_BEGINS = re.compile(r"\s*(mon|tue|wed|thu|fri|sat|sun)[a-z]*\s*$", re.IGNORECASE)
_UNIX_SCALES = (1, 10**3, 10**6, 10**9)
"""Seconds, milliseconds, microseconds, nanoseconds."""
_RESETS = ("ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset", "x-ratelimit-reset-after")
_LIMITS = ("ratelimit-limit", "x-ratelimit-limit", "x-rate-limit-limit")
_REMAININGS = ("ratelimit-remaining", "x-ratelimit-remaining", "x-rate-limit-remaining")
_NAMES = {"date", "retry-after", "ratelimit", "ratelimit-policy", *_RESETS, *_LIMITS, *_REMAININGS}
_MEMBERS = {
    "q": "limit",
    "limit": "limit",
    "r": "remaining",
    "remaining": "remaining",
    "t": "reset",
    "reset": "reset",
    "w": "window",
    "window": "window",
}
_FIRST_MOMENT = 1_262_304_000.0
"""Unix time of 2010-01-01; a smaller number is not a time. A time in the past requests no wait."""
_LONGEST_SIGNAL = 200
_MOST_PARTS = 8
_LONGEST_VALUE = 500


def read_rate_limit(headers: Mapping[str, str], now: float) -> RateLimit | None:
    """Return the rate limits at `now` (Unix time); None if there are no such headers.

    Absolute times are compared with the server's own `Date` if it sends one, because this machine's
    clock may be wrong.
    """
    headers = {name: headers[name] for name in map(str.lower, headers) if name in _NAMES}
    if not headers.keys() - {"date"}:
        return None
    shown: list[str] = []
    now = _server_time(headers, now)

    def numbers(*names: str) -> float | None:
        found = None
        for name in names:
            if (value := headers.get(name)) is not None:
                parts = [_seconds(part, now) for part in _parts(value)]
                shown.append(f"{_title(name)}: {', '.join(words for _, words in parts) or 'empty'}")
                seconds = [seconds for seconds, _ in parts if seconds is not None]
                found = min(seconds) if seconds and found is None else found
        return found

    retry_after = numbers("retry-after")
    limit = _limit(headers, shown)
    remaining = next(
        (_count(value) for name in _REMAININGS if (value := headers.get(name)) is not None), None
    )
    if remaining is not None:
        shown.append(f"X-RateLimit-Remaining: {remaining:.0f}")
    reset = numbers(*_RESETS)
    allowances = _drafts(headers, shown)
    if limit is not None or remaining is not None or reset is not None:
        allowances.insert(0, replace(limit or Allowance(), remaining=remaining, reset=reset))
    return RateLimit(retry_after, tuple(allowances), ", ".join(shown)[:_LONGEST_SIGNAL])


def _server_time(headers: Mapping[str, str], now: float) -> float:
    moment = _moment(headers.get("date", ""))
    return now if moment is None else moment


def _parts(value: str) -> Iterator[str]:
    """Yield the values that a proxy joined with commas.

    The comma of an HTTP date is not a separator.
    """
    weekday = ""
    for part in value[:_LONGEST_VALUE].split(",")[: 2 * _MOST_PARTS]:
        if _DATE_BEGINS.match(part):
            weekday = part
        elif whole := (f"{weekday},{part}" if weekday else part).strip():
            yield whole
            weekday = ""


def _seconds(text: str, now: float) -> tuple[float | None, str]:
    """Return the seconds that `text` requests, and `text` in a safe form.

    The seconds are None if they are unreadable or implausible.
    """
    if match := _NUMBER.fullmatch(text):
        number = float(match["number"])
        if (match["unit"] or "").lower() == "ms":
            number /= 1_000
        if number < 0:
            return 0.0, "negative"
        if number <= LONGEST_WAIT:
            return number, f"{number:g}"
        moments = [number / scale for scale in _UNIX_SCALES]
    else:
        moment = _moment(text)
        if moment is None:
            return None, "unreadable"
        moments = [moment]
    for moment in moments:
        if _FIRST_MOMENT <= moment <= now + LONGEST_WAIT:
            return max(
                0.0, moment - now
            ), f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return None, "implausible"


def _moment(text: str) -> float | None:
    """Return the Unix time of an HTTP date or an ISO 8601 time."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(text.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, IndexError, TypeError):
            continue
    return None


def _limit(headers: Mapping[str, str], shown: list[str]) -> Allowance | None:
    """Return the first limit of `X-RateLimit-Limit` or `RateLimit-Limit`.

    Examples: `60`, or `60, 60;w=60, 5000;w=86400`.
    """
    value = next((value for name in _LIMITS if (value := headers.get(name)) is not None), None)
    if value is None:
        return None
    found = []
    for part in _parts(value):
        first, *members = part.split(";")
        if (limit := _count(first)) is not None:
            found.append(replace(_allowance(members), limit=limit))
    shown.append(f"X-RateLimit-Limit: {', '.join(map(_shown, found)) or 'unreadable'}")
    with_window = (
        each for each in found if each.limit == found[0].limit and each.window is not None
    )
    return next(with_window, found[0]) if found else None


def _drafts(headers: Mapping[str, str], shown: list[str]) -> list[Allowance]:
    """Return the allowances of `RateLimit` and `RateLimit-Policy`, joined by name."""
    found: dict[str, Allowance] = {}
    for name in ("ratelimit-policy", "ratelimit"):
        value = headers.get(name)
        if value is None:
            continue
        parts = list(_parts(value))
        if parts and re.match(r"(limit|remaining|reset)=", parts[0]):
            parts = [";".join(["", *parts])]  # one allowance: `limit=100, remaining=0, reset=5`
        for part in parts[:_MOST_PARTS]:
            policy, *members = part.split(";")
            new = _allowance(members)
            if name == "ratelimit-policy" and (limit := _count(policy)) is not None:
                policy, new = "", replace(new, limit=limit)  # `100;w=60`
            old = found.get(policy.strip(), Allowance())
            found[policy.strip()] = Allowance(
                *(
                    b if b is not None else a
                    for a, b in zip(_values(old), _values(new), strict=True)
                )
            )
    if found:
        shown.append(f"RateLimit: {', '.join(map(_shown, found.values()))}")
    return list(found.values())


def _allowance(members: list[str]) -> Allowance:
    found: dict[str, float] = {}
    for member in members:
        name, _, value = member.partition("=")
        if (known := _MEMBERS.get(name.strip().lower())) and (count := _count(value)) is not None:
            found.setdefault(known, count)
    return Allowance(**found)


def _values(allowance: Allowance) -> tuple[float | None, ...]:
    return allowance.limit, allowance.remaining, allowance.reset, allowance.window


def _count(text: str) -> float | None:
    """Return a count of at most nine digits; the smallest of joined duplicates."""
    counts = [
        float(part)
        for part in (each.strip(' "') for each in text.split(","))
        if re.fullmatch(r"[0-9]{1,9}", part)
    ]
    return min(counts, default=None)


def _shown(allowance: Allowance) -> str:
    named = zip(("limit", "remaining", "reset", "window"), _values(allowance), strict=True)
    return (
        " ".join(f"{name}={value:.0f}" for name, value in named if value is not None)
        or "unreadable"
    )


def _title(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-")).replace("Ratelimit", "RateLimit")
