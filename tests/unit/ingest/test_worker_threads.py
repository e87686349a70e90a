"""The threads of a load: order, failures, and a caller that leaves early."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator

import pytest

from magnetis_dagster.ingest.worker_threads import WorkerThreads

PATIENCE = 20.0
"""Seconds after which a wait that must end fails."""


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def threads(lines: list[str]) -> Iterator[WorkerThreads]:
    with WorkerThreads(lines.append) as threads:
        yield threads


def double(number: int) -> int:
    return 2 * number


def never(_: int) -> None:
    raise AssertionError("an item was discarded")


def test_a_result_is_yielded_before_the_next_fetch_ends(threads: WorkerThreads) -> None:
    yielded = threading.Event()

    async def staged() -> AsyncGenerator[int, None]:
        yield 1
        assert await asyncio.to_thread(yielded.wait, PATIENCE), "1 waited for the fetch of 2"
        yield 2

    results = []
    for number in threads.commit_each(staged(), double, never):
        results.append(number)
        yielded.set()
    assert results == [2, 4]


def test_the_next_item_is_fetched_during_a_commit(threads: WorkerThreads) -> None:
    fetching = threading.Event()

    async def staged() -> AsyncGenerator[int, None]:
        yield 1
        fetching.set()
        yield 2

    def commit(number: int) -> int:
        assert fetching.wait(PATIENCE), "the fetch of 2 did not start during the commit of 1"
        return number

    assert list(threads.commit_each(staged(), commit, never)) == [1, 2]


def test_a_failed_fetch_does_not_stop_the_commit_before_it(threads: WorkerThreads) -> None:
    failed = threading.Event()

    async def staged() -> AsyncGenerator[int, None]:
        yield 1
        failed.set()
        raise ValueError("the second")

    def commit(number: int) -> int:
        assert failed.wait(PATIENCE)
        return number

    results = threads.commit_each(staged(), commit, never)
    assert next(results) == 1
    with pytest.raises(ValueError, match="the second"):
        next(results)


def test_a_failed_commit_waits_for_the_running_fetch_and_discards_its_item(
    threads: WorkerThreads,
) -> None:
    failing, discarded = threading.Event(), []

    async def fetch() -> int:
        await asyncio.to_thread(failing.wait, PATIENCE)
        await asyncio.sleep(0.05)
        return 2

    async def staged() -> AsyncGenerator[int, None]:
        yield 1
        yield await fetch()

    def commit(number: int) -> int:
        failing.set()
        raise ValueError(f"commit of {number}")

    with pytest.raises(ValueError, match="commit of 1"):
        list(threads.commit_each(staged(), commit, discarded.append))
    assert discarded == [2]


def test_a_caller_that_leaves_cancels_the_fetch_and_can_use_the_threads_again(
    threads: WorkerThreads,
) -> None:
    started, ended = threading.Event(), []

    async def endless() -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("endless")
        return 0

    async def twice() -> AsyncGenerator[int, None]:
        yield 7
        yield 7

    async def staged() -> AsyncGenerator[int, None]:
        yield 1
        yield await endless()

    results = threads.commit_each(staged(), double, never)
    assert next(results) == 2
    assert started.wait(PATIENCE)
    results.close()  # type: ignore[attr-defined]
    assert ended == ["endless"]
    assert list(threads.commit_each(twice(), double, never)) == [14, 14]


def test_an_uncommitted_item_is_discarded(threads: WorkerThreads) -> None:
    third, discarded = threading.Event(), []

    async def staged() -> AsyncGenerator[int, None]:
        yield 1
        yield 2
        third.set()
        yield 3

    results = threads.commit_each(staged(), double, discarded.append)
    assert next(results) == 2
    assert next(results) == 4
    assert third.wait(PATIENCE)
    results.close()  # type: ignore[attr-defined]
    assert discarded == [3]


def test_lines_are_logged_in_the_callers_thread_in_order() -> None:
    logged: list[tuple[str, int]] = []
    with WorkerThreads(lambda line: logged.append((line, threading.get_ident()))) as threads:

        async def staged() -> AsyncGenerator[int, None]:
            for number in range(3):
                threads.report(f"item {number}")
                yield number

        assert list(threads.commit_each(staged(), double, never)) == [0, 2, 4]
    assert logged == [(f"item {number}", threading.get_ident()) for number in range(3)]


def test_a_caller_that_leaves_closes_the_generator_in_the_fetch_thread(
    threads: WorkerThreads,
) -> None:
    closed = []

    async def staged() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
            yield 3
        finally:
            await asyncio.sleep(0)
            closed.append(threading.current_thread().name)

    results = threads.commit_each(staged(), double, lambda _: None)
    assert next(results) == 2
    results.close()  # type: ignore[attr-defined]
    assert closed == ["fetch"]


def test_the_event_loop_runs_during_a_commit(threads: WorkerThreads) -> None:
    has_run = threading.Event()

    async def background() -> None:
        await asyncio.sleep(0.01)
        has_run.set()

    async def staged() -> AsyncGenerator[int, None]:
        task = asyncio.create_task(background())
        yield 1
        await task

    def commit(number: int) -> int:
        assert has_run.wait(PATIENCE), "a task of the event loop did not run during the commit"
        return number

    assert list(threads.commit_each(staged(), commit, never)) == [1]
