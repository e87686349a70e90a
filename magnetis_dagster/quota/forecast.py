"""How a backfill of so many calls is spread over the coming quota days, and when it ends. Pure, on top of `policy.py`.

Walks through the coming days a quarter of an hour at a time, since floors melt and other lanes call meanwhile.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from magnetis_dagster.quota.rules import (
    BACKFILL,
    DAY,
    LANES,
    QuotaPolicy,
    QuotaWindow,
    Usage,
    allowance,
)

STEP = timedelta(minutes=15)
SECOND = timedelta(seconds=1)
MOST_DAYS = 3660
"""Ten years: nobody waits for what takes longer, and the answer is the same."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How the quota is used beside the backfill, and how fast calls are."""

    mean_a_day: Mapping[str, float]
    """Lane to its calls on a mean day; its calls are taken to come evenly over the day. Backfill's own is not looked at."""
    seconds_per_call: float
    """From call to call of one backfill, pages in flight together included."""
    aging: tuple[tuple[datetime, str], ...] = ()
    """When each call that counts now stops to count, and its lane: rolling window only."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a backfill gets, day by day."""

    days: tuple[tuple[date, int], ...]
    """Calendar day in the quota's zone and the calls sent on it; every day from today to the last with a call."""
    done_at: datetime | None
    """When the last call is answered, in the quota's zone; None: not within MOST_DAYS."""
    calls_left: int = 0
    """Calls that are still to be sent then."""


def forecast(policy: QuotaPolicy, usage: Usage, calls: int, pace: Pace) -> Forecast:
    """Return how a backfill of `calls` calls that begins at `usage.at` is spread over the days."""
    days: list[tuple[date, int]] = []
    if calls <= 0:
        return Forecast((), usage.at.astimezone(policy.zone))
    for day, sent, done_at in _days(policy, usage, calls, pace):
        days.append((day, sent))
        calls -= sent
        if done_at is not None:
            return Forecast(tuple(days), done_at.astimezone(policy.zone))
        if len(days) >= MOST_DAYS or _stands_still(days):
            break
    return Forecast(tuple(days), None, calls)


def capacity(policy: QuotaPolicy, usage: Usage, pace: Pace) -> tuple[int, int]:
    """Return the calls that backfill gets in the rest of today, and on a whole day."""
    days = _days(policy, usage, 2**62, pace)
    return next(days)[1], next(days)[1]


def _stands_still(days: list[tuple[date, int]]) -> bool:
    # today may be spent or closed; three days without a call are followed by more of the same
    return len(days) > 3 and not any(sent for _, sent in days[-3:])


def _days(
    policy: QuotaPolicy, usage: Usage, calls: int, pace: Pace
) -> Iterator[tuple[date, int, datetime | None]]:
    """Yield each day with its calls, and on the last when the last call is answered."""
    walk = _Walk(policy, usage, calls, pace)
    whole: dict[timedelta, int] = {}
    while True:
        day, begin, end = policy.day_of(walk.at), walk.at, policy.day_end(walk.at)
        # in a rolling window, from the third whole day on each is like the one before
        least = 3 * DAY if walk.rolling else timedelta(0)
        fresh = begin == policy.day_start(day) and not walk.waits and begin - usage.at > least
        if fresh and (known := whole.get(end - begin)) is not None and known < walk.left:
            walk.pass_by(end, known)  # so ten years are told in a moment
            yield day, known, None
            continue
        before = walk.left
        while walk.at < end and walk.left:
            walk.step(min(end, walk.at + STEP))
        sent = before - walk.left
        yield day, sent, None if walk.left else walk.last_call
        if not walk.left:
            return
        if fresh:
            whole[end - begin] = sent


