"""The findings of a probe: notes, JSON, and overlay; never values."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import ceil
from typing import Any

from magnetis_dagster.catalog.model import Evidence, PersonalData
from magnetis_dagster.probe.filters import Verdict
from magnetis_dagster.probe.proposals import Proposals
from magnetis_dagster.probe.rows import WIDEST_ZONE

MOST_NAMES = 80
"""Names of members that a list of a finding has."""
_PAGE = 250
_OBSERVED = Evidence.OBSERVED.value

Classes = dict[str, PersonalData]
"""Class by member."""


class Availability(StrEnum):
    """Whether the API serves a collection to this key."""

    YES = "found"
    NOTHING = "not found"
    """404 or 405 on every route that was tried."""
    FORBIDDEN = "outside the key's scope"
    UNCLEAR = "unclear"
    """Neither: rejected parameters, a redirect, no envelope, a server error."""
    NOT_PROBED = "not asked"


@dataclass(slots=True)
class Finding:
    """The result for one collection."""

    collection: str
    first_route: str
    """The route that the catalogue, or MAGNETIS_CONFIG, names first."""
    found: Availability
    answered: str | None = None
    """The route that answered."""
    evidence: str | None = None
    """The evidence for that route in the catalogue."""
    status: int | None = None
    """HTTP status of the last route tried; None without a response."""
    message: str | None = None
    """The reason why it did not answer."""
    tried: dict[str, int | None] = field(default_factory=dict)
    """HTTP status by route."""
    shared: dict[str, str] = field(default_factory=dict)
    """The other collection that uses an alternative route, by route."""
    announced: int | None = None
    """`meta.total` of the first response: events in the window, or all rows of a snapshot."""
    rows: int = 0
    """Distinct rows that were compared with the declaration."""
    repeated_ids: int = 0
    """Rows whose id another row of the same page has."""
    columns: dict[str, str] = field(default_factory=dict)
    """Member by the column that it fills; a member that is null counts as found."""
    missing: list[str] = field(default_factory=list)
    """Columns that no member fills."""
    unknown: list[str] = field(default_factory=list)
    """Dotted members that no column reads; they are kept in `payload`."""
    misfits: list[str] = field(default_factory=list)
    """Columns that received a value of another type."""
    time_field: str | None = None
    """Member with the time of the event."""
    times: list[str] = field(default_factory=list)
    """All members with a time."""
    outside_seconds: int | None = None
    """Largest distance of a row from the window: negative before its start, positive after it."""
    edge_seconds: int | None = None
    """Distance of that row, or of the one nearest to an edge, from the edge."""
    window_names: tuple[str, str] | None = None
    """The window's parameters, such as `from` and `to`; None if none were sent."""
    parameters: dict[str, Verdict] = field(default_factory=dict)
    """Verdict by query parameter."""
    total_ignores_window: bool = False
    """The route announces rows for a window in which it returns none."""
    proposals: Proposals = field(default_factory=Proposals)
    event_members: list[str] = field(default_factory=list)
    """Members by which a snapshot collection looks like events."""
    unfinished: list[str] = field(default_factory=list)
    """Reasons why further requests failed."""

    @property
    def ignores_window(self) -> bool:
        """Whether both parameters of the window are ignored."""
        names = self.window_names or ()
        return bool(names) and all(self.parameters.get(name) is Verdict.NO for name in names)

    @property
    def window_is_useless(self) -> bool:
        """Whether rows far outside the window prove that both are ignored."""
        return self.ignores_window and abs(self.outside_seconds or 0) > WIDEST_ZONE.total_seconds()

    def notes(self) -> str:
        """Return notes for people, in a few sentences."""
        notes = [
            self.message or "",
            *self.unfinished,
            *(
                f"{route} serves {other}: set the route yourself if it serves this collection too."
                for route, other in self.shared.items()
            ),
            *self._parameter_notes(),
            self._outside_note(),
        ]
        if "id" in self.missing:
            notes.append("Rows without an id cannot be stored: set id_paths.")
        if self.repeated_ids and not self.proposals.id_path:
            notes.append(
                f"The id repeats in {self.repeated_ids} of {self.rows} rows: set id_paths, such as "
                "[[id, leg]]."
            )
        if "occurred_at" in self.missing:
            times = ", ".join(self.times) or "none"
            notes.append(
                "No declared member contains the time of the event (members with a time: "
                f"{times}): set time_fields."
            )
        if reasons := self.proposals.reasons:
            notes.append(f"Proposed, saved by --write: {'; '.join(reasons)}.")
        if names := ", ".join(self.proposals.unmatched):
            notes.append(f"Phone numbers in {names}: choose their columns in columns.NAME.paths.")
        if PersonalData.NONE in self.proposals.classes.values():
            notes.append(
                "Check each member of class none: a page of rows does not prove that no other row "
                "contains personal data."
            )
        if names := ", ".join(self.proposals.unclassified[:MOST_NAMES]):
            notes.append(
                f"Unclassified, so personal until privacy.collections.{self.collection}.members "
                f"says otherwise: {names}."
            )
        if names := ", ".join(self.event_members):
            notes.append(
                f"Rows look like events, not like a present state: {names} differ by row, and the "
                "times are recent. Load the collection and look at the column payload of "
                f"magnetis.{self.collection}. If each row is an event, the collection should be of "
                "kind events in catalogue.yaml: as a snapshot, it is read whole every day, and "
                "rows that leave the list are marked deleted."
            )
        lists = {
            "Do not fit their type": self.misfits,
            "Unknown": self.unknown,
            "Missing": self.missing,
        }
        notes += [f"{label}: {', '.join(names)}." for label, names in lists.items() if names]
        return " ".join(note for note in notes if note)

    def _parameter_notes(self) -> list[str]:
        here = f"collections.{self.collection}.window"
        notes = []
        ignored, undecided = (
            [name for name in self.window_names or () if self.parameters.get(name) is verdict]
            for verdict in (Verdict.NO, Verdict.UNKNOWN)
        )
        if self.ignores_window:
            price = ""
            if self.announced:
                price = f" That costs {ceil(self.announced / _PAGE)} requests for every load."
            null = "null, as --write does," if self.window_is_useless else "null"
            notes.append(
                f"The route ignores {' and '.join(ignored)}: set {here} to the names and the "
                f"format that it honours, or to {null} to read the route whole.{price}"
            )
        elif ignored:
            bound = "start" if self.window_names and ignored[0] == self.window_names[0] else "end"
            notes.append(
                f"The route ignores {ignored[0]}: set {here}.{bound} to the name that it honours, "
                f"or {here} to null to read the route whole."
            )
        if undecided and not self.unfinished:
            notes.append(
                "No row was returned, so it is undecided whether the route honours "
                f"{' and '.join(undecided)}: probe again when there are rows, or check their names "
                f"and format in {here}."
            )
        if self.parameters.get("limit") is Verdict.NO:
            notes.append("The route ignores limit and chooses the size of its pages.")
        if self.parameters.get("page") is Verdict.NO:
            notes.append(
                "The route ignores page: only the first page can be read, so longer lists fail as "
                "incomplete."
            )
        if self.total_ignores_window:
            notes.append(
                "It announces rows for a window in which it returns none: its total ignores the "
                "window."
            )
        return notes

    def _outside_note(self) -> str:
        is_ignored = Verdict.NO in map(self.parameters.get, self.window_names or ())
        if not self.outside_seconds or is_ignored or self.proposals.time_field:
            return ""
        if abs(self.outside_seconds) > WIDEST_ZONE.total_seconds():
            return (
                f"Far outside the window by {self.time_field}: the route filters by another time, "
                "so set time_fields."
            )
        return "Outside the window: check MAGNETIS_QUERY_TIMEZONE and MAGNETIS_RESPONSE_TIMEZONE."


