"""`magnetis dev`: start everything on this machine."""

from typing import Annotated

import typer


def dev(
    load: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="Load the last DAYS complete days of every events collection, and today's "
            "snapshots. Days already loaded are skipped; 0 loads nothing. "
            "[default: 30 with the sandbox, 0 with a real key, because a load spends calls]",
            show_default=False,
        ),
    ] = None,
    exit_: Annotated[
        bool,
        typer.Option(
            "--exit", help="Stop after the load; exit code 0 only if everything was loaded."
        ),
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address for Dagster's UI. It has no login: keep it local.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for Dagster's UI.")] = 3000,
    database_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the embedded database on 127.0.0.1, for `magnetis db-url --tcp`; 0 for "
            "none. Later starts keep it. [default: a free one]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start everything on this machine and serve until Ctrl-C.

    Starts the database, the sandbox API unless a key is set, and Dagster; then loads recent days.
    """
    from magnetis_dagster.dev.signals import Interrupted, StopSignals

    with StopSignals() as signals:
        try:
            with signals.defer():  # an import may swallow the exception of a signal
                from magnetis_dagster.extras import require_extra

                require_extra("local", "`magnetis dev`", "dagster_webserver", "uvicorn")
                from rich.console import Console

                from magnetis_dagster.dev.run import DevOptions
                from magnetis_dagster.dev.run import dev as run
                from magnetis_dagster.settings import Settings

            options = DevOptions(load, exit_, host, port, database_port)
            run(options, Settings.load(), signals, Console(stderr=True))
        except Interrupted as interrupted:
            raise typer.Exit(128 + interrupted.signum) from None
