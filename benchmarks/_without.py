"""Load a range of calls without one optimisation; benchmarks/ablation.py measures it.

    python _without.py NAME API_URL KEY DATABASE_URL FIRST_DAY LAST_DAY

prints rows and seconds as JSON. `nothing` leaves all optimisations in place.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import date
from types import SimpleNamespace
from typing import Any

import psycopg
from _ours import main

from magnetis_dagster.api import concurrency
from magnetis_dagster.ingest import range_reader, window_reader, worker_threads
from magnetis_dagster.quota.ledger import Charge, Ledger, Settlement


def without_prefetch() -> None:
    async def none(*_: Any) -> None:
        return None

    range_reader.RangeReader._prefetch = none  # type: ignore[assignment]  # noqa: SLF001


class InlineExecutor:
    """Runs each function immediately, in the thread that submits it."""

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> "InlineExecutor":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001 - raised by the future
            future.set_exception(error)
        return future


def without_commit_thread() -> None:
    worker_threads.ThreadPoolExecutor = InlineExecutor  # type: ignore[misc,assignment]


def without_charging_ahead() -> None:
    concurrency.CHARGED_AHEAD = window_reader.CHARGED_AHEAD = 0


def with_a_transaction_per_charge() -> None:
    together = Ledger.charge_and_settle

    def each(
        self: Ledger, charges: Sequence[Charge], outcomes: Mapping[int, Settlement]
    ) -> list[Any]:
        for number, outcome in outcomes.items():
            together(self, [], {number: outcome})
        return [answer for charge in charges for answer in together(self, [charge], {})]

    Ledger.charge_and_settle = each  # type: ignore[method-assign]


@contextmanager
def no_pipeline(_: object) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(sync=lambda: None)


def without_pipelined_ledger() -> None:
    psycopg.Connection.pipeline = no_pipeline  # type: ignore[method-assign,assignment]


WITHOUT: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "prefetch of windows": without_prefetch,
    "commit thread": without_commit_thread,
    "charging ahead": without_charging_ahead,
    "batched ledger turns": with_a_transaction_per_charge,
    "pipelined ledger": without_pipelined_ledger,
}

if __name__ == "__main__":
    name, url, key, database, first, last = sys.argv[1:]
    WITHOUT[name]()
    started = time.perf_counter()
    rows = main(url, key, database, date.fromisoformat(first), date.fromisoformat(last))
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started}))
