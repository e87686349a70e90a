"""`magnetis quota`: the API calls of this key."""

from typing import TYPE_CHECKING, Annotated

import typer

from magnetis_dagster.cli.connection_option import ConnectionName, load_connection

if TYPE_CHECKING:
    from magnetis_dagster.connections import Connection


def quota(
    connection: ConnectionName = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    reopen: Annotated[
        bool,
        typer.Option(
            "--reopen",
            help="If the API closed the key, spend one API call on a trial request now.",
        ),
    ] = False,
) -> None:
    """Show this key's API calls: today, and the last 30 days.

    Shows for each lane the calls still available and the time of the next one. Reads only the
    database, unless --reopen is given. Without MAGNETIS_API_KEY it shows the sandbox's key, as
    `magnetis dev` does.
    """
    from rich.console import Console

    from magnetis_dagster.cli.quota_report import format_quota
    from magnetis_dagster.quota.report import read_report
    from magnetis_dagster.sandbox import SANDBOX_KEY
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.wiring import open_engine, uses_sandbox

    chosen = load_connection(connection)
    settings = chosen.settings
    if reopen:
        _reopen(chosen)
    is_sandbox = uses_sandbox(settings)
    if settings.api_key is None and is_sandbox:
        settings = Settings.load(api_key=SANDBOX_KEY)
    # a `magnetis dev` with a real key may run here while this terminal has none
    settings.require_key()
    with open_engine(settings, create=False) as engine:
        report = read_report(
            engine, key_fingerprint=settings.key_fingerprint, policy=settings.quota_policy
        )
    if json:
        typer.echo(report.as_json())
        return
    screen, key_name = Console(), "sandbox" if is_sandbox else ""
    screen.print(format_quota(report, key_name=key_name, ascii_only=screen.options.ascii_only))


def _reopen(connection: "Connection") -> None:
    from magnetis_dagster.ingest.key_reopening import reopen
    from magnetis_dagster.wiring import ledger_of, open_engine, warehouse_of

    settings, catalogue = connection.settings, connection.catalogue
    key = settings.require_key()
    with open_engine(settings, create=False) as engine:
        warehouse_of(engine, settings, catalogue).prepare()
        ledger, alerts = ledger_of(engine, settings), catalogue["email_alerts"]
        typer.echo(reopen(ledger, alerts, origin=settings.api_url, key=key), err=True)
