"""`magnetis`: the commands that Dagster does not have.

Exit codes: 0 success, 1 a defect, 2 a setting or argument must change, 3 retry later, 130
interrupted. Commands import their code late, so that `magnetis --help` answers immediately. A
command declares its options with their help and then runs from top to bottom, so its function may
have more than 50 lines.
"""

import sys
from typing import Annotated

import typer

from magnetis_dagster.cli.connections import connections
from magnetis_dagster.cli.database import db_url, migrate, reparse
from magnetis_dagster.cli.dbt_sources import dbt_sources
from magnetis_dagster.cli.dev import dev
from magnetis_dagster.cli.doctor import doctor
from magnetis_dagster.cli.person import app as person_app
from magnetis_dagster.cli.plan import plan
from magnetis_dagster.cli.probe import probe
from magnetis_dagster.cli.quota import quota
from magnetis_dagster.cli.sandbox import app as sandbox_app
from magnetis_dagster.cli.settings import app as settings_app

app = typer.Typer(
    name="magnetis",
    help="Magnetis call tracking in your own PostgreSQL, through Dagster. Settings are read from "
    "the environment and from .env.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, among them the key
    rich_markup_mode=None,
)
app.command()(dev)
app.command("db-url")(db_url)
app.command()(connections)
app.command()(doctor)
app.command("dbt-sources")(dbt_sources)
app.command()(migrate)
app.command()(probe)
app.command()(plan)
app.command()(reparse)
app.command()(quota)
app.add_typer(settings_app)
app.add_typer(person_app)
app.add_typer(sandbox_app)


def _print_versions(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"magnetis_dagster {version('magnetis_dagster')}, dagster {version('dagster')}")
        raise typer.Exit


@app.callback()
def _magnetis(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of this program and of Dagster.",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; print known errors as a sentence on stderr."""
    from magnetis_dagster.errors import MagnetisError, PermanentError

    try:
        app()
    except MagnetisError as error:
        print(f"magnetis: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        sys.exit(2 if isinstance(error, PermanentError) else 3)
    except KeyboardInterrupt:
        sys.exit(130)