class _Walk:
    """A moment that moves on, and what is used at it."""

    def __init__(self, policy: QuotaPolicy, usage: Usage, calls: int, pace: Pace) -> None:
        self._policy = policy
        self._usage = usage
        self._pace = pace
        self.rolling = policy.window is QuotaWindow.ROLLING
        self._seconds = max(
            pace.seconds_per_call,
            1 / policy.calls_per_second if policy.calls_per_second else 0.0,
            0.001,
        )
        self._aging = deque(sorted(pace.aging))
        self._known = Counter(dict(usage.by_lane))
        """Calls that count and were made before the walk; in a rolling window they fall away."""
        self._elsewhere = (
            0 if usage.closed_until else usage.elsewhere
        )  # what the trial call finds out
        self._sent: deque[tuple[datetime, int]] = deque()
        """Calls of the backfill that count, by when they stop to (rolling), or all of the day (calendar)."""
        self._began = usage.at
        """Since when others call at their mean: the walk's beginning, then the day's."""
        self._next = max(usage.at, usage.closed_until or usage.at)
        self.at = usage.at
        self.left = calls
        self.last_call = usage.at

    @property
    def waits(self) -> bool:
        """Whether the next call may not be sent at this moment, for it is paced or the key is closed."""
        return self._next > self.at

    def pass_by(self, end: datetime, sent: int) -> None:
        """Go to the end of a day of which is known how many calls it brings."""
        self.left -= sent
        if not self.rolling:
            self._new_day(end)
            return
        self._sent = deque((moment + (end - self.at), number) for moment, number in self._sent)
        self.at = end

    def step(self, end: datetime) -> None:
        """Send what may be sent up to `end`, which lies on the same day."""
        begin = max(self.at, self._next)
        if begin < end:
            last = max(begin, end - SECOND)
            room = self._room(last)
            gap = timedelta(seconds=self._gap(begin, room))
            number = min(self.left, room, -((begin - end) // gap))
            if number:
                self.left -= number
                sent_at = max(begin + (number - 1) * gap, self._room_from(begin, last, number))
                self._sent.append((sent_at + DAY, number))
                self._next = sent_at + gap
                self.last_call = sent_at + timedelta(seconds=self._seconds)
        self.at = end
        if not self.rolling and self._policy.day_start(self._policy.day_of(end)) == end:
            self._new_day(end)

    def _new_day(self, at: datetime) -> None:
        self.at = self._began = at
        self._known, self._elsewhere = Counter(), 0
        self._sent.clear()

    def _gap(self, begin: datetime, room: int) -> float:
        """Return the seconds from call to call."""
        if BACKFILL not in self._policy.spread:
            return self._seconds
        rest = (
            DAY / max(1, room + self._backfilled())
            if self.rolling
            else (self._policy.day_end(begin) - begin) / (room + 1)
        )
        return max(self._seconds, rest.total_seconds())

    def _room_from(self, begin: datetime, last: datetime, number: int) -> datetime:
        """Return the first second at which there is room for `number` calls: floors melt meanwhile."""
        seconds = range((last - begin) // SECOND + 1)
        offset = bisect_left(
            seconds, True, key=lambda second: self._room(begin + second * SECOND) >= number
        )
        return min(last, begin + offset * SECOND)

    def _room(self, at: datetime) -> int:
        by_lane = {lane: self._used(lane, at) for lane in LANES if lane != BACKFILL}
        elsewhere = self._elsewhere
        if self.rolling:
            self._forget(at)
            if self._policy.day_of(at) != self._policy.day_of(self._usage.at):
                elsewhere = 0
        by_lane[BACKFILL] = self._known[BACKFILL] + self._backfilled()
        return allowance(
            self._policy,
            replace(self._usage, at=at, by_lane=by_lane, elsewhere=elsewhere),
            BACKFILL,
        )

    def _used(self, lane: str, at: datetime) -> int:
        mean = self._pace.mean_a_day.get(lane, 0.0)
        if self.rolling:
            return self._known[lane] + int(mean * min(1.0, (at - self._began) / DAY))
        rest = max(0.0, mean - self._known[lane])
        return self._known[lane] + int(
            rest * ((at - self._began) / (self._policy.day_end(self._began) - self._began))
        )

    def _backfilled(self) -> int:
        return sum(number for _, number in self._sent)

    def _forget(self, at: datetime) -> None:
        while self._aging and self._aging[0][0] <= at:
            self._known[self._aging.popleft()[1]] -= 1
        while self._sent and self._sent[0][0] <= at:
            self._sent.popleft()


def mean_a_day(days: Iterable[Mapping[str, int]], number: int) -> dict[str, float]:
    """Return each lane's calls on a mean day of the last `number` days, given those on which there were calls."""
    total: Counter[str] = Counter()
    for day in days:
        total.update(day)
    return {lane: total[lane] / number if number else 0.0 for lane in LANES}
