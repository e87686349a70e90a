"""What a probe found: as a table, as JSON, and as the overlay for MAGNETIS_CONFIG. Names and numbers, never values."""

import contextlib
import shutil
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group
from rich.table import Table
from rich.text import Text

from magnetis_dagster.catalog.load import read_overlay
from magnetis_dagster.errors import NeedsChange


class Found(StrEnum):
    """Whether the API serves a collection to this key."""

    YES = "found"
    NOTHING = "not found"
    """404 or 405 on every route that was tried."""
    FORBIDDEN = "outside the key's scope"
    UNCLEAR = "unclear"
    """An answer that says neither: refused parameters, a redirect, no envelope, a server that is not well."""
    NOT_ASKED = "not asked"


@dataclass(slots=True)
class Finding:
    """What one collection answered."""

    collection: str
    first_route: str
    """The route that the catalogue, or MAGNETIS_CONFIG, names first."""
    found: Found
    answered: str | None = None
    """The route that answered."""
    evidence: str | None = None
    """How well that route was known before."""
    status: int | None = None
    """HTTP status of the last route tried; None where none came."""
    message: str | None = None
    """Why it did not answer."""
    tried: dict[str, int | None] = field(default_factory=dict)
    """Route to HTTP status."""
    shared: dict[str, str] = field(default_factory=dict)
    """Candidate route to the other collection that it already answers for."""
    announced: int | None = None
    """`meta.total`: of events in the asked 24 hours, of snapshots as a whole."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column to the member that fills it; a member that is null counts as found."""
    missing: list[str] = field(default_factory=list)
    """Columns that no member of the row fills."""
    unknown: list[str] = field(default_factory=list)
    """Dotted members that no column reads; they are kept in `payload`."""
    misfits: list[str] = field(default_factory=list)
    """Columns whose received value does not fit their type."""
    time_field: str | None = None
    """Member that holds the moment of the event."""
    times: list[str] = field(default_factory=list)
    """All members that hold a moment."""
    outside_seconds: int | None = None
    """How far the row lies outside the asked window: negative before its start, positive after its end, 0 inside."""
    edge_seconds: int | None = None
    """Distance of the row from the nearer edge of the window."""
    filter_ignored: bool = False
    """The row lies further outside than any zone explains: the route seems not to take the window's parameters."""

    def notes(self) -> str:
        """Return what a person should look at, in a few sentences."""
        notes = [self.message or ""]
        for route, other in self.shared.items():
            notes.append(f"{route} answers as {other}: set the route yourself if it is this collection too.")
        if self.filter_ignored:
            notes.append("The window seems to be ignored: the row lies far outside. Set `window: null` to read it whole.")
        elif self.outside_seconds:
            notes.append("Outside the window: check MAGNETIS_QUERY_TIMEZONE and MAGNETIS_RESPONSE_TIMEZONE.")
        if "id" in self.missing:
            notes.append("No id in the row: its rows cannot be stored.")
        if "occurred_at" in self.missing:
            holders = ", ".join(self.times) or "none"
            notes.append(f"No declared member holds the time (members that hold one: {holders}): set time_fields.")
        if self.misfits:
            notes.append(f"Do not fit their type: {', '.join(self.misfits)}.")
        if self.unknown:
            notes.append(f"Unknown: {', '.join(self.unknown)}.")
        if self.missing:
            notes.append(f"Missing: {', '.join(self.missing)}.")
        return " ".join(note for note in notes if note)


