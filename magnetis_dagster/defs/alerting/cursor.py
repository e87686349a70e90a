"""What the sensor of alerts remembers between ticks: its cursor. What is new becomes lines; lines wait here until they are told."""

from enum import IntEnum
from typing import Self

from pydantic import BaseModel, ValidationError

REPEAT_SECONDS = 6 * 3600.0
MOST_LINES = 20
MOST_TROUBLES = 300
MOST_MESSAGES = 6
"""In an hour."""
HOUR = 3600.0
LONGEST_PAUSE = 7
"""Ticks left out at most, after one failed message behind the other (0, 1, 3, 7)."""


class Kind(IntEnum):
    """Of a line; the first ones are kept where there are too many."""

    RUN_FAILED = 0
    ERROR = 1
    WARNING = 2
    OVER = 3


WORDS = {
    Kind.RUN_FAILED: "Run failed",
    Kind.ERROR: "Check failed (ERROR)",
    Kind.WARNING: "Check failed (WARN)",
    Kind.OVER: "Over",
}


class Trouble(BaseModel):
    """A job or a check that failed and has not succeeded since."""

    at: float
    """When it was last made a line."""
    again: int = 0
    """Failures since then."""


class Line(BaseModel):
    """What is still to be told."""

    kind: Kind
    key: str
    text: str
    times: int = 1
    """Failures of the same, with successes between them, since the last message."""

    def shown(self) -> str:
        """Return the line as it is told."""
        return (
            f"{WORDS[self.kind]}: {self.text}{f' ({self.times} times)' if self.times > 1 else ''}"
        )


class Waiting(BaseModel):
    """A failed run that Dagster has marked as one it will retry, and has not retried yet."""

    key: str
    text: str
    until: float
    """It is told then, if it is not retried."""


class State(BaseModel):
    """The cursor."""

    after: int
    """Storage id of the last event looked at."""
    troubles: dict[str, Trouble] = {}
    waiting: dict[str, Waiting] = {}
    """By run id."""
    lines: list[Line] = []
    more: int = 0
    """Lines to be told that found no room: only their number is."""
    posted: list[float] = []
    """When messages went out, in the last hour."""
    failures: int = 0
    """Messages that failed, one behind the other."""
    pause: int = 0
    """Ticks to leave out."""

    @classmethod
    def parse(cls, cursor: str | None) -> Self | None:
        """Return what the cursor says; None for an empty one, and for one that somebody wrote by hand wrongly."""
        try:
            return cls.model_validate_json(cursor or "")
        except ValidationError:
            return None

    def failed(self, kind: Kind, key: str, text: str, now: float) -> None:
        """Note a failure. It becomes a line unless the same was one in the last six hours, with no success since."""
        known = self.troubles.get(key)
        if known and 0 <= now - known.at < REPEAT_SECONDS:
            known.again += 1
            return
        if known and known.again:
            text = f"{text} ({known.again} more in between)"
        self.troubles.pop(key, None)  # a dict keeps its order: the newest is last
        self.troubles[key] = Trouble(at=now)
        for oldest in list(self.troubles)[:-MOST_TROUBLES]:
            del self.troubles[oldest]
        self._add(Line(kind=kind, key=key, text=text))

    def succeeded(self, key: str, text: str) -> None:
        """Note a success: the end of a trouble is a line."""
        self.waiting = {run_id: run for run_id, run in self.waiting.items() if run.key != key}
        if self.troubles.pop(key, None):
            self._add(Line(kind=Kind.OVER, key=key, text=text))

    def _add(self, line: Line) -> None:
        if line.kind is not Kind.OVER:
            # a message that waits tells each trouble once, by its newest line, and not the end of one that is back
            line.times += sum(
                each.times
                for each in self.lines
                if each.key == line.key and each.kind is not Kind.OVER
            )
            self.lines = [each for each in self.lines if each.key != line.key]
        self.lines = sorted([*self.lines, line], key=lambda each: each.kind)
        self.more += len(self.lines[MOST_LINES:])
        self.lines = self.lines[:MOST_LINES]

    @property
    def untold(self) -> int:
        """How many lines are still to be told."""
        return len(self.lines) + self.more

    def message(self, ui: str | None) -> str:
        """Return the lines, at most twenty with the one that counts the rest."""
        if not self.more:
            return "\n".join(line.shown() for line in self.lines)
        shown = [line.shown() for line in self.lines[: MOST_LINES - 1]]
        rest = f"and {self.untold - len(shown)} more{f': {ui}/runs' if ui else ''}"
        return "\n".join([*shown, rest])

    def may_post_at(self, now: float) -> float:
        """Return when the next message may go out, by how many did in the last hour; `now` or earlier: at once."""
        self.posted = [at for at in self.posted if 0 <= now - at < HOUR]
        return now if len(self.posted) < MOST_MESSAGES else self.posted[-MOST_MESSAGES] + HOUR

    def told(self, now: float) -> None:
        """Note that everything was told."""
        self.lines, self.more, self.failures, self.pause = [], 0, 0, 0
        self.posted.append(now)

    def not_told(self, now: float, *, perhaps: bool) -> None:
        """Note that a message failed; one that perhaps arrived counts among those of the hour."""
        self.failures += 1
        self.pause = min(2 ** (self.failures - 1) - 1, LONGEST_PAUSE)
        if perhaps:
            self.posted.append(now)
