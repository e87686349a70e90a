"""Forecast how a backfill spreads over the coming quota days, and when it ends.

Simulates the days in steps of 15 minutes: floors shrink and other lanes send calls meanwhile.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from magnetis_dagster.dates import DAY
from magnetis_dagster.quota.rules import (
    BACKFILL,
    LANES,
    SECOND,
    QuotaPolicy,
    Usage,
    allowance,
)

STEP = timedelta(minutes=15)
MOST_DAYS = 3660
"""Ten years: nobody waits for a longer backfill."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The use of the quota beside the backfill, and the speed of calls."""

    mean_a_day: Mapping[str, float]
    """Lane to its calls on a mean day, spread evenly over the day. The backfill lane is ignored."""
    seconds_per_call: float
    """Mean interval between two calls of one backfill, including pages in flight together."""
    expiries: tuple[tuple[datetime, str], ...] = ()
    """For each counted call: when it stops counting, and its lane. Rolling quota only."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The calls of a backfill, day by day."""

    days: tuple[tuple[date, int], ...]
    """Calendar day in the quota's zone and its calls, from today to the last day with a call."""
    done_at: datetime | None
    """When the last call is answered, in the quota's zone; None if not within MOST_DAYS."""
    calls_left: int = 0
    """Calls that remain after MOST_DAYS."""


def forecast(policy: QuotaPolicy, usage: Usage, calls: int, pace: Pace) -> Forecast:
    """Return how `calls` calls that begin at `usage.at` spread over the days."""
    days: list[tuple[date, int]] = []
    if calls <= 0:
        return Forecast((), usage.at.astimezone(policy.zone))
    for day, sent, done_at in _days(policy, usage, calls, pace):
        days.append((day, sent))
        calls -= sent
        if done_at is not None:
            return Forecast(tuple(days), done_at.astimezone(policy.zone))
        # today may be exhausted or closed; after three days without a call, no day brings one
        has_stopped = len(days) > 3 and not any(sent for _, sent in days[-3:])
        if has_stopped or len(days) >= MOST_DAYS:
            break
    return Forecast(tuple(days), None, calls)


def capacity(policy: QuotaPolicy, usage: Usage, pace: Pace) -> tuple[int, int]:
    """Return backfill's calls for the rest of today, and for a whole day."""
    days = _days(policy, usage, 2**62, pace)
    return next(days)[1], next(days)[1]


def _days(
    policy: QuotaPolicy, usage: Usage, calls: int, pace: Pace
) -> Iterator[tuple[date, int, datetime | None]]:
    """Yield each day with its calls; on the last day also the end of the last call."""
    simulation = _Simulation(policy, usage, calls, pace)
    whole: dict[timedelta, int] = {}
    while True:
        day, begin, end = policy.day_of(simulation.at), simulation.at, policy.day_end(simulation.at)
        # with a rolling quota, each day equals the day before from the third whole day on
        least = 3 * DAY if policy.is_rolling else timedelta(0)
        is_whole = begin == policy.day_start(day) and begin - usage.at > least
        is_whole = is_whole and not simulation.is_waiting
        if is_whole and (known := whole.get(end - begin)) is not None and known < simulation.left:
            simulation.skip_to(end, known)  # skip the simulation, so that ten years take a moment
            yield day, known, None
            continue
        before = simulation.left
        while simulation.at < end and simulation.left:
            simulation.step(min(end, simulation.at + STEP))
        sent = before - simulation.left
        yield day, sent, None if simulation.left else simulation.last_call
        if not simulation.left:
            return
        if is_whole:
            whole[end - begin] = sent


