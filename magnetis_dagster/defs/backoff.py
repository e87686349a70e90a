"""Skip ticks of a sensor after consecutive failures."""

MOST_TICKS = 7
"""Maximum number of skipped ticks: two hours, with ticks every 15 minutes."""


def ticks_to_skip(failures: int) -> int:
    """Return 0, 1, 3, then 7 ticks, after one, two, three, and more consecutive failures."""
    return min((1 << max(0, failures - 1)) - 1, MOST_TICKS)
