"""Format the report of a probe for the terminal, in 80 columns."""

from collections.abc import Mapping

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from magnetis_dagster.probe.filters import Verdict
from magnetis_dagster.probe.report import Finding, ProbeReport

_NUMBERS = ("HTTP", "rows", "found", "unknown", "missing")


def format_probe(report: ProbeReport, scopes: Mapping[str, str | None] | None = None) -> Group:
    """Return a table of all collections, a table of event windows, and notes.

    `scopes`: the declared scope of each other connection. The caller reports why a probe ended
    early.
    """
    parts: list[RenderableType] = [
        Text(
            f"{report.calls} API calls spent; events requested from {report.window[0]} to "
            f"{report.window[1]}",
            style="bold",
        ),
        Text(),
        _routes(report.findings),
        Text(
            "found, unknown, missing: members of the rows that the catalogue declares, does not "
            "declare, misses",
            style="dim",
        ),
    ]
    windows = [each for each in report.findings if _offset(each) or each.parameters]
    if windows:
        parts += [Text(), _windows(windows)]
    notes = [
        Text(f"{each.collection}: {note}") for each in report.findings if (note := each.notes())
    ]
    notes += [Text(each.sentence(name, scopes or {})) for name, each in report.overlaps.items()]
    return Group(*parts, *([Text(), *notes] if notes else []))


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in headings:
        justify: JustifyMethod = "right" if heading in _NUMBERS else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    return table


def _routes(findings: list[Finding]) -> Table:
    table = _table("collection", "route", "evidence", *_NUMBERS)
    for finding in findings:
        members = (finding.columns, finding.unknown, finding.missing)
        cells = (
            finding.collection,
            finding.answered or finding.found.value,
            (finding.evidence or "") if finding.answered else "",
            "" if finding.status is None else str(finding.status),
            "" if finding.announced is None else f"{finding.announced:,}",
            *(str(len(each)) if finding.columns else "" for each in members),
        )
        table.add_row(*map(Text, cells))  # Text: a member named [red] is not markup
    return table


def _windows(findings: list[Finding]) -> Table:
    table = _table("events", "offset from the window", "parameters")
    for finding in findings:
        table.add_row(*map(Text, (finding.collection, _offset(finding), _parameters(finding))))
    return table


def _offset(finding: Finding) -> str:
    if finding.outside_seconds is None or finding.edge_seconds is None:
        return ""
    hours, minutes = divmod(finding.edge_seconds // 60, 60)
    distance = f"{hours} h {minutes:02} min"
    if finding.outside_seconds:
        side = "before the start" if finding.outside_seconds < 0 else "after the end"
        return f"{finding.time_field}: {distance} {side}"
    return f"{finding.time_field}: inside, {distance} from an edge"


def _parameters(finding: Finding) -> str:
    names = {
        each: [name for name, found in finding.parameters.items() if found is each]
        for each in Verdict
    }
    return "; ".join(f"{verdict}: {', '.join(of)}" for verdict, of in names.items() if of)
