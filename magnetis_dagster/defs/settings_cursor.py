"""The cursor of a settings sensor: for each collection, the content that it last read.

The field names are the members of the JSON that Dagster stores.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from magnetis_dagster.defs.backoff import ticks_to_skip

if TYPE_CHECKING:
    from magnetis_dagster.notification_settings.change_detection import Observation

STEADY_CHANGES = 5
"""After changes in this many consecutive reads, a collection is read less often, and its changing
members are reported."""
MAX_INTERVAL_SECONDS = 3600
"""The longest time between two reads of such a collection."""


def _valid_time(value: str) -> str:
    if value:
        datetime.fromisoformat(value)
    return value


class CollectionState(BaseModel):
    """The state of one collection between two ticks."""

    digest: str = ""
    """Digest of the content that a run was last requested for."""
    since: Annotated[str, AfterValidator(_valid_time)] = ""
    """When that content was first read. Without stored state: the end of the previous tick."""
    before: str = ""
    """`since` of the previous content."""
    run_key: str = ""
    requests: int = 0
    """Runs requested for that content: more than one if runs failed."""
    landed: bool = False
    """Whether a run has loaded that content."""
    failures: int = 0
    """Consecutive reads that failed."""
    pause: int = Field(default=0, ge=0, le=MAX_INTERVAL_SECONDS)
    """Ticks to skip."""
    changes: int = 0
    """Consecutive reads that found a change."""
    members: dict[str, str] = {}
    """Digest of each member in the last read, by its path."""
    changing: list[str] = []
    """Paths of the members that changed in each of those reads."""

    @property
    def is_new(self) -> bool:
        """Whether no tick has read the collection yet. `magnetis dev` may have loaded it."""
        return not self.digest and not self.since

    def changed(self, observation: "Observation", now: datetime) -> "CollectionState":
        """Return the state after a read that found other content."""
        state = CollectionState(
            digest=observation.digest,
            before=self.since,
            since=now.isoformat(),
            members=observation.members,
        )
        if self.digest:
            # a cursor of an earlier version contains no members
            differ = {
                path
                for path in {*state.members, *self.members}
                if state.members.get(path) != self.members.get(path)
            }
            state.changes = self.changes + 1
            state.changing = sorted(differ.intersection(self.changing) if self.changes else differ)
        return state

    def back_off(self, times: int) -> None:
        """Skip 0, 1, 3, then 7 ticks after this many failures."""
        self.pause = ticks_to_skip(times)

    def slow_down(self, interval: int) -> None:
        """After STEADY_CHANGES, double the time between reads with each change, up to an hour."""
        if self.changes >= STEADY_CHANGES:
            doubled = 2 ** min(self.changes - STEADY_CHANGES + 1, 12)
            self.pause = max(self.pause, min(doubled, MAX_INTERVAL_SECONDS // interval) - 1)

    def reset_changes(self) -> None:
        """Reset the count of changes after a read that failed or found no change."""
        self.changes, self.changing = 0, []

    def why_skipped(self, name: str) -> str:
        """Return a sentence for a collection that this tick does not read."""
        if self.changes >= STEADY_CHANGES and not self.failures:
            return f"{name}: not read in this tick, because it keeps changing."
        failures = self.failures or self.requests
        return (
            f"{name}: skipped after {failures} consecutive failure{'' if failures == 1 else 's'}."
        )

    def why_slow(self, name: str) -> str:
        """Return a sentence for a collection that keeps changing: the members, and what to do."""
        # names that may contain personal data are `*`
        paths = sorted({path.partition(".*")[0] for path in self.changing} - {"*"})
        found = f"{name}: changed in {self.changes} consecutive reads"
        slow = "It is read less often until a read finds no change."
        if not paths or "id" in paths or len(self.changing) == len(self.members):
            return f"{found}: rows appear and disappear, or other members change each time. {slow}"
        listed = ", ".join(paths[:10])
        return (
            f"{found}, each time in {listed}. {slow} If Magnetis changes it without an edit, "
            f"exclude it in MAGNETIS_CONFIG: collections: {{{name}: {{volatile: [{listed}]}}}}"
        )


_Cursor = TypeAdapter(dict[str, CollectionState])


def parse(cursor: str | None, names: Iterable[str], since: str) -> dict[str, CollectionState]:
    """Return the state of each collection.

    An empty or invalid cursor contains no state. `since` then makes the run keys differ from
    earlier ones, which Dagster would not launch again.
    """
    try:
        known = _Cursor.validate_json(cursor or "{}")
    except ValidationError:
        known = {}
    return {name: known.get(name, CollectionState(since=since)) for name in names}


def serialize(states: dict[str, CollectionState]) -> str:
    """Return the text that `parse` reads."""
    return _Cursor.dump_json(states).decode()