@dataclass(slots=True)
class ProbeReport:
    """What all collections answered, in catalogue order."""

    findings: list[Finding]
    calls: int
    """API calls spent, retries included."""
    window: tuple[str, str]
    """The 24 hours that events were asked for, ISO 8601 in UTC."""
    stopped: str | None = None
    """Why the probe ended early; None where every collection was asked."""
    stopped_for_good: bool = False
    """Whether another probe would end the same until somebody changes something."""

    @property
    def complete(self) -> bool:
        """Whether every collection that is switched on was found."""
        return self.stopped is None and all(finding.found is Found.YES for finding in self.findings)

    def overlay(self) -> dict[str, Any]:
        """Return what MAGNETIS_CONFIG should say: routes that differ from the first, and what this key does not have, off.

        Empty where nothing answered: then the address, the key's IP filter or the network is wrong rather than every route. Nothing
        is switched off for its routes where the probe ended before it had tried them all.
        """
        if not any(finding.found is Found.YES for finding in self.findings):
            return {}
        collections = {finding.collection: change for finding in self.findings if (change := self._change(finding))}
        return {"collections": collections} if collections else {}

    def _change(self, finding: Finding) -> dict[str, Any] | None:
        if finding.found is Found.YES and finding.answered != finding.first_route:
            return {"route": finding.answered}
        if finding.found is Found.FORBIDDEN:
            return {"enabled": False, "reason": "magnetis probe: outside the key's scope (HTTP 403)"}
        if finding.found is Found.NOTHING and self.stopped is None:
            tried = ", ".join(f"{route} ({status})" for route, status in finding.tried.items())
            return {"enabled": False, "reason": f"magnetis probe: no route answered: {tried}"}
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return the report for `--json`."""
        return {"complete": self.complete, **asdict(self), "overlay": self.overlay()}


def render(report: ProbeReport) -> Group:
    """Return the report for the terminal: a table, and below it what to look at. What stopped the probe is said by the caller."""
    table = Table(
        title=f"{report.calls} API calls spent; events asked from {report.window[0]} to {report.window[1]}",
        title_justify="left",
    )
    for heading in (
        "collection",
        "route",
        "status",
        "rows announced",
        "fields found / unknown / missing",
        "offset from the window",
    ):
        table.add_column(
            heading, overflow="fold", no_wrap=heading == "collection", justify="right" if heading == "rows announced" else "left"
        )
    for finding in report.findings:
        cells = (
            finding.collection,
            f"{finding.answered} ({finding.evidence})" if finding.answered else finding.found.value,
            "" if finding.status is None else str(finding.status),
            "" if finding.announced is None else str(finding.announced),
            f"{len(finding.columns)} / {len(finding.unknown)} / {len(finding.missing)}" if finding.columns else "",
            _offset(finding),
        )
        table.add_row(*(Text(cell) for cell in cells))  # Text: a member called [red] is no markup
    notes = [Text(f"{finding.collection}: {note}") for finding in report.findings if (note := finding.notes())]
    return Group(table, *notes)


def _offset(finding: Finding) -> str:
    if finding.outside_seconds is None or finding.edge_seconds is None:
        return ""
    hours, minutes = divmod(finding.edge_seconds // 60, 60)
    distance = f"{hours} h {minutes:02} min"
    if finding.outside_seconds:
        side = "before the start" if finding.outside_seconds < 0 else "after the end"
        return f"{finding.time_field}: {distance} {side}"
    return f"{finding.time_field}: inside, {distance} from an edge"


def write_overlay(path: Path, overlay: dict[str, Any]) -> bool:
    """Lay `overlay` over the YAML file at `path`, keeping every other key in it; return whether the file changed.

    A file that was not there is there afterwards, though it may say nothing, since MAGNETIS_CONFIG names it. Comments are lost,
    so the former file is kept beside it as `<name>.bak`. The file is replaced as a whole or not at all.
    Raises CatalogueError (the file is not YAML) and NeedsChange (it cannot be written).
    """
    path = path.resolve()
    former = read_overlay(path) if path.exists() else None
    merged = _laid_over(former or {}, overlay)
    if merged == former:
        return False
    text = "# Laid over the catalogue by MAGNETIS_CONFIG; `magnetis probe --write` adds what it finds.\n"
    text += yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=120)
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copy2(path, path.with_name(f"{path.name}.bak"))
            shutil.copymode(path, fresh)
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise NeedsChange(f"MAGNETIS_CONFIG names {path}, which cannot be written ({error.strerror}).") from None
    return True


def _laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _laid_over(below if isinstance(below, dict) else {}, value) if isinstance(value, dict) else value
    return merged
