"""Match member names in any convention.

`started_at`, `startedAt` and `Started-At` are one name. The member `number` of the object `caller`
also matches the members `caller.number`, `caller_number` and `callerNumber`.

Only the case of ASCII letters, `_`, `-`, `.` and spaces are ignored.
"""

from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

IGNORED = "_-. "
"""Characters to ignore. ASCII only, so that PostgreSQL gives the same result in every locale."""
_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase, IGNORED)

Names = tuple[str, ...]
"""A member and its descendants in a path."""


class Head(NamedTuple):
    """A spelling of a path's start: its first members as one name, and the rest."""

    name: str
    """As declared."""
    folded: str
    rest: Names


@lru_cache(maxsize=10_000)
def fold(name: str) -> str:
    """Return a member name in lower case without separators."""
    return name.translate(_FOLD)


def split(path: str) -> Names:
    """Return the members of a dotted path."""
    return tuple(path.split("."))


@lru_cache(maxsize=10_000)
def heads(names: Names) -> tuple[Head, ...]:
    """Return the spellings of a path's start, nested ones before flattened ones."""
    joined = (".".join(names[:length]) for length in range(1, len(names) + 1))
    return tuple(
        Head(name, fold(name), names[length:]) for length, name in enumerate(joined, start=1)
    )
