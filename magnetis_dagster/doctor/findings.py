"""The result of a check."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from magnetis_dagster.errors import MagnetisError


class Status(StrEnum):
    """Whether a check passed."""

    OK = "ok"
    WARNING = "warning"
    """The program works, with the consequence that the finding states."""
    ERROR = "error"
    """Something that the program needs is missing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. Texts contain no secrets."""

    name: str
    status: Status
    text: str
    """The facts."""
    cost: str = ""
    """The consequence of the gap; empty if the check passed."""
    remedy: str = ""
    """The action that closes the gap; empty if there is none, or the check passed."""


def ok(name: str, text: str) -> Finding:
    """Return the finding of a check that passed."""
    return Finding(name, Status.OK, text)


def warning(name: str, text: str, cost: str, remedy: str) -> Finding:
    """Return a finding that does not fail the command."""
    return Finding(name, Status.WARNING, text, cost, remedy)


def error(name: str, text: str, cost: str, remedy: str) -> Finding:
    """Return a finding that fails the command."""
    return Finding(name, Status.ERROR, text, cost, remedy)


def within(seconds: float, name: str, checks: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return the findings of `checks`; add an error if they fail, or exceed the time limit.

    `name` is the name of that error's finding. Checks that do not end keep their thread, which
    does not prevent the end of the process.
    """
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(checks())
        except MagnetisError as failure:
            found.append(error(name, str(failure), "The other checks of it were skipped.", ""))
        except Exception as failure:  # noqa: BLE001 - one defective check must not hide the others
            # the text of an unknown error may contain an address with a password
            found.append(
                error(
                    name,
                    f"The check failed unexpectedly ({type(failure).__name__}).",
                    "The other checks of it were skipped.",
                    "Report this defect.",
                )
            )

    thread = threading.Thread(target=run, name=f"doctor: {name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        late = error(
            name,
            f"No result within {seconds:.0f} s.",
            "The other checks of it were skipped.",
            "Check the network between this machine and the server.",
        )
        return [*found, late]
    return found
