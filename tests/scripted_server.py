"""A small HTTP server that answers by a script, byte for byte, to simulate any network fault."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def raw(status: int, body: bytes = b"", **headers: str) -> bytes:
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode() + body


def answer(status: int, content: Any, **headers: str) -> bytes:
    return raw(status, json.dumps(content).encode(), **headers)


def page(
    rows: Any, *, total: Any = None, last_page: Any = 1, following: str | None = None
) -> bytes:
    total = len(rows) if total is None else total
    return answer(
        200,
        {
            "data": rows,
            "links": {"next": following},
            "meta": {"total": total, "last_page": last_page},
        },
    )


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    writer.transport.abort()


def cut(whole: bytes, keep: float = 0.8) -> bytes:
    """Return the first part of a response that announces more."""
    return whole[: int(len(whole) * keep)]


def drip(start: bytes, every: float = 0.02) -> Answer:
    """Return an answer that sends `start`, then one byte at a time without end."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(every)

    return write


def flood(start: bytes, chunk: bytes) -> Answer:
    """Return an answer that sends `start`, then `chunk` as fast as possible without end."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(chunk)
            await writer.drain()

    return write


@dataclass
class ScriptedServer:
    """Answers the n-th request with the n-th answer of the script and repeats the last one."""

    script: Sequence[Answer]
    requests: list[str] = field(default_factory=list)
    """Request line and headers of each received request."""
    at_once: int = 0
    most_at_once: int = 0

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.request_received = asyncio.Event()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            self.request_received.set()
            play = self.script[min(len(self.requests), len(self.script)) - 1]
            if callable(play):
                await play(writer)
            else:
                writer.write(play)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client closed the connection, or the test ended
        finally:
            self.at_once -= 1
            self._tasks.discard(task)
            writer.close()
