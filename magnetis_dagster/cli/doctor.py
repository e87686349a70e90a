"""`magnetis doctor`: check instance, database and keys."""

from dataclasses import asdict
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from magnetis_dagster.connections import Connection
    from magnetis_dagster.doctor import Finding

SECONDS = 30.0
"""Time limit of each group of checks."""
_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check instance, database and keys; show the consequence and the remedy of each gap.

    Checks Dagster's instance, the database, clocks, time zones, disk space, and the keys of all
    connections. Sends no API call and changes nothing. Exit code 1: at least one check found an
    error. 0: none did; warnings do not change it.
    """
    from rich.console import Console

    from magnetis_dagster.doctor import Status

    findings = run_checks()
    if json:
        typer.echo(dumps([asdict(each) for each in findings]))
    else:
        Console().print(format_findings(findings))
    if any(each.status is Status.ERROR for each in findings):
        raise typer.Exit(1)


def run_checks() -> "list[Finding]":
    """Return the findings of all checks. A check that fails is a finding too."""
    from datetime import datetime
    from functools import partial

    from magnetis_dagster.cli.connection_option import by_database
    from magnetis_dagster.connections import load_connections
    from magnetis_dagster.doctor.database import check_database
    from magnetis_dagster.doctor.findings import error, within
    from magnetis_dagster.doctor.keys import check_api, check_key_files, check_keys
    from magnetis_dagster.doctor.zones import check_zone_data
    from magnetis_dagster.errors import MagnetisError

    try:
        connections = load_connections()
    except MagnetisError as problem:
        return [
            error("settings", str(problem), "No command and no code location can start.", ""),
            check_zone_data(),
        ]
    home, groups = connections[0].settings.home, by_database(connections)
    today = datetime.now(connections[0].settings.timezone).date()
    findings = within(SECONDS, "Dagster", partial(_check_dagster, home / "dagster", connections))
    for group in groups:
        findings += within(SECONDS, "database", partial(check_database, group))
    findings.append(check_zone_data())
    findings += check_keys(connections, today)
    findings += check_key_files(connections)
    return findings + within(SECONDS, "API", partial(check_api, connections))


def _check_dagster(dev_home: "Path", connections: "Sequence[Connection]") -> "list[Finding]":
    import os

    from dotenv import dotenv_values

    from magnetis_dagster.dagster_support.doctor import check_instance

    environment = {**dotenv_values(".env"), **os.environ}  # as Dagster does
    return check_instance(environment, dev_home, len(connections))


def format_findings(findings: "Sequence[Finding]") -> "RenderableType":
    """Return a table of all findings, then consequence and remedy of each gap, for a console."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("check", "status", "finding"):
        table.add_column(heading, overflow="fold")
    for each in findings:
        status = Text(each.status.value, _STYLES[each.status])
        table.add_row(Text(each.name), status, Text(each.text))
    parts: list[RenderableType] = [table]
    for each in findings:
        if sentences := " ".join(filter(None, (each.cost, each.remedy))):
            gap = Text.assemble((f"{each.name}: ", _STYLES[each.status]), sentences)
            parts += [Text(), gap]
    counts = {status: sum(each.status == status for each in findings) for status in _STYLES}
    summary = ", ".join(
        f"{count} {status}{'s' if count != 1 and status != 'ok' else ''}"
        for status, count in counts.items()
    )
    return Group(*parts, Text(), Text(summary, style="bold"))
