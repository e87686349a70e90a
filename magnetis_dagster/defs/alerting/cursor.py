"""The cursor of the alert sensor: open failures, and alerts that are not posted yet.

The aliases of the fields are their names in cursors that Dagster stores already.
"""

from enum import IntEnum
from typing import Self

from pydantic import BaseModel, Field, ValidationError

from magnetis_dagster.defs.backoff import ticks_to_skip

REPEAT_SECONDS = 6 * 3600.0
"""The same failure is posted again after this time."""
MAX_LINES = 20
"""Lines of one message."""
MAX_OPEN_FAILURES = 300
MAX_MESSAGES_PER_HOUR = 6
HOUR = 3600.0


class AlertKind(IntEnum):
    """The kind of an alert. If there are too many alerts, the lower numbers are kept."""

    RUN_FAILED = 0
    ERROR = 1
    WARNING = 2
    RESOLVED = 3


class OpenFailure(BaseModel, populate_by_name=True):
    """A job or a check that failed and has not succeeded since."""

    at: float
    """When it last became an alert."""
    repeats: int = Field(default=0, alias="again")
    """Failures since that alert."""


class Alert(BaseModel):
    """An alert that is not posted yet."""

    kind: AlertKind
    key: str
    text: str
    times: int = 1
    """Failures with this key, with successes in between, since the last message."""


class PendingRetry(BaseModel):
    """A failed run that Dagster has marked for a retry but has not retried yet."""

    key: str
    text: str
    until: float
    """If the run is not retried by then, it becomes an alert."""


class AlertCursor(BaseModel, populate_by_name=True):
    """The state of the alert sensor between two ticks."""

    after: int
    """Storage id of the last event that was read."""
    open_failures: dict[str, OpenFailure] = Field(default={}, alias="troubles")
    pending_retries: dict[str, PendingRetry] = Field(default={}, alias="waiting")
    """By run id."""
    alerts: list[Alert] = Field(default=[], alias="lines")
    omitted: int = Field(default=0, alias="more")
    """Alerts beyond MAX_LINES: they are counted and not stored."""
    message_times: list[float] = Field(default=[], alias="posted")
    """Times of the messages posted in the last hour."""
    failures: int = 0
    """Consecutive webhook failures."""
    pause: int = 0
    """Ticks to skip."""

    @classmethod
    def parse(cls, cursor: str | None) -> Self | None:
        """Return the parsed cursor; None if it is empty or invalid, such as after a manual edit."""
        try:
            return cls.model_validate_json(cursor or "")
        except ValidationError:
            return None

    def serialize(self) -> str:
        """Return the text that `parse` reads."""
        return self.model_dump_json(by_alias=True)

    @property
    def pending(self) -> int:
        """The number of alerts that are not posted yet."""
        return len(self.alerts) + self.omitted

    def record_failure(self, kind: AlertKind, key: str, text: str, now: float) -> None:
        """Add an alert, unless one with this key is younger than REPEAT_SECONDS and still open."""
        known = self.open_failures.get(key)
        if known and 0 <= now - known.at < REPEAT_SECONDS:
            known.repeats += 1
            return
        if known and known.repeats:
            text = f"{text} ({known.repeats} more in between)"
        self.open_failures.pop(key, None)  # a dict keeps its order: the newest is last
        self.open_failures[key] = OpenFailure(at=now)
        self.open_failures = dict([*self.open_failures.items()][-MAX_OPEN_FAILURES:])
        self._add(Alert(kind=kind, key=key, text=text))

    def record_success(self, key: str, text: str) -> None:
        """Close the open failure with this key, if any, and add an alert that it is resolved."""
        self.pending_retries = {
            run_id: run for run_id, run in self.pending_retries.items() if run.key != key
        }
        if self.open_failures.pop(key, None):
            self._add(Alert(kind=AlertKind.RESOLVED, key=key, text=text))

    def _add(self, alert: Alert) -> None:
        if alert.kind is not AlertKind.RESOLVED:
            # A delayed message names each failure once, by its newest alert, and omits a
            # resolution that another failure has followed.
            alert.times += sum(
                each.times
                for each in self.alerts
                if each.key == alert.key and each.kind is not AlertKind.RESOLVED
            )
            self.alerts = [each for each in self.alerts if each.key != alert.key]
        self.alerts = sorted([*self.alerts, alert], key=lambda each: each.kind)
        self.omitted += len(self.alerts[MAX_LINES:])
        self.alerts = self.alerts[:MAX_LINES]

    def next_message_at(self, now: float) -> float:
        """Return when MAX_MESSAGES_PER_HOUR allows the next message; `now` if immediately."""
        self.message_times = [at for at in self.message_times if 0 <= now - at < HOUR]
        if len(self.message_times) < MAX_MESSAGES_PER_HOUR:
            return now
        return self.message_times[-MAX_MESSAGES_PER_HOUR] + HOUR

    def record_post(self, now: float) -> None:
        """Remove all alerts after they were posted."""
        self.alerts, self.omitted, self.failures, self.pause = [], 0, 0, 0
        self.message_times.append(now)

    def record_post_failure(self, now: float, *, maybe_delivered: bool) -> int:
        """Return the number of ticks to skip after a failed message. All alerts are kept.

        A message that may have been delivered counts towards MAX_MESSAGES_PER_HOUR.
        """
        self.failures += 1
        self.pause = ticks_to_skip(self.failures)
        if maybe_delivered:
            self.message_times.append(now)
        return self.pause
