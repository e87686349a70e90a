"""Verify that the packages of an extra are installed, before they are imported."""

from importlib.util import find_spec

from magnetis_dagster.errors import PermanentError


class ExtraMissing(PermanentError):
    """A package of an extra is not installed; the error text names the extra."""


def require_extra(extra: str, purpose: str, *modules: str, otherwise: str = "") -> None:
    """Verify that the modules are installed.

    The error text begins with `purpose`, the feature that needs them, and ends with `otherwise`, a
    sentence with another solution.

    Raises: ExtraMissing if a module is not installed.
    """
    if missing := [name for name in modules if find_spec(name) is None]:
        raise ExtraMissing(
            f"{purpose} needs the extra {extra}: pip install 'magnetis_dagster[{extra}]'. Not "
            f"installed: {', '.join(missing)}. {otherwise}".rstrip()
        )
