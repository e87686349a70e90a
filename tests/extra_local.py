"""The modules that only the extra `local` installs, and how to hide them from a process."""

import re
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement
from paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BLOCK = "import sys\nsys.modules.update(dict.fromkeys({!r}))\n"
"""Begins a program that cannot import these modules."""


def name_of(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def with_dependencies(requirements: list[str]) -> set[str]:
    """Return the distributions that an installation of these requirements contains."""
    found: set[tuple[str, frozenset[str]]] = set()
    open_ = [(Requirement(text), frozenset[str]()) for text in requirements]
    while open_:
        requirement, parent_extras = open_.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": each}) for each in parent_extras or {""}):
            continue
        entry = name_of(requirement), frozenset(requirement.extras)
        if entry not in found:
            found.add(entry)
            try:
                dependencies = requires(requirement.name) or []
            except PackageNotFoundError:  # not on this system
                continue
            open_ += [(Requirement(text), entry[1] | {""}) for text in dependencies]
    return {name for name, _ in found}


@cache
def modules_of_local() -> tuple[str, ...]:
    """Return the modules that only the extra `local` installs, with those of its dependencies."""
    core = with_dependencies(PROJECT["dependencies"])
    only = with_dependencies(PROJECT["optional-dependencies"]["local"]) - core
    return tuple(
        module
        for module, distributions in packages_distributions().items()
        if {re.sub(r"[-_.]+", "-", name).lower() for name in distributions} <= only
    )
