"""The API as an ASGI application: keys, quota, pages, time ranges, errors, faults and lies."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import orjson

from magnetis_dagster.catalog import Collection
from magnetis_dagster.sandbox.control import CONTROL_PATH, Control, Receive, Scope
from magnetis_dagster.sandbox.day_plans import midnight
from magnetis_dagster.sandbox.lies import Liar, Search
from magnetis_dagster.sandbox.world import World, encoded_id

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_LARGEST_LIMIT = 250
_ACCOUNT = b'"account":{"id":"'
_HTML = (
    b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, for tests; excludes the key."""

    number: int
    """Counted from 1 in this process."""
    path: str
    query: dict[str, str]


@dataclass(slots=True)
class Answer:
    """One response."""

    status: int
    """0 leaves the request without a response."""
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    cut_at: int | None = None
    """Close the connection after this many bytes, fewer than announced."""


Intercept = Callable[[Request], Answer | None]
Spend = Callable[[str, datetime], bool]
"""Counts an API call of a key at a time; returns False if the quota is exhausted."""


class SandboxApp:
    """An ASGI application; `spend` counts API calls of all processes of the sandbox."""

    def __init__(self, world: World, spend: Spend) -> None:
        self.options = world.options
        self.world = world
        self.requests: list[tuple[Request, int]] = []
        """Requests of this process with their status; recorded only with `keep_requests`."""
        self.keep_requests = False
        self.received = 0
        self.intercept: Intercept = lambda _request: None
        self._spend = spend
        self._control = Control(world)
        self._collections = {
            collection.route: collection
            for collection in reversed(world.catalogue.collections.values())
            if collection.enabled
        }
        self._liars: dict[str, Liar[bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        self._control.catch_up()
        if scope["path"] == CONTROL_PATH:
            await _send(send, Answer(*await self._control.answer(scope, receive)))
            return
        self.received += 1
        request = Request(
            self.received, scope["path"], dict(parse_qsl(scope["query_string"].decode("latin-1")))
        )
        key = dict(reversed(scope["headers"])).get(b"x-api-key", b"").decode("latin-1")
        answer = self.intercept(request) or self._answer(request, scope["method"], key)
        if self.keep_requests:
            self.requests.append((request, answer.status))
        if self.options.latency:
            await asyncio.sleep(self.options.latency)
        if answer.status == 0:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await _send(send, answer)

    def _answer(self, request: Request, method: str, key: str) -> Answer:
        if request.path == "/" and method == "GET":
            return _json(200, {"name": "magnetis sandbox", "routes": sorted(self._collections)})
        if refusal := self._refusal(method, key):
            return refusal
        if kind := self._draw(request, *_FAULT_ANSWERS):
            return _FAULT_ANSWERS[kind]()
        return self._rows(request, key)

    def _refusal(self, method: str, key: str) -> Answer | None:
        if key not in self.options.keys:
            return _error(401, "Unauthenticated.")
        now, zone = self.options.clock(), self.options.zone
        if not self._spend(key, now):
            tomorrow = midnight(now.astimezone(zone).date() + timedelta(days=1), zone)
            return _too_many(tomorrow - int(now.timestamp()))
        if method not in {"GET", "HEAD"}:  # uvicorn removes the body from responses to HEAD
            message = f"The {method} method is not supported for this route."
            return _error(405, f"{message} Supported methods: GET, HEAD.", allow="GET, HEAD")
        return None

    def _rows(self, request: Request, key: str) -> Answer:
        collection = self._collections.get(request.path)
        if collection is None:
            return _error(404, f"The route {request.path.lstrip('/')} could not be found.")
        numbers, errors = _numbers(request.query)
        search = self._search(collection, request, errors)
        if errors:
            return _json(422, {"message": "The given data was invalid.", "errors": errors})
        allowed, account = self._visible_owners(key), request.query.get("account_id")
        if account is not None:
            if allowed is not None and account not in allowed:
                return _error(403, "This action is unauthorized.")
            allowed = frozenset({account})
        size, page = numbers["limit"], numbers["page"]
        total, rows = self._select_rows(collection, search, allowed, (page - 1) * size, size)
        if collection.name == "calls" and request.query.get("analysis") != "1":
            rows = [_without_analysis(row) for row in rows]
        fault = self._draw(request, "duplicated", "total_moved")
        if fault == "duplicated" and page > 1 and rows:
            rows = [*rows[:-1], rows[0]]
        if fault == "total_moved":
            total += 1
        envelope = self._envelope(request.path, len(rows), total, size, page)
        number = self.options.keys.index(key)
        envelope["meta"]["apiKey"] = {"id": f"key-d464804c-61a5-494b-a2ce-db{number:010d}"}
        if self.options.lies:
            content = {"data": [orjson.Fragment(row) for row in rows], **envelope}
            return _json(200, self._liar(collection.name).response(content, page))
        return Answer(200, b'{"data":[' + b",".join(rows) + b"]," + orjson.dumps(envelope)[1:])

    def _search(
        self, collection: Collection, request: Request, errors: dict[str, list[str]]
    ) -> Search:
        """Return the requested time range; add invalid parameters to `errors`."""
        search = Search(None, None)
        if window := collection.window:
            if moments := self._moments(request, window.start, window.format, errors):
                search = replace(search, start=min(moments))
            if moments := self._moments(request, window.end, window.format, errors):
                search = replace(search, end=max(moments))
        return search

    def _visible_owners(self, key: str) -> frozenset[str] | None:
        """Return the ids of accounts and their parents that the key may read; None for all."""
        scope, _, number = self.options.scopes.get(key, "").partition(":")
        if not scope:
            return None
        accounts, chosen = self.world.oldest_first("accounts"), slice(int(number) - 1, int(number))
        if scope == "network":
            own = [row["id"] for row in self.world.oldest_first("networks")[chosen]]
            visible = [row for row in accounts if (row.get("network") or {}).get("id") in own]
        else:
            visible = accounts[chosen]
        parents = {
            (row.get(name) or {}).get("id") for row in visible for name in ("network", "entity")
        }
        return frozenset({*(str(row["id"]) for row in visible), *map(str, parents)})

    def _moments(
        self, request: Request, name: str, time_format: str, errors: dict[str, list[str]]
    ) -> tuple[int, int] | None:
        """Return both meanings of a local time in a repeated hour; None if it is not given.

        A time range uses the wider one, so that it misses no row at a clock change.
        """
        if not (value := request.query.get(name)):
            return None
        with suppress(ValueError):
            local = datetime.strptime(value, time_format).replace(tzinfo=self.options.query_zone)
            # strptime also accepts months and days of one digit
            if len(value) == len(local.strftime(time_format)) or local.year < 1000:
                return int(local.timestamp()), int(local.replace(fold=1).timestamp())
        errors[name] = [f"The {name} does not match the format YmdHis."]
        return None

    def _select_rows(
        self,
        collection: Collection,
        search: Search,
        allowed: frozenset[str] | None,
        first: int,
        size: int,
    ) -> tuple[int, list[bytes]]:
        """Return the total number of rows, and the rows of the page from number `first`."""
        liar = self._liar(collection.name)
        if collection.is_events:
            search = liar.search(search)
            if allowed is None and not liar.changes_rows:
                return self.world.events(collection.name, search.start, search.end, first, size)
            rows = self.world.events(collection.name, search.start, search.end)[1]
        else:
            rows = self.world.snapshot(collection.name)
        if allowed is not None:
            rows = [row for row in rows if _owner(row) in allowed]
        if collection.is_events:
            rows = liar.found(rows)
        return len(rows), rows[first : first + size]

    def _liar(self, collection: str) -> Liar[bytes]:
        def swap(encoded: bytes) -> bytes:
            row = json.loads(encoded)
            self.world.delete(collection, self.world.identity(collection, row))
            return self.world.insert(collection, row | {"id": f"{row['id']}-2"})

        if collection not in self._liars:
            self._liars[collection] = Liar(
                self.options.lies,
                oldest_first=lambda rows: list(rows[::-1]),
                identity=encoded_id,
                swap=swap,
            )
        return self._liars[collection]

    def _envelope(self, path: str, rows: int, total: int, size: int, page: int) -> dict[str, Any]:
        last, address = max(1, -(-total // size)), f"https://api.magnetis.io{path}"
        return {
            # like the vendor's sample, the links contain only the page
            "links": {
                "first": f"{address}?page=1",
                "last": f"{address}?page={last}",
                "prev": f"{address}?page={page - 1}" if page > 1 else None,
                "next": f"{address}?page={page + 1}" if page < last else None,
            },
            "meta": {
                "current_page": page,
                "from": (page - 1) * size + 1 if rows else None,
                "last_page": last,
                "path": address,
                "per_page": size,
                "to": (page - 1) * size + rows if rows else None,
                "total": total,
            },
        }

    def _draw(self, request: Request, *kinds: str) -> str | None:
        """Return the request's fault among `kinds`; equal seeds give equal faults."""
        for kind in kinds:
            probability = self.options.faults.get(kind, 0.0)
            seed = f"{self.options.fault_seed}:{kind}:{request.number}"
            if probability and random.Random(seed).random() < probability:  # noqa: S311
                return kind
        return None


def _json(status: int, content: object, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, orjson.dumps(content), {"content-type": "application/json", **named})


def _error(status: int, message: str, **headers: str) -> Answer:
    return _json(status, {"message": message}, **headers)


def _too_many(seconds: int) -> Answer:
    return _error(429, "Too Many Attempts.", retry_after=str(seconds))


def _owner(row: bytes) -> str:
    """Return the account id of a row; of entities, networks and accounts their own id."""
    at = row.find(_ACCOUNT)
    if at < 0:
        return encoded_id(row)
    start = at + len(_ACCOUNT)
    return row[start : row.find(b'"', start)].decode()


def _without_analysis(row: bytes) -> bytes:
    members = json.loads(row)
    members.pop("analysis", None)
    return json.dumps(members).encode()


def _numbers(query: dict[str, str]) -> tuple[dict[str, int], dict[str, list[str]]]:
    numbers, errors = {"limit": _LARGEST_LIMIT, "page": 1}, {}
    for name, maximum in (("limit", _LARGEST_LIMIT), ("page", 10**9)):
        value = query.get(name, str(numbers[name]))
        if not value.isascii() or not value.isdigit():
            errors[name] = [f"The {name} must be an integer."]
        elif not 1 <= int(value[:12]) <= maximum:
            errors[name] = [f"The {name} must be between 1 and {maximum}."]
        else:
            numbers[name] = int(value)
    return numbers, errors


_FAULT_ANSWERS: dict[str, Callable[[], Answer]] = {
    "too_many": lambda: _too_many(1),
    "error_500": lambda: _error(500, "Server Error"),
    "bad_gateway": lambda: Answer(502, _HTML, {"content-type": "text/html"}),
    "hang": lambda: Answer(0, b""),
    "truncated": lambda: Answer(200, b'{"data":[{"id":"call-1","account":{"id":'),
    "empty": lambda: Answer(200, b""),
    "dropped": lambda: Answer(200, b'{"data":[' + b" " * 1000, cut_at=20),
}
"""Faults that replace a response; `duplicated` and `total_moved` change a page instead."""


async def _send(send: Send, answer: Answer) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    # the server closes the connection after an incomplete response
    is_cut = answer.cut_at is not None
    body = answer.body[: answer.cut_at]
    await send({"type": "http.response.body", "body": body, "more_body": is_cut})