@dataclass(frozen=True, slots=True)
class Overlap:
    """Rows of one collection that other connections load too."""

    received: int
    """Distinct ids that the probe received."""
    shared: dict[str, int]
    """Number of them that are stored for another connection, by its name."""

    def sentence(self, collection: str, scopes: Mapping[str, str | None]) -> str:
        """Return the overlap for people. `scopes`: the declared scope of each connection."""
        parts: list[str] = []
        for name, count in self.shared.items():
            scope = f" ({scopes[name]})" if scopes.get(name) else ""
            verb = "is" if count == 1 else "are"
            also = f"of {self.received:,} {collection} {verb} also loaded by" if not parts else "by"
            parts.append(f"{count:,} {also} {name}{scope}")
        return f"{', '.join(parts)}: the view {collection}_distinct returns each once."


@dataclass(slots=True)
class ProbeReport:
    """The findings of all collections, in catalogue order."""

    findings: list[Finding]
    calls: int
    """API calls spent, retries included."""
    window: tuple[str, str]
    """The 24 hours of the requested events, ISO 8601 in UTC."""
    day: str
    """Local day of the probe."""
    stopped: str | None = None
    """The reason why the probe ended early; None if it probed every collection."""
    stopped_for_good: bool = False
    """Whether another probe would fail too, until a setting changes."""
    ids: dict[str, set[str]] = field(default_factory=dict, repr=False)
    """Ids of the received rows, by collection. Not part of any output."""
    overlaps: dict[str, "Overlap"] = field(default_factory=dict)
    """By collection, if other connections load rows with the same ids."""

    @property
    def complete(self) -> bool:
        """Whether every enabled collection was found."""
        return self.stopped is None and all(
            finding.found is Availability.YES for finding in self.findings
        )

    def overlay(self) -> dict[str, Any]:
        """Return the proposed content of MAGNETIS_CONFIG.

        Empty if no collection answered: the address, the key's IP filter or the network is wrong
        then, rather than every route. If the probe ended early, it disables no collection for its
        routes.
        """
        if not any(finding.found is Availability.YES for finding in self.findings):
            return {}
        collections = {
            finding.collection: change
            for finding in self.findings
            if (change := self._change(finding))
        }
        overlay: dict[str, Any] = {"collections": collections} if collections else {}
        return overlay | self.privacy_section()

    def privacy_section(
        self, accept: Callable[[str, Classes], Classes] = lambda _, members: members
    ) -> dict[str, Any]:
        """Return the proposed classes as the section `privacy` of MAGNETIS_CONFIG.

        `accept` returns those members of a collection that may be saved.
        """
        collections = {
            finding.collection: {"members": {path: str(each) for path, each in members.items()}}
            for finding in self.findings
            if (members := accept(finding.collection, finding.proposals.classes))
        }
        return {"privacy": {"collections": collections}} if collections else {}

    def _change(self, finding: Finding) -> dict[str, Any] | None:
        if finding.found is Availability.FORBIDDEN:
            return {
                "enabled": False,
                "reason": "magnetis probe: outside the key's scope (HTTP 403)",
            }
        if finding.found is Availability.NOTHING and self.stopped is None:
            tried = ", ".join(f"{route} ({status})" for route, status in finding.tried.items())
            return {"enabled": False, "reason": f"magnetis probe: no route answered: {tried}"}
        change: dict[str, Any] = {}
        if finding.found is Availability.YES and finding.answered != finding.first_route:
            change["route"] = finding.answered
        if finding.window_is_useless:
            change |= {"window": None, "window_evidence": _OBSERVED}
        proposals = finding.proposals
        if proposals.time_field:
            change |= {"time_fields": [proposals.time_field], "time_evidence": _OBSERVED}
        if path := proposals.id_path:
            change |= {"id_paths": path if len(path) == 1 else [path], "id_evidence": _OBSERVED}
        if proposals.columns:
            change["columns"] = {
                name: {"paths": [path], "evidence": _OBSERVED}
                for name, path in proposals.columns.items()
            }
        return change or None

    def reasons(self) -> list[str]:
        """Return the reasons for each window set to null, for the comments of the file."""
        return [
            f"collections.{finding.collection}.window is null: {finding.answered} ignored "
            f"{' and '.join(finding.window_names or ())} on {self.day}."
            for finding in self.findings
            if finding.window_is_useless
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        findings = [asdict(finding) | {"notes": finding.notes()} for finding in self.findings]
        content = {
            "complete": self.complete,
            **asdict(self),
            "findings": findings,
            "overlay": self.overlay(),
        }
        del content["ids"]
        return content
