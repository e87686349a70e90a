"""Member names in any convention: `started_at`, `startedAt` and `Started-At` are one name.

So are the member `number` of the object `caller` and the members `caller.number`, `caller_number` and `callerNumber`.

The rule: case (of ASCII letters), `_`, `-`, `.` and spaces are ignored. Nothing else is: no plural, no synonym, no other order.
"""

from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

IGNORED = "_-. "
"""Characters of a member name that its meaning does not depend on. ASCII only, so that PostgreSQL agrees in every locale."""
UPPER, LOWER = ascii_uppercase, ascii_lowercase
_FOLD = str.maketrans(UPPER, LOWER, IGNORED)

Names = tuple[str, ...]
"""A member, and the members below it."""


class Head(NamedTuple):
    """One way in which a path may begin in a row: its first members as one name, and what is left below it."""

    name: str
    """As the declaration writes it."""
    folded: str
    rest: Names


@lru_cache(maxsize=10_000)
def fold(name: str) -> str:
    """Return a member name without case and separators."""
    return name.translate(_FOLD)


def split(path: str) -> Names:
    """Return the members of a dotted path."""
    return tuple(path.split("."))


@lru_cache(maxsize=10_000)
def heads(names: Names) -> tuple[Head, ...]:
    """Return the ways in which a path may begin: nested first, then flattened (`caller.number` as one member)."""
    joined = (".".join(names[:length]) for length in range(1, len(names) + 1))
    return tuple(
        Head(name, fold(name), names[length:]) for length, name in enumerate(joined, start=1)
    )
