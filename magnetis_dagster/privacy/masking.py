"""Mask the personal data of one parsed row and its payload.

The order is retention by age, then suppression; the caller writes the result. The same input gives
the same row, and a masked row is masked to itself. A masked value is NULL, in the columns and in the
payload, so that a row parsed from a masked payload equals the masked row. Ids, accounts, times,
counts and statuses never change, and no row disappears.

Rules that make the order of retention, erasure and reload irrelevant:

- A class is masked in a row as a whole.
- If a number or address of the caller or contact is dropped, all data about that person is dropped
  from the row: without its key, an erasure could not find the row.
- If a text contains the number or address of a suppressed person, its class is masked. In data
  about recipients, and in members that are not personal, only that text is masked.
- A text that contains a masked name, number or address is masked too, whatever its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any

from magnetis_dagster.catalog import Collection, ColumnType, Contents, PersonalData
from magnetis_dagster.catalog.conversions import as_text
from magnetis_dagster.catalog.row_parser import mask_name
from magnetis_dagster.exact_json import Unparsed, dump_json, load_json
from magnetis_dagster.privacy.classification import (
    CONTACT_SIDE,
    Member,
    classify,
    column_classes,
    is_kept,
    json_member,
)
from magnetis_dagster.privacy.person_keys import PersonKey, PersonKeys
from magnetis_dagster.privacy.phone import PhoneKind
from magnetis_dagster.privacy.plan import CLASSES, Age, CollectionPlan, Treatment

Classes = frozenset[PersonalData]

_ALL: Classes = frozenset(CLASSES)
_NAMING = frozenset(
    {
        PersonalData.CALLER_NUMBER,
        PersonalData.CONTACT,
        PersonalData.PERSONAL,
        PersonalData.STAFF_RECIPIENT,
    }
)
"""Classes whose values are searched in other texts of the row."""
_SHORTEST_NAME = 4
"""Characters of a masked text that is searched in other texts."""
_NO_PERSON = {PhoneKind.WITHHELD, PhoneKind.SHORT_CODE}


def key_column(column: str) -> str:
    """Return the name for the caller key of a column: `caller_key` for `caller_number`."""
    return f"{column.removesuffix('_number')}_key"


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """A parsed row: received, or masked before. Its repr contains no value."""

    columns: Mapping[str, Any]
    """Typed columns by name, as RowParser returns them."""
    payload: Any
    """The received row."""
    keys: Mapping[str, str | None] = field(default_factory=dict)
    """Caller key by column that contains a number or address."""
    masked: Classes = frozenset()
    """Classes that retention or suppression dropped. They stay dropped: a reload of the row passes
    the stored value."""
    payload_masked: bool = False
    """Whether the payload was masked because of its age. The columns are not in it then."""

    def __repr__(self) -> str:
        return f"Row(masked={sorted(self.masked)}, payload_masked={self.payload_masked})"


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """The row to store."""

    row: Row
    changed: Classes = frozenset()
    """Classes of which at least one value was masked now."""
    unparsable: tuple[str, ...] = ()
    """Columns with a text that is no phone number or address, although it should be one."""


@dataclass(frozen=True, slots=True)
class _Due:
    """What the plan masks at an age."""

    dropped: Classes
    """Because of the age."""
    never_stored: Classes
    """On arrival."""
    hashed: Classes
    payload: bool


class RowMasker:
    """Masks rows of one collection.

    `persons`: computes the keys of the connection that the rows belong to.
    """

    def __init__(self, collection: Collection, plan: CollectionPlan, persons: PersonKeys) -> None:
        self.collection = collection
        self._plan = plan
        self._persons = persons
        self._root = classify(collection, plan)
        self._classes = column_classes(collection, self._root)
        declared = collection.columns
        self.identified = {
            name: column.contains
            for name, column in declared.items()
            if column.contains
            and column.type is ColumnType.TEXT
            and self._classes[name] is not PersonalData.NONE
        }
        """Columns with a caller key, and what they contain."""
        self._json = {
            name: json_member(column, self._root)
            for name, column in declared.items()
            if column.type is ColumnType.JSON
        }
        self._changeable = [
            name
            for name, column in declared.items()
            if not is_kept(name, column, self._classes[name])
        ]
        self._due = lru_cache(10_000)(self._compute_due)

    def mask(
        self,
        row: Row,
        *,
        today: date,
        row_day: date | None = None,
        last_contact: date | None = None,
        suppressed: Set[str] = frozenset(),
    ) -> MaskedRow:
        """Return the row to store.

        `row_day`: local day of the row; None for the current state of an object, whose values have
        no age. `last_contact`: latest day with an event of the same person, if it is known.
        `suppressed`: caller keys of erased persons.
        """
        due = self._due(today, row_day, last_contact)
        persons, unparsable = self._identify(row)
        permanent = row.masked | due.dropped
        if suppressed and any(
            not suppressed.isdisjoint(person.accepted)
            for name, person in persons.items()
            if self._classes[name] in CONTACT_SIDE
        ):
            permanent |= CONTACT_SIDE
        payload_masked = row.payload_masked or due.payload
        while True:
            permanent = self._close(permanent, persons)
            dropped = self._close(permanent | due.never_stored, persons)
            pass_ = _Pass(
                row, persons, self._persons, self._classes, suppressed, dropped, due.hashed
            )
            columns, keys, payload = self._apply(row, pass_, payload_masked=payload_masked)
            if pass_.hits <= permanent:
                break
            permanent |= pass_.hits
        masked = Row(columns, payload, keys, permanent, payload_masked)
        return MaskedRow(masked, frozenset(pass_.changed), unparsable)

    def _compute_due(
        self, today: date, row_day: date | None, last_contact: date | None
    ) -> _Due:
        contact = max(filter(None, (row_day, last_contact)), default=None)

        def is_old(age: Age | None) -> bool:
            since = contact if age and age.since_last_contact else row_day
            return age is not None and since is not None and since <= age.cutoff(today)

        dropped, never_stored, hashed = set(), set(), set()
        for name, rule in self._plan.rules.items():
            old = is_old(rule.mask_after)
            if old and rule.mask_to is Treatment.DROP:
                dropped.add(name)
            if rule.on_arrival is Treatment.DROP:
                never_stored.add(name)
            if rule.on_arrival is Treatment.HASH or (old and rule.mask_to is Treatment.HASH):
                hashed.add(name)
        return _Due(
            frozenset(dropped),
            frozenset(never_stored),
            frozenset(hashed),
            is_old(self._plan.payload.mask_after),
        )

    def _identify(self, row: Row) -> tuple[dict[str, PersonKey], tuple[str, ...]]:
        found, unparsable = {}, []
        for name, contains in self.identified.items():
            value = row.columns.get(name)
            if value is None:
                stored = row.keys.get(name)
                accepted = (stored,) if stored else ()
                found[name] = PersonKey(PhoneKind.WITHHELD, accepted)
                continue
            is_phone = contains is Contents.PHONE
            found[name] = self._persons.phone(value) if is_phone else self._persons.email(value)
            if found[name].kind is PhoneKind.UNPARSABLE:
                unparsable.append(name)
        return found, tuple(unparsable)

    def _close(self, dropped: Classes, persons: Mapping[str, PersonKey]) -> Classes:
        """Add all data about the person if a number or address is dropped."""
        for name, person in persons.items():
            data_class = self._classes[name]
            if person.accepted and data_class in dropped and data_class in CONTACT_SIDE:
                return dropped | CONTACT_SIDE
        return dropped

    def _apply(
        self, row: Row, pass_: _Pass, *, payload_masked: bool
    ) -> tuple[Mapping[str, Any], dict[str, str | None], Any]:
        keys: dict[str, str | None] = {}
        for name, person in pass_.persons.items():
            suppressed = not pass_.suppressed.isdisjoint(person.accepted)
            is_dropped = self._classes[name] in pass_.dropped or suppressed
            keys[name] = None if is_dropped else person.key
        hidden = pass_.hidden | (_ALL if payload_masked else frozenset())
        columns = row.columns
        if pass_.hidden or pass_.suppressed:
            columns = dict(columns)
            for name in self._changeable:
                if columns.get(name) is not None:
                    columns[name] = self._mask_column(name, columns[name], pass_)
        payload = row.payload
        if hidden or pass_.suppressed:
            pass_.begin(hidden)
            payload = pass_.mask(payload, self._root, PersonalData.UNCLASSIFIED)
        return columns, keys, payload

    def _mask_column(self, name: str, value: Any, pass_: _Pass) -> Any:
        member = self._json.get(name)
        data_class = self._classes[name]
        if member is None:
            contains = self.identified.get(name)
            scalar = Member(data_class, contains)
            return pass_.mask(value, scalar, data_class)
        received, _ = load_json(value.encode()) if isinstance(value, str) else (value, 0)
        masked = pass_.mask(received, member, data_class)
        if masked is received:
            return value
        if masked is None:
            return None
        return dump_json(masked) if isinstance(value, str) else masked


class _Pass:
    """One attempt to mask a row, with a fixed set of classes."""

    def __init__(
        self,
        row: Row,
        persons: Mapping[str, PersonKey],
        keys: PersonKeys,
        classes: Mapping[str, PersonalData],
        suppressed: Set[str],
        dropped: Classes,
        hashed: Classes,
    ) -> None:
        self.persons = persons
        self.suppressed = suppressed
        self.dropped = dropped
        self.hits: set[PersonalData] = set()
        """Classes about a caller or contact with a text about a suppressed person."""
        self.changed: set[PersonalData] = set()
        self._row = row
        self._keys = keys
        self._classes = classes
        self.begin(dropped | hashed)

    def begin(self, hidden: Classes) -> None:
        """Begin to mask columns or a payload: `hidden` are the classes to mask."""
        self.hidden = hidden
        naming = {name for name, each in self._classes.items() if each in hidden & _NAMING}
        self._own_keys = {
            key for name in naming & self.persons.keys() for key in self.persons[name].accepted
        }
        self._names = [
            text.casefold()
            for name in naming
            if isinstance(text := self._row.columns.get(name), str)
            and len(text) >= _SHORTEST_NAME
            and not (name in self.persons and self.persons[name].kind in _NO_PERSON)
        ]

    def mask(self, value: Any, member: Member | None, inherited: PersonalData) -> Any:
        """Return the masked value, or `value` itself if nothing is masked.

        `inherited`: the class of values that no declaration describes.
        """
        if value is None:
            return None
        if isinstance(value, dict):
            if member is not None and not member.below and self._is_hidden(value, member, inherited):
                return None
            return self._mask_object(value, member, inherited)
        if member is not None and member.data_class is None and "id" in member.below:
            # a scalar in place of an object is its id
            member = member.below["id"]
        if self._is_hidden(value, member, inherited):
            return None
        if member is not None and member.kept and not isinstance(value, list):
            return value
        data_class = _class_of(value, member, inherited)
        if isinstance(value, list):
            elements = []
            for each in value:
                elements.append(self.mask(each, member, data_class))
            changed = any(new is not old for new, old in zip(elements, value, strict=True))
            return elements if changed else value
        return None if self._mentions(value, data_class) else value

    def _is_hidden(self, value: Any, member: Member | None, inherited: PersonalData) -> bool:
        if member is not None and member.kept and not isinstance(value, dict | list):
            return False
        data_class = _class_of(value, member, inherited)
        if data_class not in self.hidden:
            return False
        if (
            member is not None
            and member.contains is Contents.PHONE
            and not isinstance(value, dict | list)
            and self._keys.phone(value).kind in _NO_PERSON
        ):
            return False
        self.changed.add(data_class)
        return True

    def _mask_object(
        self, value: dict[str, Any], member: Member | None, inherited: PersonalData
    ) -> Any:
        if member is not None:
            inherited = _class_of(value, member, inherited)
        masked, changed = {}, False
        for name, below in value.items():
            child = member.child(name) if member is not None else None
            if child is None and self._must_remove(name, inherited):
                changed = True
                continue
            if child is None and inherited in self.hidden:
                new = None
                if below is not None:
                    self.changed.add(inherited)
            else:
                new = self.mask(below, child, inherited)
            changed = changed or new is not below
            masked[name] = new
        return masked if changed else value

    def _must_remove(self, name: str, data_class: PersonalData) -> bool:
        """Return whether the name of an undeclared member may be a value, which must vanish."""
        if data_class in self.hidden and mask_name(name) == "*":
            self.changed.add(data_class)
            return True
        return self._mentions(name, data_class)

    def _mentions(self, value: Any, data_class: PersonalData) -> bool:
        """Return whether a scalar contains a suppressed person, or a masked name or number."""
        text = value if isinstance(value, str) else _digits(value)
        if text is None or not (self.suppressed or self._own_keys or self._names):
            return False
        found = self._keys.persons_in(text)
        if found and not self.suppressed.isdisjoint(found):
            if data_class in CONTACT_SIDE:
                self.hits.add(data_class)
            self.changed.add(data_class)
            return True
        if not found.isdisjoint(self._own_keys) or _contains_any(text, self._names):
            self.changed.add(data_class)
            return True
        return False


def _class_of(value: Any, member: Member | None, inherited: PersonalData) -> PersonalData:
    if member is None:
        return inherited
    data_class = member.data_class
    if data_class is None:
        return PersonalData.UNCLASSIFIED if inherited is PersonalData.NONE else inherited
    if isinstance(value, dict | list) and not member.is_json and data_class is PersonalData.NONE:
        # a list or object in place of a scalar may contain anything
        return PersonalData.UNCLASSIFIED
    return data_class


def _digits(value: Any) -> str | None:
    """Return the text of a number with at least seven digits, or of an unparsed value."""
    if isinstance(value, Unparsed):
        return value.text
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    text = as_text(value)
    return text if text is not None and 7 <= len(text) <= 40 else None


def _contains_any(text: str, names: list[str]) -> bool:
    """Return whether one of the folded names occurs as whole words."""
    folded = text.casefold() if names else ""
    for name in names:
        start = folded.find(name)
        while start >= 0:
            end = start + len(name)
            if not folded[start - 1 : start].isalnum() and not folded[end : end + 1].isalnum():
                return True
            start = folded.find(name, start + 1)
    return False
