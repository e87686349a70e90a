"""The API over HTTP (ASGI): keys and scopes, quota, paging, windows, Laravel's error bodies, faults and lies on request."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import orjson

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.sandbox.control import CONTROL_PATH, Control, Journal
from magnetis_dagster.sandbox.days import midnight
from magnetis_dagster.sandbox.lies import Liar, Search
from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.world import World

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_LARGEST_LIMIT = 250
_ACCOUNT = b'"account":{"id":"'
_HTML = (
    b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as tests see it; the key is not kept."""

    number: int
    """Counted from 1, in this process."""
    path: str
    query: dict[str, str]


@dataclass(slots=True)
class Answer:
    """One answer."""

    status: int
    """0: never answer."""
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    cut_at: int | None = None
    """Close the connection after so many bytes of the body, short of what was announced."""


Intercept = Callable[[Request], Answer | None]
Spend = Callable[[str, datetime], bool]
"""Count a call of a key at a moment; False where none is left."""


class SandboxApp:
    """An ASGI application. `spend` counts calls, over all processes that serve the same sandbox."""

    def __init__(
        self,
        options: SandboxOptions,
        world: World,
        catalogue: Catalogue,
        spend: Spend,
        journal: Journal | None = None,
    ) -> None:
        self.options = options
        self.world = world
        self.requests: list[tuple[Request, int]] = []
        """Requests of this process with the status answered; kept only where `keep_requests` is set."""
        self.keep_requests = False
        self.received = 0
        self.intercept: Intercept = lambda _request: None
        self._spend = spend
        organisation = [key for key in options.keys if key not in options.scopes]
        self._control = Control(world, catalogue, organisation, journal or Journal(), options.clock)
        self._collections = {
            collection.route: collection
            for collection in reversed(catalogue.collections.values())
            if collection.enabled
        }
        self._liars: dict[str, Liar[bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        self._control.catch_up()
        if scope["path"] == CONTROL_PATH:
            await _send(send, Answer(*await self._control.answer(scope, receive)))
            return
        self.received += 1
        request = Request(
            self.received, scope["path"], dict(parse_qsl(scope["query_string"].decode("latin-1")))
        )
        key = next(
            (value.decode("latin-1") for name, value in scope["headers"] if name == b"x-api-key"),
            "",
        )
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
        if refused := self._refused(method, key):
            return refused
        if kind := self._draw(request, *_FAULTY):
            return _FAULTY[kind]()
        return self._rows(request, key)

    def _rows(self, request: Request, key: str) -> Answer:
        collection = self._collections.get(request.path)
        if collection is None:
            return _json(
                404, {"message": f"The route {request.path.lstrip('/')} could not be found."}
            )
        numbers, errors = _numbers(request.query)
        search = self._search(collection, request, errors)
        if errors:
            return _json(422, {"message": "The given data was invalid.", "errors": errors})
        allowed, account = self._allowed(key), request.query.get("account_id")
        if account is not None:
            if allowed is not None and account not in allowed:
                return _json(403, {"message": "This action is unauthorized."})
            allowed = frozenset({account})
        return self._page(collection, request, numbers, search, allowed, key)

    def _search(
        self, collection: Collection, request: Request, errors: dict[str, list[str]]
    ) -> Search:
        """Return the requested window; parameters that cannot be parsed are added to the errors."""
        bounds: dict[str, int | None] = {"start": None, "end": None}
        if window := collection.window:
            for name, pick, argument in ((window.start, min, "start"), (window.end, max, "end")):
                if value := request.query.get(name):
                    if (moments := self._moments(value, window.format)) is None:
                        errors[name] = [f"The {name} does not match the format YmdHis."]
                    else:
                        bounds[argument] = pick(moments)
        return Search(**bounds)

    def _allowed(self, key: str) -> frozenset[str] | None:
        """Return the ids of the accounts, networks and entities whose rows the key may read; None: all."""
        scope, _, number = self.options.scopes.get(key, "").partition(":")
        if not scope:
            return None
        accounts = [json.loads(row) for row in reversed(self.world.snapshot("accounts"))]
        if scope == "network":
            networks = [json.loads(row)["id"] for row in reversed(self.world.snapshot("networks"))][
                int(number) - 1 : int(number)
            ]
            mine = [row for row in accounts if (row.get("network") or {}).get("id") in networks]
        else:
            mine = accounts[int(number) - 1 : int(number)]
        above = {(row.get(name) or {}).get("id") for row in mine for name in ("network", "entity")}
        return frozenset({*(str(row["id"]) for row in mine), *(str(each) for each in above)})

    def _moments(self, value: str, form: str) -> tuple[int, int] | None:
        """Return both readings of a local time: a window takes the wider one, so nothing falls between two at a clock change."""
        try:
            local = datetime.strptime(value, form).replace(tzinfo=self.options.query_zone)
        except ValueError:
            return None
        # strptime also takes months and days of one digit
        exact = len(value) == len(local.strftime(form)) or local.year < 1000
        return (int(local.timestamp()), int(local.replace(fold=1).timestamp())) if exact else None

    def _refused(self, method: str, key: str) -> Answer | None:
        if key not in self.options.keys:
            return _json(401, {"message": "Unauthenticated."})
        now = self.options.clock()
        if not self._spend(key, now):
            return self._too_many(now)
        if method not in {"GET", "HEAD"}:  # uvicorn leaves out the body of what answers HEAD
            answer = _json(
                405,
                {
                    "message": f"The {method} method is not supported for this route. Supported methods: GET, HEAD."
                },
            )
            answer.headers["allow"] = "GET, HEAD"
            return answer
        return None

    def _page(
        self,
        collection: Collection,
        request: Request,
        numbers: dict[str, int],
        search: Search,
        allowed: frozenset[str] | None,
        key: str,
    ) -> Answer:
        size, page = numbers["limit"], numbers["page"]
        first = (page - 1) * size
        liar = self._liar(collection.name)
        total, rows = self._found(collection, liar, search, allowed, first, size)
        if collection.name == "calls" and request.query.get("analysis") != "1":
            rows = [_without_analysis(row) for row in rows]
        fault = self._draw(request, "duplicated", "total_moved")
        if fault == "duplicated" and page > 1 and rows:
            rows = [*rows[:-1], rows[0]]
        if fault == "total_moved":
            total += 1
        envelope = self._envelope(request.path, rows, total, size, page, key)
        if self.options.lies:
            content = liar.response(
                {"data": [orjson.Fragment(row) for row in rows], **envelope}, page
            )
            return Answer(200, orjson.dumps(content))
        return Answer(200, b'{"data":[' + b",".join(rows) + b"]," + orjson.dumps(envelope)[1:])

    def _found(
        self,
        collection: Collection,
        liar: Liar[bytes],
        search: Search,
        allowed: frozenset[str] | None,
        first: int,
        size: int,
    ) -> tuple[int, list[bytes]]:
        """Return how many rows there are, and those from number `first` on."""
        if collection.is_events:
            search = liar.search(search)
            bounds = {
                name: value
                for name, value in (("start", search.start), ("end", search.end))
                if value is not None
            }
            if allowed is None and not liar.bends_rows:
                return self.world.events(collection.name, first=first, size=size, **bounds)
            rows = self.world.events(collection.name, **bounds)[1]
        else:
            rows = self.world.snapshot(collection.name)
        if allowed is not None:
            rows = [row for row in rows if _owner(row) in allowed]
        if collection.is_events:
            rows = liar.found(rows)
        return len(rows), rows[first : first + size]

    def _liar(self, collection: str) -> Liar[bytes]:
        if collection not in self._liars:

            def swap(gone: bytes) -> bytes:
                row = json.loads(gone)
                self.world.delete(collection, self.world.identity(collection, row))
                row["id"] = f"{row['id']}-2"
                self.world.insert(collection, row)
                return json.dumps(row, separators=(",", ":")).encode()

            self._liars[collection] = Liar(
                self.options.lies,
                oldest_first=lambda rows: list(rows[::-1]),
                identity=_first_text,
                swap=swap,
            )
        return self._liars[collection]

    def _envelope(
        self, path: str, rows: list[bytes], total: int, size: int, page: int, key: str
    ) -> dict[str, Any]:
        last = max(1, -(-total // size))
        address = f"https://api.magnetis.io{path}?page="
        return {
            # like the vendor's sample, the links carry the page and nothing else
            "links": {
                "first": f"{address}1",
                "last": f"{address}{last}",
                "prev": f"{address}{page - 1}" if page > 1 else None,
                "next": f"{address}{page + 1}" if page < last else None,
            },
            "meta": {
                "current_page": page,
                "from": (page - 1) * size + 1 if rows else None,
                "last_page": last,
                "path": f"https://api.magnetis.io{path}",
                "per_page": size,
                "to": (page - 1) * size + len(rows) if rows else None,
                "total": total,
                "apiKey": {
                    "id": f"key-d464804c-61a5-494b-a2ce-db{self.options.keys.index(key):010d}"
                },
            },
        }

    def _too_many(self, now: datetime) -> Answer:
        zone = self.options.zone
        seconds = midnight(now.astimezone(zone).date() + timedelta(days=1), zone) - int(
            now.timestamp()
        )
        answer = _json(429, {"message": "Too Many Attempts."})
        answer.headers["retry-after"] = str(seconds)
        return answer

    def _draw(self, request: Request, *kinds: str) -> str | None:
        """Return which of these kinds of fault befalls the request, if any: equal seeds give equal faults."""
        for kind in kinds:
            chance = self.options.faults.get(kind, 0.0)
            if (
                chance
                and random.Random(f"{self.options.fault_seed}:{kind}:{request.number}").random()  # noqa: S311
                < chance
            ):
                return kind
        return None


def _json(status: int, content: object) -> Answer:
    return Answer(status, orjson.dumps(content))


def _owner(row: bytes) -> str:
    """Return the id of the row's account; of entities, networks and accounts their own."""
    at = row.find(_ACCOUNT)
    start = at + len(_ACCOUNT) if at >= 0 else row.find(b':"') + 2
    return row[start : row.find(b'"', start)].decode()


def _first_text(row: bytes) -> str:
    start = row.index(b':"') + 2
    return row[start : row.index(b'"', start)].decode()


def _without_analysis(row: bytes) -> bytes:
    return json.dumps(
        {name: value for name, value in json.loads(row).items() if name != "analysis"}
    ).encode()


def _numbers(query: dict[str, str]) -> tuple[dict[str, int], dict[str, list[str]]]:
    numbers, errors = {"limit": _LARGEST_LIMIT, "page": 1}, {}
    for name, most in (("limit", _LARGEST_LIMIT), ("page", 10**9)):
        if name in query:
            value = query[name]
            if not value.isascii() or not value.isdigit():
                errors[name] = [f"The {name} must be an integer."]
            elif not 1 <= int(value[:12]) <= most:
                errors[name] = [f"The {name} must be between 1 and {most}."]
            else:
                numbers[name] = int(value)
    return numbers, errors


def _told_to_wait() -> Answer:
    answer = _json(429, {"message": "Too Many Attempts."})
    answer.headers["retry-after"] = "1"
    return answer


_FAULTY: dict[str, Callable[[], Answer]] = {
    "too_many": _told_to_wait,
    "error_500": lambda: _json(500, {"message": "Server Error"}),
    "bad_gateway": lambda: Answer(502, _HTML, {"content-type": "text/html"}),
    "hang": lambda: Answer(0, b""),
    "truncated": lambda: Answer(200, b'{"data":[{"id":"call-1","account":{"id":'),
    "empty": lambda: Answer(200, b""),
    "dropped": lambda: Answer(200, b'{"data":[' + b" " * 1000, cut_at=20),
}
"""Faults that replace the answer to a call, which was let in and counted; `duplicated` and `total_moved` bend a page instead."""


async def _send(send: Send, answer: Answer) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.cut_at is not None:
        await send(
            {"type": "http.response.body", "body": answer.body[: answer.cut_at], "more_body": True}
        )
        return  # the server closes a connection whose answer was not finished
    await send({"type": "http.response.body", "body": answer.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
