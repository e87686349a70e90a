"""`magnetis dbt-sources`: the tables as sources of a dbt project."""

from typing import Annotated

import typer


def dbt_sources(
    schema: Annotated[
        str, typer.Option(help="Schema of the tables, if you copied them into another one.")
    ] = "magnetis",
    name: Annotated[
        str, typer.Option(help="Name of the source in your project: source('NAME', 'calls').")
    ] = "magnetis",
) -> None:
    """Print the tables and views as sources of a dbt project, without a database.

    Example: magnetis dbt-sources > models/sources.yml. Columns have types, descriptions and
    personal-data classes; MAGNETIS_CONFIG applies. Needs dbt 1.10 or later.
    """
    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.warehouse.dbt_sources import dbt_sources as sources
    from magnetis_dagster.warehouse.dbt_sources import to_yaml

    catalogue = load_catalogue(Settings.load().config)
    typer.echo(to_yaml(sources(catalogue, source=name, schema=schema)), nl=False)
