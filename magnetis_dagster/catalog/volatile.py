"""Exclude volatile members from comparisons, histories and sensors.

Members such as `last_sent_at` are volatile: they change by themselves. A collection declares them
by path, in `volatile`. `*` matches every element of one list or object. A `?` at the end marks a
link whose query string and fragment are volatile. Names match in any convention.

    volatile: [last_sent_at, "recording?", "files.*.url?"]

`stable` in Python and `stable_sql` in PostgreSQL return the same row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any

from magnetis_dagster.catalog.model import Collection, ColumnType
from magnetis_dagster.catalog.names import IGNORED, Names, fold, heads, split

ANY = "*"


def stable(collection: Collection, row: Any) -> Any:
    """Return the row without its volatile members; `row` itself if none is declared."""
    return _tree(collection.volatile).apply(row)


def stable_sql(collection: Collection, payload: str) -> str:
    """Return an SQL expression for `stable`; `payload` has the type jsonb.

    It contains only ASCII letters, digits and punctuation without escapes, so any statement may
    embed it.
    """
    return _tree(collection.volatile).sql(payload, count(1))


def same_sql(collection: Collection, one: str, other: str) -> str:
    """Return an SQL condition that two payloads are equal apart from volatile members."""
    equal = f"{one} IS NOT DISTINCT FROM {other}"
    if not collection.volatile:
        return f"({equal})"
    # most payloads are equal as received
    one, other = stable_sql(collection, one), stable_sql(collection, other)
    return f"(CASE WHEN {equal} THEN true ELSE {one} IS NOT DISTINCT FROM {other} END)"


def volatile_columns(collection: Collection) -> set[str]:
    """Return the columns whose value may come from a volatile member."""
    return {name for name in collection.columns if _of_column(collection, name).removed}


def column_sql(collection: Collection, name: str, value: str) -> str:
    """Return an SQL expression for the compared part of a column, whose expression is `value`.

    Removes the query string of links and volatile members of JSON. Not for `volatile_columns`.
    """
    node, kind = _of_column(collection, name), collection.columns[name].type
    if kind is ColumnType.JSON:
        return node.sql(value, count(1))
    return _link_sql(value) if node.link and kind is ColumnType.TEXT else value


@dataclass(slots=True)
class _Node:
    """The volatile members at and below one path of a row."""

    removed: bool = False
    link: bool = False
    """Whether a text here is a link with a volatile query string."""
    members: dict[str, _Node] = field(default_factory=dict)
    """By folded name; each includes the rules of `elements`."""
    elements: _Node | None = None

    def merge(self, other: _Node | None) -> _Node:
        if other is None:
            return self
        members = {
            name: self.members.get(name, _Node()).merge(other.members.get(name))
            for name in self.members | other.members
        }
        elements = self.elements.merge(other.elements) if self.elements else other.elements
        return _Node(self.removed or other.removed, self.link or other.link, members, elements)

    def complete(self) -> _Node:
        """Return a copy that merges `elements` into each member."""
        elements = self.elements.complete() if self.elements else None
        members = {
            name: node.merge(self.elements).complete()
            for name, node in sorted(self.members.items())
        }
        return _Node(self.removed, self.link, members, elements)

    def at(self, name: str) -> _Node | None:
        return self.members.get(fold(name), self.elements)

    def apply(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.partition("?")[0].partition("#")[0] if self.link else value
        if isinstance(value, dict) and (self.members or self.elements):
            kept = ((name, member, self.at(name)) for name, member in value.items())
            return {
                name: node.apply(member) if node else member
                for name, member, node in kept
                if not (node and node.removed)
            }
        if isinstance(value, list) and (node := self.elements):
            return [] if node.removed else [node.apply(element) for element in value]
        return value

    def sql(self, value: str, numbers: count[int]) -> str:
        cases = []
        if self.link:
            text = f"({value} #>> '{{}}')"
            cases.append(f"WHEN 'string' THEN to_jsonb({_link_sql(text)})")
        if self.members or self.elements:
            cases.append(
                f"WHEN 'object' THEN {self._object_sql(value, f'o{next(numbers)}', numbers)}"
            )
        if self.elements:
            cases.append(f"WHEN 'array' THEN {self._list_sql(value, f'l{next(numbers)}', numbers)}")
        return f"CASE jsonb_typeof({value}) {' '.join(cases)} ELSE {value} END" if cases else value

    def _object_sql(self, value: str, alias: str, numbers: count[int]) -> str:
        name, member = f"{alias}.n", f"{alias}.v"
        # lower() in collation C folds ASCII letters only, like fold(); translate() of all letters
        # takes 6 times as long
        folded = f"translate(lower({name} COLLATE \"C\"), '{IGNORED}', '')"
        if self.elements and self.elements.removed:
            # `elements` matches every member
            return "CAST('{}' AS jsonb)"
        removed = [each for each, node in self.members.items() if node.removed]
        kept = {each: node for each, node in self.members.items() if not node.removed}
        cases = [f"WHEN '{each}' THEN {node.sql(member, numbers)}" for each, node in kept.items()]
        source = f"FROM jsonb_each({value}) AS {alias}(n, v)"
        members = f"{source} WHERE {folded}"
        if self.elements:
            default = self.elements.sql(member, numbers)
            new = f"CASE {folded} {' '.join(cases)} ELSE {default} END" if cases else default
            if removed:
                source = f"{members} <> ALL (ARRAY[{_quote_list(removed)}])"
            aggregate = f"coalesce(jsonb_object_agg({name}, {new}), CAST('{{}}' AS jsonb))"
            return f"(SELECT {aggregate} {source})"
        # most members of a row are not volatile: they are not taken apart
        if kept:
            new = f"jsonb_object_agg({name}, CASE {folded} {' '.join(cases)} END)"
            changes = f"(SELECT {new} {members} IN ({_quote_list(kept)}))"
            value = f"({value} || coalesce({changes}, CAST('{{}}' AS jsonb)))"
        if removed:
            value = f"({value} - ARRAY(SELECT {name} {members} IN ({_quote_list(removed)})))"
        return value

    def _list_sql(self, value: str, alias: str, numbers: count[int]) -> str:
        assert self.elements is not None
        if self.elements.removed:
            return "CAST('[]' AS jsonb)"
        element = self.elements.sql(f"{alias}.v", numbers)
        aggregate = f"jsonb_agg({element} ORDER BY {alias}.n)"
        return (
            f"(SELECT coalesce({aggregate}, CAST('[]' AS jsonb)) "
            f"FROM jsonb_array_elements({value}) WITH ORDINALITY AS {alias}(v, n))"
        )


@lru_cache(maxsize=1000)
def _tree(paths: tuple[str, ...]) -> _Node:
    root = _Node()
    for path in paths:
        _declare(root, split(path.removesuffix("?")), link=path.endswith("?"))
    return root.complete()


def _declare(node: _Node, names: Names, *, link: bool) -> None:
    """Declare a path in every spelling without a `*` inside a name."""
    if not names:
        node.link |= link
        node.removed |= not link
        return
    if names[0] == ANY:
        node.elements = node.elements or _Node()
        _declare(node.elements, names[1:], link=link)
        return
    for head in heads(names):
        if ANY in head.name:
            break
        _declare(node.members.setdefault(head.folded, _Node()), head.rest, link=link)


def _of_column(collection: Collection, name: str) -> _Node:
    found = _Node()
    for path in collection.columns[name].paths:
        for node in _below(_tree(collection.volatile), split(path)):
            found = found.merge(node)
    return found


def _below(node: _Node, names: Names) -> Iterable[_Node]:
    if not names or node.removed:
        yield node
        return
    for head in heads(names):
        if below := node.at(head.name):
            yield from _below(below, head.rest)


def _quote_list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _link_sql(text: str) -> str:
    return f"split_part(split_part({text}, '?', 1), '#', 1)"