class _Simulation:
    """A simulation of the quota: a moment that advances, and the usage at it."""

    def __init__(self, policy: QuotaPolicy, usage: Usage, calls: int, pace: Pace) -> None:
        self._policy = policy
        self._usage = usage
        self._pace = pace
        per_second = policy.calls_per_second
        self._seconds = max(pace.seconds_per_call, 1 / per_second if per_second else 0.0, 0.001)
        self._expiries = deque(sorted(pace.expiries))
        self._known = Counter(dict(usage.by_lane))
        """Calls that count and precede the simulation; with a rolling quota they expire."""
        # the trial call redetermines it
        self._elsewhere = 0 if usage.closed_until else usage.elsewhere
        self._sent: deque[tuple[datetime, int]] = deque()
        """When counted backfill calls expire, and how many. Calendar quota: those of the day."""
        self._began = usage.at
        """Start of the mean usage by other lanes: the simulation's start, later the day's."""
        self._next = max(usage.at, usage.closed_until or usage.at)
        self.at = usage.at
        self.left = calls
        self.last_call = usage.at

    @property
    def is_waiting(self) -> bool:
        """Whether the next call must wait, because calls are paced or the key is closed."""
        return self._next > self.at

    def skip_to(self, end: datetime, sent: int) -> None:
        self.left -= sent
        if not self._policy.is_rolling:
            self._new_day(end)
            return
        self._sent = deque((moment + (end - self.at), number) for moment, number in self._sent)
        self.at = end

    def step(self, end: datetime) -> None:
        """Send the allowed calls up to `end`, which is on the same day."""
        begin = max(self.at, self._next)
        if begin < end:
            last = max(begin, end - SECOND)
            room = self._room(last)
            gap = timedelta(seconds=self._gap(begin, room))
            number = min(self.left, room, -((begin - end) // gap))
            if number:
                self.left -= number
                first = self._first_second_with_room(begin, last, number)
                sent_at = max(begin + (number - 1) * gap, first)
                self._sent.append((sent_at + DAY, number))
                self._next = sent_at + gap
                self.last_call = sent_at + timedelta(seconds=self._seconds)
        self.at = end
        if not self._policy.is_rolling and self._policy.day_start(self._policy.day_of(end)) == end:
            self._new_day(end)

    def _new_day(self, at: datetime) -> None:
        self.at = self._began = at
        self._known, self._elsewhere = Counter(), 0
        self._sent.clear()

    def _gap(self, begin: datetime, room: int) -> float:
        if BACKFILL not in self._policy.spread:
            return self._seconds
        if self._policy.is_rolling:
            rest = DAY / max(1, room + self._backfilled())
        else:
            rest = (self._policy.day_end(begin) - begin) / (room + 1)
        return max(self._seconds, rest.total_seconds())

    def _first_second_with_room(self, begin: datetime, last: datetime, number: int) -> datetime:
        def has_room(second: int) -> bool:
            return self._room(begin + second * SECOND) >= number

        offset = bisect_left(range((last - begin) // SECOND + 1), True, key=has_room)
        return min(last, begin + offset * SECOND)

    def _room(self, at: datetime) -> int:
        by_lane = {lane: self._used(lane, at) for lane in LANES if lane != BACKFILL}
        elsewhere = self._elsewhere
        if self._policy.is_rolling:
            self._expire(at)
            if self._policy.day_of(at) != self._policy.day_of(self._usage.at):
                elsewhere = 0
        by_lane[BACKFILL] = self._known[BACKFILL] + self._backfilled()
        usage = replace(self._usage, at=at, by_lane=by_lane, elsewhere=elsewhere)
        return allowance(self._policy, usage, BACKFILL)

    def _used(self, lane: str, at: datetime) -> int:
        mean, known = self._pace.mean_a_day.get(lane, 0.0), self._known[lane]
        if self._policy.is_rolling:
            return known + int(mean * min(1.0, (at - self._began) / DAY))
        share = (at - self._began) / (self._policy.day_end(self._began) - self._began)
        return known + int(max(0.0, mean - known) * share)

    def _backfilled(self) -> int:
        return sum(number for _, number in self._sent)

    def _expire(self, at: datetime) -> None:
        while self._expiries and self._expiries[0][0] <= at:
            self._known[self._expiries.popleft()[1]] -= 1
        while self._sent and self._sent[0][0] <= at:
            self._sent.popleft()


def mean_a_day(days: Iterable[Mapping[str, int]], number: int) -> dict[str, float]:
    """Return each lane's calls on a mean day of `number` days; `days` are those with calls."""
    total: Counter[str] = Counter()
    for day in days:
        total.update(day)
    return {lane: total[lane] / number if number else 0.0 for lane in LANES}
