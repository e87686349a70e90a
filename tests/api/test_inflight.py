"""Requests in flight: halved after failures, raised after successes, never above the limit."""

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from magnetis_dagster.api.concurrency import CAUTIOUS_ROUNDS, CHARGED_AHEAD, ConcurrencyLimit


@given(
    most=st.integers(1, 12),
    start=st.none() | st.integers(1, 12),
    steps=st.lists(st.sampled_from(["enter", "leave", "well", "trouble"]), max_size=80),
)
def test_the_limit_is_never_exceeded_and_no_slot_is_lost(
    most: int, start: int | None, steps: list[str]
) -> None:
    async def play() -> None:
        places, under_way = ConcurrencyLimit(most, start), 0
        for step in steps:
            if step == "enter":
                try:
                    await asyncio.wait_for(places.__aenter__(), 0.0005)
                    assert under_way < places.allowed
                    under_way += 1
                except TimeoutError:
                    assert under_way >= places.allowed
            elif step == "leave" and under_way:
                await places.__aexit__(None, None, None)
                under_way -= 1
            elif step == "well":
                places.record_success()
            elif step == "trouble":
                places.record_failure(time.monotonic())
            assert 1 <= places.allowed <= most
        for _ in range(under_way):
            await places.__aexit__(None, None, None)
        for _ in range(most * most * CAUTIOUS_ROUNDS):
            places.record_success()
        assert places.allowed == most
        for _ in range(most):
            await asyncio.wait_for(places.__aenter__(), 1)

    asyncio.run(play())


def test_calls_that_fail_together_count_as_one_failure() -> None:
    places = ConcurrencyLimit(8)
    began = time.monotonic()
    for _ in range(8):
        places.record_failure(began)
    assert places.allowed == 4
    places.record_failure(time.monotonic())
    assert places.allowed == 2


def test_a_cautious_start_needs_four_rounds_for_each_slot_until_it_has_all() -> None:
    places = ConcurrencyLimit(3, start=1)
    allowed = []
    for _ in range(4 * 1 + 4 * 2):
        allowed.append(places.allowed)
        places.record_success()
    assert allowed == [1] * 4 + [2] * 8
    assert places.allowed == 3
    places.record_failure(time.monotonic())
    places.record_success()
    assert places.allowed == 2, "from then on a round is enough"


def test_few_calls_are_charged_before_they_have_a_slot_and_none_after_a_cautious_start() -> None:
    async def charged(places: ConcurrencyLimit) -> int:
        taken = 0

        async def call() -> None:
            nonlocal taken
            async with places.charging_turn():
                taken += 1
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(call()) for _ in range(12)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with (
            asyncio.timeout(1),
            places.charging_turn(),
        ):  # the cancelled tasks released their turns
            return taken

    assert asyncio.run(charged(ConcurrencyLimit(8))) == 8 + CHARGED_AHEAD
    assert asyncio.run(charged(ConcurrencyLimit(8, start=3))) == 3
