"""Decide whether a call may be sent now, and if not, when.

Pure functions, shared by ledger, reports and forecasts.

Floors: each lane except backfill has a share of the limit, which backfill may not use. Over the
last hours of the quota day the floors shrink evenly to zero, so no unused calls are lost.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import partial
from itertools import pairwise
from zoneinfo import ZoneInfo

from magnetis_dagster.dates import DAY
from magnetis_dagster.errors import PermanentError

LANES = ("schedule", "settings", "manual", "backfill")
"""Scheduled runs, the settings sensors, people, and backfills."""
BACKFILL = "backfill"
DEFAULT_FLOORS: Mapping[str, float] = {"schedule": 0.20, "settings": 0.05, "manual": 0.05}
SECOND = timedelta(seconds=1)
TRIAL_POLL = timedelta(seconds=2)
"""Retry interval while another process's trial call finds out whether the API reopened."""
LONGEST_SPACING_WAIT = timedelta(seconds=30)
"""Longest wait of a paced call after its grant; a longer wait is a refusal."""
KEY_REFUSED = ", key refused"
"""End of the signal of a response that rejected the key itself."""


class QuotaWindow(StrEnum):
    """The time over which the limit counts; the vendor does not document when its day begins."""

    CALENDAR = "calendar"
    """The calendar day in MAGNETIS_TIMEZONE: 23, 24 or 25 hours."""
    ROLLING = "rolling"


class InvalidQuotaRules(PermanentError):
    """The quota variables cannot be satisfied; the text names variable and allowed values."""


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """The quota rules of one key."""

    limit: int
    """Calls per quota day, or per 24 hours if the quota is rolling."""
    zone: ZoneInfo
    """Time zone of the quota day."""
    window: QuotaWindow = QuotaWindow.CALENDAR
    floors: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_FLOORS))
    """Lane to the share of the limit that is reserved for it."""
    release_hours: float = 6.0
    """Hours before the end of a calendar day over which the floors shrink to zero."""
    spread: frozenset[str] = frozenset()
    """Lanes that spread their calls evenly over the rest of the day."""
    calls_per_second: float | None = None
    """Maximum calls per second for the key; None: no limit."""

    def __post_init__(self) -> None:
        """Raise InvalidQuotaRules if the rules cannot be satisfied."""
        if problem := next(self._problems(), None):
            raise InvalidQuotaRules(problem)

    def _problems(self) -> Iterator[str]:
        if self.limit < 1:
            yield f"MAGNETIS_DAILY_QUOTA: expected at least 1 call a day, got {self.limit}."
        for setting, lanes in (("FLOORS", self.floors), ("SPREAD", self.spread)):
            if unknown := [lane for lane in lanes if lane not in LANES]:
                yield (
                    f"MAGNETIS_QUOTA_{setting}: unknown lane {unknown[0]!r}. "
                    f"Lanes: {', '.join(LANES)}."
                )
        if BACKFILL in self.floors:
            yield (
                "MAGNETIS_QUOTA_FLOORS: backfill cannot have a floor. The floors reserve calls "
                "for the other lanes."
            )
        shares = self.floors.values()
        if not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
            yield (
                "MAGNETIS_QUOTA_FLOORS: expected shares of at least 0 that sum below 1 (100 %), "
                f"got {dict(self.floors)} with a sum of {sum(shares):g}: backfill would never get "
                "a call."
            )
        if not 0 <= self.release_hours <= 24:
            yield (
                f"MAGNETIS_QUOTA_RELEASE_HOURS: expected 0 to 24 hours, got {self.release_hours:g}."
            )
        if self.calls_per_second is not None and not self.calls_per_second >= 1 / 86_400:
            yield (
                "MAGNETIS_CALLS_PER_SECOND: expected more than 0 (at least 0.0000116, one call a "
                f"day), or none, got {self.calls_per_second:g}."
            )

    @property
    def is_rolling(self) -> bool:
        """Whether the limit counts over any 24 hours."""
        return self.window is QuotaWindow.ROLLING

    def day_of(self, moment: datetime) -> date:
        """Return the calendar day of a moment in the quota's zone."""
        return moment.astimezone(self.zone).date()

    def day_start(self, day: date) -> datetime:
        """Return the UTC time at which a calendar day begins."""
        return datetime.combine(day, time.min, self.zone).astimezone(UTC)

    def day_end(self, moment: datetime) -> datetime:
        """Return the UTC time at which the calendar day of `moment` ends."""
        return self.day_start(self.day_of(moment) + DAY)

    def floor(self, lane: str, moment: datetime) -> int:
        """Return the calls reserved for `lane` at `moment`, including used ones."""
        # 29 % of 100 is 28.999999999999996 in binary
        whole = self.floors.get(lane, 0.0) * self.limit + 1e-9
        if self.is_rolling or not self.release_hours:
            return int(whole)
        rest = (self.day_end(moment) - moment) / timedelta(hours=self.release_hours)
        return int(whole * min(1.0, max(0.0, rest)))


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage that the ledger contains at one moment."""

    at: datetime
    """When the usage was read, by the database's clock, in UTC."""
    by_lane: Mapping[str, int]
    """Calls that count in the quota window of `at`, by lane."""
    elsewhere: int = 0
    """Calls of the quota window that other programs sent, by the API's count."""
    closed_until: datetime | None = None
    """The API reported an exhausted quota until then. Remains set until a trial call succeeds."""
    trial_until: datetime | None = None
    """A trial call is in flight; it expires at this time if its process dies."""
    last_sent: datetime | None = None
    """When the key's last granted call was, or will be, sent."""
    lane_last_sent: datetime | None = None
    """The same for the requesting lane."""
    closed_signal: str | None = None
    """Status and rate-limit headers of the last response that closed the key."""

    @property
    def used(self) -> int:
        """Calls that count, by all lanes and elsewhere."""
        return sum(self.by_lane.values()) + self.elsewhere

    @property
    def is_closed(self) -> bool:
        """Whether the API refuses calls at `at`."""
        return self.closed_until is not None and self.closed_until > self.at

    @property
    def key_refused(self) -> bool:
        """Whether the key is closed because the API rejected it, not because of its quota."""
        return self.closed_until is not None and (self.closed_signal or "").endswith(KEY_REFUSED)


