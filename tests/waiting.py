"""Wait for a condition in a test."""

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool],
    expectation: str,
    seconds: float = 180.0,
    *,
    interval: float = 0.2,
    on_poll: Callable[[], None] = lambda: None,
    details: Callable[[], str] = lambda: "",
) -> None:
    """Poll `condition` until it is true; fail after `seconds` and name the `expectation`.

    `on_poll` runs before each pause. `details` returns a text to append to the failure.
    """
    end = time.monotonic() + seconds
    while not condition():
        on_poll()
        assert time.monotonic() < end, f"not in {seconds:g} s: {expectation}\n{details()}".rstrip()
        time.sleep(interval)
