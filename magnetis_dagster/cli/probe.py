"""`magnetis probe`: what this key can read."""

from json import dumps
from typing import Annotated

import typer

from magnetis_dagster.cli.notices import print_notice, print_sandbox_notice


def probe(
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Save findings and proposals to the file that MAGNETIS_CONFIG names."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show the routes and members that this key can read.

    Also shows the query parameters that the routes honour.

    Sends one request per collection, and one per further route if the first does not answer; three
    more per events collection, and one more for a snapshot without an id or with members like those
    of events. With the shipped catalogue: 18 requests for routes and 15 for events. All are charged
    to the quota.
    """
    from rich.console import Console

    from magnetis_dagster import wiring
    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.cli.probe_report import format_probe
    from magnetis_dagster.errors import PermanentError, TransientError
    from magnetis_dagster.probe.overlay import write_overlay
    from magnetis_dagster.probe.probe import run_probe
    from magnetis_dagster.quota.guard import LedgerGuard, RunIdentity
    from magnetis_dagster.settings import Settings

    settings = Settings.load()
    key = settings.require_key()
    if write and settings.config is None:
        raise PermanentError(
            "--write saves to the YAML file that MAGNETIS_CONFIG names, and it is not set. Set it, "
            "such as MAGNETIS_CONFIG=config/magnetis.yaml."
        )
    wiring.require_home(settings)
    print_sandbox_notice(settings)
    exists = settings.config is not None and settings.config.exists()  # --write creates it
    if settings.config and not exists:
        print_notice(f"{settings.config} does not exist yet: probing the catalogue as shipped.")
    catalogue = load_catalogue(settings.config if exists else None)
    print_notice(
        f"Probing {len(catalogue.enabled)} collections: one request each, three more for each "
        "events collection; more if a first route does not answer or a row has no id."
    )
    with wiring.open_engine(settings) as engine:
        wiring.warehouse_of(engine, settings, catalogue).prepare()
        run = RunIdentity(run_id="magnetis probe", lane="manual")
        report = run_probe(
            catalogue,
            wiring.zones_of(settings),
            LedgerGuard(wiring.ledger_of(engine, settings), run),
            origin=settings.api_url,
            key=key,
            progress=print_notice,
        )
    if json:
        typer.echo(dumps(report.as_dict()))
    else:
        Console().print(format_probe(report))
    if write and settings.config is not None:
        changed = write_overlay(settings.config, report.overlay(), report.reasons())
        print_notice(f"{settings.config}: {'written' if changed else 'nothing to change'}.")
    if report.stopped:
        error = PermanentError if report.stopped_for_good else TransientError
        raise error(f"The probe ended early: {report.stopped}")
