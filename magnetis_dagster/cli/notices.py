"""Lines on stderr, for people; stdout carries results only."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magnetis_dagster.settings import Settings


def print_notice(text: str) -> None:
    """Print a line as it is, without markup."""
    from rich.console import Console

    Console(stderr=True).print(text, markup=False, highlight=False)


def print_sandbox_notice(settings: "Settings") -> None:
    """Print that the sandbox is in use, if it is."""
    from magnetis_dagster.wiring import uses_sandbox

    if uses_sandbox(settings):
        print_notice(f"Using the sandbox at {settings.api_url}: its data is invented.")
