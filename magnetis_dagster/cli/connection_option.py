"""The option --connection, and the connection that it names."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from magnetis_dagster.connections import Connection
    from magnetis_dagster.settings import Settings

ConnectionName = Annotated[
    str | None,
    typer.Option(
        "--connection",
        metavar="NAME",
        help="Use this connection of MAGNETIS_CONFIG. [default: the only one]",
        show_default=False,
    ),
]


def load_connection(name: str | None) -> "Connection":
    """Return the connection of that name, or the only one.

    Raises: SettingsError; CatalogueError; UnknownConnection.
    """
    from magnetis_dagster.connections import choose, load_connections

    return choose(load_connections(), name)


def load_any_connection(name: str | None = None) -> "Connection":
    """Return the connection of that name, or the first one: they share the database.

    Raises: SettingsError; CatalogueError; UnknownConnection.
    """
    from magnetis_dagster.connections import choose, load_connections

    connections = load_connections()
    return connections[0] if name is None else choose(connections, name)


def database_of(settings: "Settings") -> str:
    """Return an identifier of the connection's database; it may contain a password.

    Raises: CatalogueError if MAGNETIS_CONFIG cannot be read.
    """
    from magnetis_dagster import wiring

    return wiring.database_of(settings)


def by_database(connections: "Iterable[Connection]") -> "list[list[Connection]]":
    """Return the connections in groups that share a database, in the given order."""
    from magnetis_dagster import wiring

    return wiring.by_database(connections)
