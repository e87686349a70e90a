"""Loads every collection of the Magnetis call-tracking API into PostgreSQL, operated from Dagster.

`MagnetisComponent` adds an API key to any Dagster project; it is imported when it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magnetis_dagster.components.component import MagnetisComponent

__all__ = ["MagnetisComponent"]


def __getattr__(name: str) -> Any:
    if name == "MagnetisComponent":
        from magnetis_dagster.components.component import MagnetisComponent

        return MagnetisComponent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the component too: Dagster's registry looks for it by `dir`."""
    return sorted({*globals(), *__all__})
