"""Lies that a server may tell consistently, by name: each changes the responses of a SmallApi.

`truth` is the list of rows that Magnetis has; `lies` are applied in order. docs/delivery-guarantees.md names each of them.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from small_api import Request, SmallApi, ok

Rows = list[dict[str, Any]]
LONGEST = timedelta(days=3)
"""Length of the windows that the shortening lies answer."""


@dataclass
class LyingApi:
    """Serves `truth` on /calls through the lies; keeps what a lie must remember."""

    api: SmallApi
    truth: Rows
    lies: tuple[str, ...] = ()
    cap: int = 60
    seed: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Answer for the SmallApi from now on."""
        self.random = random.Random(self.seed)
        self.memory["states"] = [self.ids()]
        self.api.respond = self._respond

    def ids(self) -> frozenset[str]:
        """Return the ids that Magnetis has now."""
        return frozenset(row["id"] for row in self.truth)

    def _respond(self, request: Request) -> Any:
        found = self._between(request, "from", "to")
        for lie in self.lies:
            if change := SEARCH_LIES.get(lie):
                found = change(self, request, found)
        response = self.api.envelope(found, request)
        for lie in self.lies:
            if distort := RESPONSE_LIES.get(lie):
                response = distort(self, request, response)
        return response

    def _between(self, request: Request, start: str | None, end: str | None) -> Rows:
        first = _moment(request, start) if start else datetime.min.replace(tzinfo=UTC)
        last = _moment(request, end) if end else datetime.max.replace(tzinfo=UTC)
        return [row for row in self.truth if first <= self.api.moment(row) <= last]


def _moment(request: Request, name: str) -> datetime:
    return datetime.strptime(request.query[name], "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _capped(lying: LyingApi, _request: Request, found: Rows) -> Rows:
    return sorted(found, key=lying.api.moment)[: lying.cap]


def _capped_newest_first(lying: LyingApi, _request: Request, found: Rows) -> Rows:
    return sorted(found, key=lying.api.moment, reverse=True)[: lying.cap]


def _capped_in_any_order(lying: LyingApi, _request: Request, found: Rows) -> Rows:
    return sorted(found, key=lambda row: hash(row["id"]) % 1009)[: lying.cap]


def _shortened_at_the_end(lying: LyingApi, request: Request, found: Rows) -> Rows:
    return [row for row in found if lying.api.moment(row) <= _moment(request, "from") + LONGEST]


def _shortened_at_the_start(lying: LyingApi, request: Request, found: Rows) -> Rows:
    return [row for row in found if lying.api.moment(row) >= _moment(request, "to") - LONGEST]


def _swapped(lying: LyingApi, request: Request, found: Rows) -> Rows:
    """One request in ten, a row leaves and another one of the same day arrives at the end."""
    if found and lying.random.random() < 0.1:
        gone = found.pop(lying.random.randrange(len(found)))
        lying.truth.remove(gone)
        lying.memory["swaps"] = number = lying.memory.get("swaps", 0) + 1
        arrived = gone | {"id": f"call-new-{number}"}
        lying.truth.append(arrived)
        lying.memory["states"].append(lying.ids())
        found.append(arrived)
    return found


SEARCH_LIES: dict[str, Callable[[LyingApi, Request, Rows], Rows]] = {
    "caps a search, oldest first": _capped,
    "caps a search, newest first": _capped_newest_first,
    "caps a search, in any order": _capped_in_any_order,
    "shortens windows at the end": _shortened_at_the_end,
    "shortens windows at the start": _shortened_at_the_start,
    "ignores to": lambda lying, request, _found: lying._between(request, "from", None),
    "ignores from": lambda lying, request, _found: lying._between(request, None, "to"),
    "ignores from and to": lambda lying, request, _found: lying._between(request, None, None),
    "swaps rows during a read": _swapped,
}
"""What a search finds."""


def _content(response: Any) -> Any:
    return json.loads(response[2])


def _meta(**changes: Any) -> Callable[[LyingApi, Request, Any], Any]:
    def distort(_lying: LyingApi, request: Request, response: Any) -> Any:
        content = _content(response)
        for name, change in changes.items():
            content["meta"][name] = change(content, request) if callable(change) else change
        return ok(content)

    return distort


def _next_only(_lying: LyingApi, _request: Request, response: Any) -> Any:
    content = _content(response)
    return ok({"data": content["data"], "links": content["links"]})


def _bare(_lying: LyingApi, _request: Request, response: Any) -> Any:
    return ok(_content(response)["data"])


def _repeats(_lying: LyingApi, request: Request, response: Any) -> Any:
    """The last row of a page is the first row of the page once more."""
    content = _content(response)
    if len(content["data"]) > 1 and request.page % 2 == 0:
        content["data"][-1] = content["data"][0]
    return ok(content)


def _empty_page(_lying: LyingApi, request: Request, response: Any) -> Any:
    return ok(_content(response) | {"data": []}) if request.page == 2 else response


def _error_inside(lying: LyingApi, request: Request, response: Any) -> Any:
    if request.page == 2 and not lying.memory.get("failed"):
        lying.memory["failed"] = True
        return ok({"success": False, "message": "Database unavailable", "data": []})
    return response


RESPONSE_LIES: dict[str, Callable[[LyingApi, Request, Any], Any]] = {
    "announces the page's rows as the total": _meta(total=lambda content, _: len(content["data"]), last_page=None),
    "announces one page": _meta(total=None, last_page=1),
    "announces too few rows": _meta(total=lambda content, _: max(0, content["meta"]["total"] - 1)),
    "announces too many rows": _meta(total=lambda content, _: content["meta"]["total"] + 1),
    "announces the total on page 1 only": _meta(
        total=lambda content, request: content["meta"]["total"] if request.page == 1 else None
    ),
    "announces nothing but next": _next_only,
    "returns bare arrays": _bare,
    "repeats a row on one page": _repeats,
    "serves page 2 empty": _empty_page,
    "reports an error inside a 200 once": _error_inside,
}
"""How the response describes what was found."""

LIES = [*SEARCH_LIES, *RESPONSE_LIES]