@dataclass(frozen=True, slots=True)
class Granted:
    """The call may be sent at `send_at` (now, unless calls are paced)."""

    send_at: datetime
    trial: bool = False
    """Whether it is the trial call, which finds out whether the API reopened."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The call may not be sent."""

    reason: str
    available_at: datetime
    """The first second at which it may be, if no other call is sent meanwhile."""


def allowance(policy: QuotaPolicy, usage: Usage, lane: str, moment: datetime | None = None) -> int:
    """Return how many calls `lane` may still send at `moment`; never below 0.

    `moment` is by default the usage's own.
    """
    moment = moment or usage.at
    room = policy.limit - usage.used
    if lane == BACKFILL:
        room -= sum(
            max(0, policy.floor(other, moment) - usage.by_lane.get(other, 0))
            for other in LANES
            if other != BACKFILL
        )
    return max(0, room)


def decide(
    policy: QuotaPolicy,
    usage: Usage,
    lane: str,
    expiries: Callable[[], Iterable[tuple[datetime, str]]] = tuple,
) -> Granted | Refused:
    """Return whether `lane` may send a call now.

    `expiries` is called after a refusal by a rolling quota. It returns when each counted call stops
    counting, and its lane.
    """
    if lane not in LANES:
        raise InvalidQuotaRules(f"unknown lane {lane!r}. Lanes: {', '.join(LANES)}.")
    answer = _grant_or_reason(policy, usage, lane)
    if isinstance(answer, Granted):
        return answer
    if usage.trial_until is not None and usage.trial_until > usage.at:
        return Refused(answer, usage.at + TRIAL_POLL)
    counted = expiries() if policy.is_rolling else ()
    return Refused(answer, _first_grant(policy, usage, lane, counted))


