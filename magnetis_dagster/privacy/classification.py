"""Find the class of each member of a received row, from the catalogue and the plan.

Names match in any convention, as in the row parser. If several declarations describe a member, the
plan's `members` decide, then a personal class before `none`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from magnetis_dagster.catalog import Collection, ColumnType, Contents, PersonalData
from magnetis_dagster.catalog.model import Column
from magnetis_dagster.catalog.names import Names, fold, heads, split
from magnetis_dagster.privacy.plan import CollectionPlan

STAFF = frozenset({PersonalData.STAFF_RECIPIENT})
CONTACT_SIDE = frozenset(PersonalData) - STAFF - {PersonalData.NONE}
"""Classes about the person who calls or writes. An erasure masks all of them in a row."""

_KEPT_TYPES = {
    ColumnType.INTEGER,
    ColumnType.DECIMAL,
    ColumnType.BOOLEAN,
    ColumnType.TIMESTAMP,
}
_KEPT_NAMES = {"status"}
_OWN_NUMBERS = ("number", "phone", "email")
"""Ends of names of columns that are not personal and contain a number or address."""
_MOST_NAMES = 1_000


@dataclass(slots=True)
class Member:
    """The declarations of one member of a received row, and of the members below it."""

    data_class: PersonalData | None = None
    """None: only members below it are declared."""
    contains: Contents | None = None
    kept: bool = False
    """Whether a scalar here never changes: an id, an account, a time, a count, a status."""
    is_json: bool = False
    """Whether the declaration covers a list or object here."""
    is_own_number: bool = False
    """Whether a scalar here is a number or address of the company, such as a tracked number."""
    from_plan: bool = False
    """Whether the plan declares `data_class`."""
    below: dict[str, Member] = field(default_factory=dict)
    """By folded name."""
    classes: frozenset[PersonalData] = frozenset()
    """All classes here and below."""
    received: dict[str, Member | None] = field(default_factory=dict, repr=False)
    """The same by received name, for speed; at most _MOST_NAMES."""

    def child(self, name: str) -> Member | None:
        """Return the declarations of the member `name` below this one."""
        try:
            return self.received[name]
        except KeyError:
            found = self.below.get(fold(name))
            if len(self.received) < _MOST_NAMES:
                self.received[name] = found
            return found


def is_kept(name: str, column: Column, data_class: PersonalData) -> bool:
    """Return whether no value of the column ever changes: ids, times, counts, status."""
    if data_class is not PersonalData.NONE:
        return False
    return column.type in _KEPT_TYPES or name in _KEPT_NAMES or name.endswith("_id")


def classify(collection: Collection, plan: CollectionPlan) -> Member:
    """Return the tree of the members of a received row."""
    root = Member()
    for path, data_class in plan.members.items():
        for member in _at(root, split(path)):
            member.data_class, member.is_json, member.from_plan = data_class, True, True
    for name, column in collection.columns.items():
        for path in column.paths:
            for member in _at(root, split(path)):
                _declare(member, name, column)
    for path in (*collection.key_paths, *collection.time_fields):
        for member in _at(root, split(path)):
            member.kept = True
            member.data_class = PersonalData.NONE
    _collect_classes(root)
    return root


def column_classes(collection: Collection, root: Member) -> dict[str, PersonalData]:
    """Return the class of each column: the most personal one of its members."""
    found = {}
    for name, column in collection.columns.items():
        members = [member for path in column.paths for member in _at(root, split(path))]
        classes = [each.data_class for each in members if each.data_class]
        personal = [each for each in classes if each is not PersonalData.NONE]
        own = column.personal_data
        found[name] = own if own in personal else next(iter(personal), PersonalData.NONE)
    return found


def personal_columns(collection: Collection, plan: CollectionPlan) -> frozenset[str]:
    """Return the columns with personal data; those of type json, if any member below has it."""
    root = classify(collection, plan)
    found = set()
    for name, data_class in column_classes(collection, root).items():
        column = collection.columns[name]
        classes = {data_class}
        if column.type is ColumnType.JSON:
            members = [member for path in column.paths for member in _at(root, split(path))]
            classes = classes.union(*(member.classes for member in members))
        if classes != {PersonalData.NONE}:
            found.add(name)
    return frozenset(found)


def json_member(column: Column, root: Member) -> Member:
    """Return the declarations below the first path of a column of type json."""
    return _at(root, split(column.paths[0]))[0]


def _declare(member: Member, name: str, column: Column) -> None:
    data_class = column.personal_data
    if member.data_class in {None, PersonalData.NONE} and not member.from_plan:
        member.data_class = data_class
    if member.data_class is not PersonalData.NONE and column.type is ColumnType.TEXT:
        member.contains = member.contains or column.contains
    member.is_json |= column.type is ColumnType.JSON
    is_none = member.data_class is PersonalData.NONE
    member.is_own_number |= is_none and name.endswith(_OWN_NUMBERS)
    member.kept = is_none and (member.kept or is_kept(name, column, data_class))


def _collect_classes(member: Member) -> frozenset[PersonalData]:
    own = {member.data_class} if member.data_class else set()
    member.classes = frozenset(own).union(*map(_collect_classes, member.below.values()))
    return member.classes


def _at(root: Member, names: Names) -> list[Member]:
    """Return the members at a path in each spelling; create those that are missing."""
    if not names:
        return [root]
    return [
        each
        for head in heads(names)
        for each in _at(root.below.setdefault(head.folded, Member()), head.rest)
    ]
