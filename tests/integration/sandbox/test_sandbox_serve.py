"""`serve` in separate processes: workers share a quota and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from magnetis_dagster.sandbox import SANDBOX_KEY, SandboxOptions, SandboxServer, serve

PROGRAM = """
from magnetis_dagster.sandbox import SandboxOptions, serve
serve("127.0.0.1", 0, SandboxOptions({options}), workers={workers},
      started=lambda url: print(url, flush=True))
print("ended", flush=True)
"""
HEADERS = {"x-api-key": SANDBOX_KEY}


@contextmanager
def serving(
    workers: int = 2, options: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str, list[psutil.Process]]]:
    command = [sys.executable, "-c", PROGRAM.format(workers=workers, options=options)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert program.stdout is not None
    processes: list[psutil.Process] = []
    try:
        url = program.stdout.readline().strip()
        processes = [
            psutil.Process(program.pid),
            *psutil.Process(program.pid).children(recursive=True),
        ]
        assert len(processes) == workers
        assert httpx.get(url, trust_env=False).status_code == 200
        yield program, url, processes
    finally:
        for process in processes:
            if process.is_running():
                process.kill()
        program.wait(60)
        program.stdout.close()


def all_ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def is_free(url: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((urlsplit(url).hostname, urlsplit(url).port))
        return True


def statuses(url: str, count: int) -> list[int]:
    return [
        httpx.get(f"{url}/accounts", headers=HEADERS, trust_env=False).status_code
        for _ in range(count)
    ]


def test_workers_share_one_quota() -> None:
    with serving(options="daily_quota=15") as (_, url, processes):
        # suspend one worker at a time, so that each of them responds
        first, second = processes
        answers: list[int] = []
        for suspended, active in ((first, second), (second, first)):
            suspended.suspend()
            answers += statuses(url, 10)
            suspended.resume()
            assert active.is_running()
    assert answers == [200] * 15 + [429] * 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_all_processes_and_frees_the_port(
    number: signal.Signals, workers: int
) -> None:
    with (
        serving(workers) as (program, url, processes),
        httpx.Client(headers=HEADERS, trust_env=False) as idle,
    ):
        assert idle.get(f"{url}/accounts").status_code == 200
        program.send_signal(number)
        assert program.wait(60) == 0
        assert all_ended(processes)
        assert is_free(url)
        assert program.stdout is not None
        assert program.stdout.read() == "ended\n"


def test_a_signal_to_the_process_group_like_ctrl_c_ends_all_processes() -> None:
    with serving() as (program, url, processes):
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait(60) == 0
        assert all_ended(processes)
        assert is_free(url)


def test_requests_in_flight_do_not_delay_the_end() -> None:
    with serving(options="faults={'hang': 1.0}") as (program, url, processes):
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{url}/accounts", headers=HEADERS, trust_env=False, timeout=0.3)
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as waiting:
            waiting.sendall(
                f"GET /accounts HTTP/1.1\r\nHost: s\r\nx-api-key: {SANDBOX_KEY}\r\n\r\n".encode()
            )
            time.sleep(0.2)
            program.terminate()
            assert program.wait(60) == 0
        assert all_ended(processes)


def test_workers_end_if_the_first_process_is_killed() -> None:
    with serving() as (program, url, processes):
        program.kill()
        program.wait(60)
        assert all_ended(processes)
        assert is_free(url)


def test_a_signal_during_the_start_ends_the_workers_too() -> None:
    # `started` is called after the start of the workers, before the first process serves
    code = PROGRAM.format(workers=2, options="").replace(
        "print(url, flush=True)", "__import__('signal').raise_signal(15)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ended\n", "")


def test_a_port_in_use_raises() -> None:
    with SandboxServer() as other, pytest.raises(OSError, match="in use"):
        serve("127.0.0.1", int(urlsplit(other.url).port or 0), SandboxOptions())


def test_a_server_in_a_thread_frees_its_port_at_the_end() -> None:
    for _ in range(3):
        with SandboxServer() as server:
            assert (
                httpx.get(
                    f"{server.url}/accounts", headers={"x-api-key": server.key}, trust_env=False
                ).status_code
                == 200
            )
        assert is_free(server.url)


def test_a_server_in_a_thread_ends_despite_a_hanging_response() -> None:
    with (
        SandboxServer(SandboxOptions(faults={"hang": 1.0})) as server,
        pytest.raises(httpx.ReadTimeout),
    ):
        httpx.get(
            f"{server.url}/accounts",
            headers={"x-api-key": server.key},
            trust_env=False,
            timeout=0.2,
        )
