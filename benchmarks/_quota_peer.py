"""Request grants from pyrate-limiter's PostgreSQL bucket; benchmarks/quota.py compares it.

    python _quota_peer.py grants URL PROCESSES SECONDS LIMIT

prints the milliseconds of every grant as JSON.

    python _quota_peer.py calendar URL LIMIT MOMENT...

requests LIMIT grants at each moment, and prints how many were granted at each. benchmarks/quota.py
creates the environment in which this program runs.
"""

import json
import multiprocessing
import sys
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from psycopg_pool import ConnectionPool
from pyrate_limiter import (
    Duration,
    FixedWindow,
    Limiter,
    PostgresBucket,
    Rate,
    RateItem,
    SlidingWindowLog,
)


def request_grants(
    url: str, seconds: float, limit: int, begin: Barrier, results: "Queue[list[float]]"
) -> None:
    with ConnectionPool(url, min_size=1, max_size=2, open=True) as pool:
        limiter = Limiter(PostgresBucket(pool, "bench", [Rate(limit, Duration.DAY)]))
        limiter.try_acquire("key")
        begin.wait()
        durations, end = [], time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            if limiter.try_acquire("key", timeout=seconds):
                durations.append((time.perf_counter() - started) * 1000)
        results.put(durations)
        limiter.close()


def grants(url: str, processes: int, seconds: float, limit: int) -> None:
    context = multiprocessing.get_context("spawn")
    begin, results = context.Barrier(processes), context.Queue()
    arguments = (url, seconds, limit, begin, results)
    workers = [context.Process(target=request_grants, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    print(json.dumps([duration for _ in workers for duration in results.get()]))
    for worker in workers:
        worker.join()


def calendar(url: str, limit: int, moments: list[float]) -> None:
    granted = {}
    with ConnectionPool(url, min_size=1, max_size=2, open=True) as pool:
        for algorithm in (SlidingWindowLog(), FixedWindow()):
            name = type(algorithm).__name__
            bucket = PostgresBucket(pool, name, [Rate(limit, Duration.DAY)], algorithm=algorithm)
            granted[name] = [
                sum(bool(bucket.put(RateItem("key", round(moment * 1000)))) for _ in range(limit))
                for moment in moments
            ]
    print(json.dumps(granted))


if __name__ == "__main__":
    if sys.argv[1] == "grants":
        grants(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
    else:
        calendar(sys.argv[2], int(sys.argv[3]), [float(moment) for moment in sys.argv[4:]])