def usage_after(usage: Usage, lane: str, granted: Granted, longest_call: timedelta) -> Usage:
    """Return the usage after a call that was granted at `usage.at`.

    A trial call is in flight for `longest_call` at most.
    """
    return replace(
        usage,
        by_lane={**usage.by_lane, lane: usage.by_lane.get(lane, 0) + 1},
        trial_until=usage.at + longest_call if granted.trial else usage.trial_until,
        last_sent=granted.send_at,
        lane_last_sent=granted.send_at,
    )


def _grant_or_reason(policy: QuotaPolicy, usage: Usage, lane: str) -> Granted | str:
    if usage.is_closed:
        closed = "the API reported that this key has no calls left"
        return "the API rejected this key" if usage.key_refused else closed
    if usage.trial_until is not None and usage.trial_until > usage.at:
        return "a trial call is in flight to find out whether the API has reopened"
    trial = usage.closed_until is not None
    if trial:
        # the trial call redetermines the calls used elsewhere
        usage = replace(usage, elsewhere=0)
    room = allowance(policy, usage, lane)
    if not room:
        if (left := policy.limit - usage.used) > 0:
            reserved = "reserved for the schedule, settings and manual lanes"
            return f"the remaining {left} API calls are {reserved}"
        return f"all {policy.limit} API calls are used"
    send_at = _send_time(policy, usage, lane, room)
    too_late = not policy.is_rolling and send_at >= policy.day_end(usage.at)
    if too_late or send_at - usage.at > LONGEST_SPACING_WAIT:
        return f"the calls of lane {lane} are paced"
    return Granted(send_at, trial)


def _send_time(policy: QuotaPolicy, usage: Usage, lane: str, room: int) -> datetime:
    send_at, last = usage.at, usage.lane_last_sent
    if policy.calls_per_second is not None and usage.last_sent is not None:
        send_at = max(send_at, usage.last_sent + timedelta(seconds=1 / policy.calls_per_second))
    if lane in policy.spread and last is not None:
        # from the last call, not from now: the next call's time must not move while a process waits
        if policy.is_rolling:
            gap = DAY / (room + usage.by_lane.get(lane, 0))
        else:
            gap = (policy.day_end(usage.at) - last) / (room + 1)
        send_at = max(send_at, last + gap)
    return send_at


def _first_grant(
    policy: QuotaPolicy, usage: Usage, lane: str, expiries: Iterable[tuple[datetime, str]]
) -> datetime:
    """Return the first second at which the call is granted if no other call is sent.

    Between two events (a midnight, a call that stops counting) time can only help. So if the last
    second before an event is refused, all seconds before it are.
    """
    start = max(usage.at, usage.closed_until or usage.at)
    midnights = [policy.day_end(usage.at)]
    while midnights[-1] <= start or len(midnights) < 3:
        midnights.append(policy.day_end(midnights[-1]))
    turns = sorted([(usage.at, ""), *((midnight, "") for midnight in midnights), *expiries])
    by_lane, elsewhere = dict(usage.by_lane), usage.elsewhere
    for (turn, aged), (following, _) in pairwise([*turns, (turns[-1][0] + 2 * DAY, "")]):
        if aged:
            by_lane[aged] -= 1
        elif turn > usage.at:
            elsewhere = 0
            if not policy.is_rolling:
                by_lane = {}
        begin = max(turn, start)
        if begin < following:
            at_turn = replace(usage, by_lane=by_lane, elsewhere=elsewhere)
            seconds = range((following - begin - timedelta.resolution) // SECOND + 1)
            is_granted = partial(_is_granted, policy, at_turn, lane, begin)
            offset = bisect_left(seconds, True, key=is_granted)
            if offset < len(seconds):
                return begin + offset * SECOND
    return turns[-1][0]


def _is_granted(
    policy: QuotaPolicy, usage: Usage, lane: str, begin: datetime, seconds: int
) -> bool:
    later = replace(usage, at=begin + seconds * SECOND)
    return isinstance(_grant_or_reason(policy, later, lane), Granted)
