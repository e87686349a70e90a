"""Reading, committing and telling at once: order, failures, and leaving in the middle."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator

import pytest

from magnetis_dagster.ingest.commit_thread import ReadingThread

PATIENCE = 20.0
"""Seconds until a wait that must end is given up."""


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def thread(lines: list[str]) -> Iterator[ReadingThread]:
    with ReadingThread(lines.append) as thread:
        yield thread


def double(number: int) -> int:
    return 2 * number


def never(_: int) -> None:
    raise AssertionError("nothing is to be discarded")


def test_what_is_committed_is_told_before_the_next_reading_ends(thread: ReadingThread) -> None:
    told = threading.Event()

    async def reads() -> AsyncGenerator[int, None]:
        yield 1
        assert await asyncio.to_thread(told.wait, PATIENCE), "1 was not told while 2 was being read"
        yield 2

    found = []
    for number in thread.committed(reads(), double, never):
        found.append(number)
        told.set()
    assert found == [2, 4]


def test_the_next_one_is_read_while_the_last_one_is_committed(thread: ReadingThread) -> None:
    reading = threading.Event()

    async def reads() -> AsyncGenerator[int, None]:
        yield 1
        reading.set()
        yield 2

    def commit(number: int) -> int:
        assert reading.wait(PATIENCE), "2 was not begun while 1 was being committed"
        return number

    assert list(thread.committed(reads(), commit, never)) == [1, 2]


def test_a_reading_that_fails_lets_the_one_before_it_through(thread: ReadingThread) -> None:
    failed = threading.Event()

    async def reads() -> AsyncGenerator[int, None]:
        yield 1
        failed.set()
        raise ValueError("the second")

    def commit(number: int) -> int:
        assert failed.wait(PATIENCE)
        return number

    results = thread.committed(reads(), commit, never)
    assert next(results) == 1
    with pytest.raises(ValueError, match="the second"):
        next(results)


def test_a_commit_that_fails_waits_for_what_is_being_read_and_discards_it(
    thread: ReadingThread,
) -> None:
    failing, discarded = threading.Event(), []

    async def reading() -> int:
        await asyncio.to_thread(failing.wait, PATIENCE)
        await asyncio.sleep(0.05)
        return 2

    async def reads() -> AsyncGenerator[int, None]:
        yield 1
        yield await reading()

    def commit(number: int) -> int:
        failing.set()
        raise ValueError(f"commit of {number}")

    with pytest.raises(ValueError, match="commit of 1"):
        list(thread.committed(reads(), commit, discarded.append))
    assert discarded == [2]


def test_who_leaves_ends_the_reading_and_the_thread_goes_on(thread: ReadingThread) -> None:
    begun, ended = threading.Event(), []

    async def endless() -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("endless")
        return 0

    async def twice() -> AsyncGenerator[int, None]:
        yield 7
        yield 7

    async def reads() -> AsyncGenerator[int, None]:
        yield 1
        yield await endless()

    results = thread.committed(reads(), double, never)
    assert next(results) == 2
    assert begun.wait(PATIENCE)
    results.close()  # type: ignore[attr-defined]
    assert ended == ["endless"]
    assert list(thread.committed(twice(), double, never)) == [14, 14]


def test_what_was_read_and_not_committed_is_discarded(thread: ReadingThread) -> None:
    second, discarded = threading.Event(), []

    async def reads() -> AsyncGenerator[int, None]:
        yield 1
        yield 2
        second.set()
        yield 3

    results = thread.committed(reads(), double, discarded.append)
    assert next(results) == 2
    assert next(results) == 4
    assert second.wait(PATIENCE)
    results.close()  # type: ignore[attr-defined]
    assert discarded == [3]


def test_lines_are_told_in_the_callers_thread_in_their_order() -> None:
    told: list[tuple[str, int]] = []
    with ReadingThread(lambda line: told.append((line, threading.get_ident()))) as thread:

        async def reads() -> AsyncGenerator[int, None]:
            for number in range(3):
                thread.tell(f"reading {number}")
                yield number

        assert list(thread.committed(reads(), double, never)) == [0, 2, 4]
    assert told == [(f"reading {number}", threading.get_ident()) for number in range(3)]


def test_who_leaves_closes_what_was_being_read(thread: ReadingThread) -> None:
    closed = []

    async def reads() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
            yield 3
        finally:
            await asyncio.sleep(0)
            closed.append(threading.current_thread().name)

    results = thread.committed(reads(), double, lambda _: None)
    assert next(results) == 2
    results.close()  # type: ignore[attr-defined]
    assert closed == ["reading"]


def test_the_event_loop_runs_while_nothing_is_read(thread: ReadingThread) -> None:
    went_on = threading.Event()

    async def behind() -> None:
        await asyncio.sleep(0.01)
        went_on.set()

    async def reads() -> AsyncGenerator[int, None]:
        task = asyncio.create_task(behind())
        yield 1
        await task

    def commit(number: int) -> int:
        assert went_on.wait(PATIENCE), "what was begun stood still while nobody waited for it"
        return number

    assert list(thread.committed(reads(), commit, never)) == [1]
