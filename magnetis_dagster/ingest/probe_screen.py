"""The report of a probe for the terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from magnetis_dagster.ingest.probe_filters import Honoured
from magnetis_dagster.ingest.probe_report import Finding, ProbeReport


def render(report: ProbeReport) -> Group:
    """Return a table, and below it what to look at. The caller reports what stopped the probe."""
    table = Table(
        title=f"{report.calls} API calls spent; events requested from {report.window[0]} to {report.window[1]}",
        title_justify="left",
    )
    for heading in (
        "collection",
        "route",
        "status",
        "rows announced",
        "fields found / unknown / missing",
        "offset from the window",
        "parameters",
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
            _parameters(finding),
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


def _parameters(finding: Finding) -> str:
    names = {verdict: [name for name, found in finding.parameters.items() if found is verdict] for verdict in Honoured}
    return "; ".join(f"{verdict}: {', '.join(of)}" for verdict, of in names.items() if of)
