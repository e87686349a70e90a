"""Flatten nested JSON objects."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(
    value: Mapping[str, Any], depth: int, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of each member that is not a non-empty object.

    Objects more than `depth` levels down count as values, as do lists.
    """
    for name, member in value.items():
        if isinstance(member, dict) and member and len(above) < depth:
            yield from leaves(member, depth, (*above, name))
        else:
            yield (*above, name), member
