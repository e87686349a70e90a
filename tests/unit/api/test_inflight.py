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
    async def run_calls() -> None:
        limit, in_flight = ConcurrencyLimit(most, start), 0
        for step in steps:
            if step == "enter":
                try:
                    await asyncio.wait_for(limit.__aenter__(), 0.0005)
                    assert in_flight < limit.allowed
                    in_flight += 1
                except TimeoutError:
                    assert in_flight >= limit.allowed
            elif step == "leave" and in_flight:
                await limit.__aexit__(None, None, None)
                in_flight -= 1
            elif step == "well":
                limit.record_success()
            elif step == "trouble":
                limit.record_failure(time.monotonic())
            assert 1 <= limit.allowed <= most
        for _ in range(in_flight):
            await limit.__aexit__(None, None, None)
        for _ in range(most * most * CAUTIOUS_ROUNDS):
            limit.record_success()
        assert limit.allowed == most
        for _ in range(most):
            await asyncio.wait_for(limit.__aenter__(), 60)

    asyncio.run(run_calls())


def test_calls_that_fail_together_count_as_one_failure() -> None:
    limit = ConcurrencyLimit(8)
    began = time.monotonic()
    for _ in range(8):
        limit.record_failure(began)
    assert limit.allowed == 4
    limit.record_failure(time.monotonic())
    assert limit.allowed == 2


def test_a_cautious_start_needs_four_rounds_for_each_slot_until_it_has_all() -> None:
    limit = ConcurrencyLimit(3, start=1)
    allowed = []
    for _ in range(4 * 1 + 4 * 2):
        allowed.append(limit.allowed)
        limit.record_success()
    assert allowed == [1] * 4 + [2] * 8
    assert limit.allowed == 3
    limit.record_failure(time.monotonic())
    limit.record_success()
    assert limit.allowed == 2, "from then on a round is enough"


def test_few_calls_are_charged_before_they_have_a_slot_and_none_after_a_cautious_start() -> None:
    async def count_charged(limit: ConcurrencyLimit) -> int:
        taken = 0

        async def call() -> None:
            nonlocal taken
            async with limit.charging_turn():
                taken += 1
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(call()) for _ in range(12)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with (
            asyncio.timeout(1),
            limit.charging_turn(),
        ):  # the cancelled tasks released their turns
            return taken

    assert asyncio.run(count_charged(ConcurrencyLimit(8))) == 8 + CHARGED_AHEAD
    assert asyncio.run(count_charged(ConcurrencyLimit(8, start=3))) == 3
