"""Measure how many pages of 250 calls the sandbox serves per second.

    .venv/bin/python benchmarks/sandbox.py [--seconds 5] [--connections 8]

Measures one and two workers, cold and warm, over loopback. Processes with blocking sockets generate
the load: each requests the next page when the last one has arrived. They share the machine's cores
with the server, so their processor time is printed beside the results.
"""

import argparse
import contextlib
import multiprocessing
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import orjson

from magnetis_dagster.sandbox import SANDBOX_KEY, SandboxOptions, serve

LAST_DAY = date(2025, 6, 30)
PAGES_PER_DAY = 10
OPTIONS = SandboxOptions(daily_quota=None, calls_per_day=250 * PAGES_PER_DAY)
WARM_DAYS = 14
COLD_DAYS = 30
HEADERS = f"Host: sandbox\r\nx-api-key: {SANDBOX_KEY}\r\nAccept: application/json\r\n\r\n"
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class ConnectionResult:
    """Pages and bytes that one connection received, and its processor seconds."""

    pages: int
    bytes: int
    cpu: float


def window(last: date, days: int) -> str:
    first = last - timedelta(days=days - 1)
    return f"/calls?analysis=1&limit=250&from={first:%Y%m%d}000000&to={last:%Y%m%d}215959"


def fetch(connection: socket.socket, buffer: memoryview, path: str) -> tuple[int, int]:
    """Return the length of the response and the position of its body in `buffer`."""
    connection.sendall(f"GET {path} HTTP/1.1\r\n{HEADERS}".encode())
    received = connection.recv_into(buffer)
    head = bytes(buffer[:1000]).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 200"), head
    whole = (
        len(head) + 4 + int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    )
    while received < whole:
        received += connection.recv_into(
            buffer[received:whole], whole - received, socket.MSG_WAITALL
        )
    return whole, len(head) + 4


def request_pages(url: str, paths: list[str], begin: float, seconds: float) -> ConnectionResult:
    """Request these paths from the moment `begin`.

    Each path is requested once, or, if `seconds` is not zero, repeatedly for that time.
    """
    buffer = memoryview(bytearray(2**20))
    with socket.create_connection(
        (urlsplit(url).hostname, urlsplit(url).port), timeout=30
    ) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        time.sleep(max(0.0, begin - time.time()))
        before, pages, size = resource.getrusage(resource.RUSAGE_SELF), 0, 0
        while pages < len(paths) if not seconds else time.time() < begin + seconds:
            size += fetch(connection, buffer, paths[pages % len(paths)])[0]
            pages += 1
        after = resource.getrusage(resource.RUSAGE_SELF)
    return ConnectionResult(
        pages, size, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    )


def pages_of(url: str, path: str) -> list[str]:
    buffer = memoryview(bytearray(2**20))
    with socket.create_connection(
        (urlsplit(url).hostname, urlsplit(url).port), timeout=60
    ) as connection:
        length, body = fetch(connection, buffer, path)
    return [
        f"{path}&page={page}"
        for page in range(1, orjson.loads(buffer[body:length])["meta"]["last_page"])
    ]


def measure(
    pool: ProcessPoolExecutor,
    connections: int,
    name: str,
    url: str,
    paths: list[str],
    seconds: float = 0.0,
) -> None:
    begin = time.time() + 0.3
    paths_by_connection = [
        paths[place::connections] if not seconds else paths[place:] + paths[:place]
        for place in range(connections)
    ]
    futures = [
        pool.submit(request_pages, url, each, begin, seconds) for each in paths_by_connection
    ]
    results = [future.result() for future in futures]
    elapsed = time.time() - begin
    pages, cpu = sum(result.pages for result in results), sum(result.cpu for result in results)
    size = sum(result.bytes for result in results) / pages
    print(
        f"{name:>16}: {pages / elapsed:7.0f} pages/s "
        f"({pages} pages, {size / 1000:.0f} kB each, {elapsed:.1f} s); "
        f"the generator used {cpu / elapsed:.2f} cores, {cpu / pages * 1e6:.0f} us a page",
        flush=True,
    )


def serve_sandbox(workers: int, pipe: Connection) -> None:
    serve("127.0.0.1", 0, OPTIONS, workers=workers, started=pipe.send)


@contextlib.contextmanager
def server(workers: int) -> Iterator[str]:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=serve_sandbox, args=(workers, there))
    process.start()
    try:
        if not here.poll(30):
            raise TimeoutError("the sandbox did not start within 30 seconds")
        yield here.recv()
    finally:
        process.terminate()
        process.join(10)
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each warm run")
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args()
    now, cores = datetime.now(UTC), multiprocessing.cpu_count()
    print(f"{now:%Y-%m-%d %H:%M} UTC, {cores} cores, {arguments.connections} connections")
    with ProcessPoolExecutor(arguments.connections, mp_context=SPAWN) as pool:
        # Each process starts with its first task; the first figure must not include that.
        list(pool.map(time.sleep, [2.0] * arguments.connections))
        for workers in (1, 2):
            with server(workers) as url:
                noun = "worker" if workers == 1 else "workers"
                warm = pages_of(url, window(LAST_DAY, WARM_DAYS))
                cold = pages_of(url, window(LAST_DAY - timedelta(days=WARM_DAYS), COLD_DAYS))
                measure(pool, arguments.connections, f"{workers} {noun}, cold", url, cold)
                # Both workers generate the days of the warm window before it is measured.
                measure(pool, arguments.connections, "warming", url, warm, 2.0)
                measure(
                    pool,
                    arguments.connections,
                    f"{workers} {noun}, warm",
                    url,
                    warm,
                    arguments.seconds,
                )


if __name__ == "__main__":
    main()
