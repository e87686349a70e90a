"""A chat's webhook on this machine, which accepts JSON and responds as configured."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "T0KEN-0f-the-webhook"
"""A part of its URL that must not appear anywhere."""


class Chat:
    def __init__(self, url: str) -> None:
        self.url = url
        self.accepted: list[str] = []
        self.refused = 0
        self.status = 200
        self.seconds = 0.0
        """Delay before the response."""
        self.cut = False
        """Whether it closes the connection instead of responding."""

    def take(self) -> list[list[str]]:
        """Return the lines of each message since the last call."""
        taken, self.accepted = self.accepted, []
        return [text.split("\n") for text in taken]


@contextmanager
def chat() -> Iterator[Chat]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            content: Any = json.loads(body)
            assert self.headers["content-type"] == "application/json"
            assert self.path == f"/services/{TOKEN}"
            assert content.keys() == {"text"}
            time.sleep(here.seconds)
            if here.cut:
                self.close_connection = True
                return
            if 200 <= here.status < 300:
                here.accepted.append(content["text"])
            else:
                here.refused += 1
            with suppress(ConnectionError):  # the client may have closed the connection
                self.send_response(here.status)
                self.send_header("location", here.url)
                self.end_headers()
                self.wfile.write(f"no such hook: {here.url}".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Chat(f"http://127.0.0.1:{server.server_port}/services/{TOKEN}")
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    ).start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
