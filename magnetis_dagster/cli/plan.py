"""`magnetis plan`: price a backfill, launch it, and compare it with its forecast."""

from json import dumps
from typing import Annotated

import typer

from magnetis_dagster.cli.connection_option import ConnectionName, load_connection
from magnetis_dagster.cli.notices import print_notice, print_sandbox_notice


def plan(
    collections: Annotated[
        list[str] | None,
        typer.Argument(metavar="COLLECTION...", help="Names of events collections, such as calls."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every enabled events collection.")] = False,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DAY",
            help="First day, such as 2024-01-31. [default: MAGNETIS_START_DATE]",
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option("--to", metavar="DAY", help="Last day, inclusive. [default: yesterday]"),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only days that are not complete yet.")
    ] = False,
    launch: Annotated[
        bool, typer.Option("--launch", help="Start this backfill in the running Dagster.")
    ] = False,
    dagster_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of Dagster's webserver, for --launch. [default: MAGNETIS_DAGSTER_URL]",
        ),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="BACKFILL",
            help="Show forecast and API calls spent of a backfill, by its id in Dagster. No API "
            "call.",
        ),
    ] = None,
    connection: ConnectionName = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the plan or the report as JSON.")
    ] = False,
) -> None:
    """Price a backfill before it starts.

    Shows its rows, API calls, quota days and time of completion. Costs one API call per collection.
    Days are those of MAGNETIS_TIMEZONE.
    """
    from magnetis_dagster.errors import PermanentError

    if report is not None:
        if collections or every or first or last or missing or launch:
            raise PermanentError(
                "--report takes the id of a backfill and nothing else but --connection and --json."
            )
        _print_backfill(report, connection, json=json)
        return

    from contextlib import nullcontext
    from datetime import timedelta

    from rich.console import Console

    from magnetis_dagster import wiring
    from magnetis_dagster.cli.plan_report import format_plan
    from magnetis_dagster.dev.backfill import launch_plan, open_dagster
    from magnetis_dagster.planning.plan import (
        choose_collections,
        make_plan,
        parse_day,
        requested_window,
    )

    chosen_connection = load_connection(connection)
    settings, catalogue = chosen_connection.settings, chosen_connection.catalogue
    key = settings.require_key()
    chosen = choose_collections(catalogue, collections or [], every=every)
    first_day = parse_day(first, "--from") if first else settings.start_date
    last_day = parse_day(last, "--to") if last else None
    wiring.require_home(settings)
    print_sandbox_notice(settings)
    with wiring.open_engine(settings) as engine:
        warehouse = wiring.warehouse_of(engine, settings, catalogue)
        warehouse.prepare()
        today = warehouse.now().astimezone(settings.timezone).date()
        last_day = last_day or today - timedelta(days=1)
        window = requested_window(first_day, last_day, start=settings.start_date, today=today)
        # without a webserver, --launch fails before an API call is spent
        with (
            open_dagster(dagster_url or settings.dagster_url, chosen_connection)
            if launch
            else nullcontext() as dagster
        ):
            print_notice(
                f"Counting the rows costs one API call for each collection: at most {len(chosen)}."
            )
            priced = make_plan(
                chosen,
                window,
                warehouse,
                wiring.ledger_of(engine, settings),
                zones=wiring.zones_of(settings),
                origin=settings.api_url,
                key=key,
                missing=missing,
                progress=print_notice,
            )
            if not json:
                screen = Console()
                screen.print(format_plan(priced, ascii_only=screen.options.ascii_only))
            launched = (
                launch_plan(priced, dagster, engine, settings.ui_url, chosen_connection)
                if dagster
                else None
            )
    if json:
        typer.echo(dumps(priced.as_dict() | {"launched": launched}))
    elif launched:
        backfill = launched["backfill"]
        typer.echo(f"Launched backfill {backfill}: {launched['page']}")
        option = f" --connection {connection}" if connection else ""
        typer.echo(f"To compare it with its forecast: magnetis plan --report {backfill}{option}")


def _print_backfill(backfill_id: str, connection: str | None, *, json: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from magnetis_dagster.cli.plan_report import format_backfill, total_of
    from magnetis_dagster.warehouse.forecasts import report
    from magnetis_dagster.wiring import open_engine

    chosen = load_connection(connection)
    with open_engine(chosen.settings, create=False) as engine:
        lines = report(engine, backfill_id, connection_name=chosen.name)
    if json:
        content = {
            "backfill": backfill_id,
            "collections": [asdict(line) | {"error_percent": line.error_percent} for line in lines],
            "total": total_of(lines),
        }
        typer.echo(dumps(content, default=str))
    else:
        Console().print(format_backfill(backfill_id, lines))
