"""A small API over real HTTP, whose rows and responses a test can change."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

from magnetis_dagster.ingest import Ingestion

PARIS = ZoneInfo("Europe/Paris")
KEY = "key-0f-the-tests"
Open = Callable[..., Ingestion]

Answer = tuple[int, dict[str, str], bytes]
Respond = Callable[["Request"], "Answer | None"]


@dataclass(frozen=True)
class Request:
    number: int
    path: str
    query: dict[str, str]

    @property
    def page(self) -> int:
        return int(self.query["page"])


@dataclass
class SmallApi:
    """Rows by route; `respond` may return another response."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    respond: Respond = field(default=lambda _request: None, repr=False)
    requests: list[Request] = field(default_factory=list, repr=False)
    limit: int = 250
    url: str = ""

    def answer(self, request: Request) -> Answer:
        return self.respond(request) or self.envelope(self.window(request), request)

    def window(self, request: Request) -> list[dict[str, Any]]:
        rows = self.rows.get(request.path, [])
        if "from" in request.query:
            start, end = (
                datetime.strptime(request.query[name], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
                for name in ("from", "to")
            )
            rows = [row for row in rows if start <= self.moment(row) <= end]
        return rows

    @staticmethod
    def moment(row: dict[str, Any]) -> datetime:
        value = row.get("start_at") or row["created_at"]
        return (
            datetime.fromisoformat(value)
            .replace(tzinfo=PARIS, fold=row.get("fold", 0))
            .astimezone(UTC)
        )

    def envelope(self, rows: list[Any], request: Request, **meta: Any) -> Answer:
        size = min(self.limit, int(request.query["limit"]))
        last = max(1, -(-len(rows) // size))
        page = rows[(request.page - 1) * size : request.page * size]
        content = {
            "data": page,
            "links": {
                "next": None if request.page >= last else "https://elsewhere.invalid/calls?page=2"
            },
            "meta": {
                "current_page": request.page,
                "last_page": last,
                "per_page": size,
                "total": len(rows),
                **meta,
            },
        }
        return ok(content)


def ok(content: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


@contextmanager
def serve() -> Iterator[SmallApi]:
    small, lock = SmallApi(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            with lock:
                request = Request(len(small.requests) + 1, parts.path, dict(parse_qsl(parts.query)))
                small.requests.append(request)
            if self.headers["x-api-key"] != KEY:
                status, headers, body = 401, {}, b'{"message": "Unauthenticated."}'
            else:
                status, headers, body = small.answer(request)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    small.url = f"http://127.0.0.1:{server.server_port}"
    yield small
    server.shutdown()
    server.server_close()
    thread.join()


def call(number: object, moment: str, **members: Any) -> dict[str, Any]:
    return {
        "id": f"call-{number}",
        "account": {"id": "acc-1", "name": "Agence"},
        "start_at": moment,
        "caller_number": f"0033199{re.sub(r'[^0-9]', '', str(number)):0>6}",
        **members,
    }
