"""Mask the personal data of one parsed row and its payload.

The order is retention by age, then suppression; the caller writes the result. The same input gives
the same row, and a masked row is masked to itself. A masked value is NULL, in the columns and in
the payload, so that a row parsed from a masked payload equals the masked row. Ids, accounts, times,
counts and statuses never change, and no row disappears.

Rules that make the order of retention, erasure and reload irrelevant:

- A class is masked as a whole, in the columns or in the payload of a row.
- If a number or address of the caller or contact is dropped, all data about that person is dropped
  from the row: without its key, an erasure could not find the row.
- If a text contains the number or address of a suppressed person, or a masked name, number or
  address of the row, its class is masked. In data about recipients, and in members that are not
  personal, only that text is masked.
"""

from __future__ import annotations

import re
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
from magnetis_dagster.privacy.caller_key import read_email
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
_NO_CLASSES: Classes = frozenset()
_NOBODY: frozenset[str] = frozenset()
_NO_DIGITS = bytes(each for each in range(256) if not 48 <= each <= 57)
_OTHER_DIGITS = re.compile(r"[^\D0-9]")
_NUMBER_DIGITS = re.compile(r"[\s.()/+_-]")
_TAIL = 7
"""Last digits of a number, which are the same in every spelling."""
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
_SHORTEST_NUMBER = 9
"""Characters of a text that may contain a phone number; addresses contain an @."""
_SCALARS = {str, int, float, bool}
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
    """Classes that retention or suppression dropped. They stay dropped: whoever masks a reloaded
    row passes the stored value."""
    payload_masked: Classes = frozenset()
    """More classes that were dropped from the payload only. The stored columns are not in it."""

    def __repr__(self) -> str:
        """Return the names of the masked classes."""
        return f"Row(masked={sorted(self.masked)}, payload_masked={sorted(self.payload_masked)})"


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """The row to store."""

    row: Row
    changed: Classes = frozenset()
    """Classes of which at least one value was masked now; NONE for a text that is not personal by
    itself."""
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
        self._json = {name for name, each in declared.items() if each.type is ColumnType.JSON}
        self._changeable = {
            name: json_member(column, self._root)
            if column.type is ColumnType.JSON
            else _scalar_member(self._classes[name], self.identified.get(name))
            for name, column in declared.items()
            if not is_kept(name, column, self._classes[name])
        }
        self._naming = [(name, each) for name, each in self._classes.items() if each in _NAMING]
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
        payload_masked = row.payload_masked | (_ALL if due.payload else _NO_CLASSES)
        if suppressed and any(
            not suppressed.isdisjoint(person.accepted)
            for name, person in persons.items()
            if self._classes[name] in CONTACT_SIDE
        ):
            permanent |= CONTACT_SIDE
        if self._drops_a_link(permanent | due.never_stored, persons):
            permanent |= CONTACT_SIDE
        dropped = permanent | due.never_stored
        hidden = dropped | due.hashed
        if not suppressed or not self._mentions_any(row, suppressed):
            keys = self._remaining_keys(persons, dropped, suppressed)
            if not hidden and not payload_masked:
                # most rows
                return MaskedRow(Row(row.columns, row.payload, keys), unparsable=unparsable)
            search = _Search(self._persons, _NOBODY)
            search.begin(hidden, [], _NOBODY)
            columns = self._mask_columns(row.columns, search)
            search.begin(hidden | payload_masked, [], _NOBODY)
            payload = search.mask(row.payload, self._root, PersonalData.UNCLASSIFIED)
            if not self._may_mention(row, persons, hidden | payload_masked, columns, payload):
                masked = Row(columns, payload, keys, permanent, payload_masked - permanent)
                return MaskedRow(masked, frozenset(search.changed), unparsable)
        return self._mask_mentions(
            row, due, persons, permanent, payload_masked, suppressed, unparsable
        )

    def _mask_mentions(
        self,
        row: Row,
        due: _Due,
        persons: Mapping[str, PersonKey],
        permanent: Classes,
        payload_masked: Classes,
        suppressed: Set[str],
        unparsable: tuple[str, ...],
    ) -> MaskedRow:
        """Mask the row and every text that mentions a suppressed or masked person."""
        search = _Search(self._persons, suppressed)
        while True:
            if self._drops_a_link(permanent | due.never_stored, persons):
                permanent |= CONTACT_SIDE
            dropped = permanent | due.never_stored
            hidden = dropped | due.hashed
            search.begin(hidden, *self._names_and_keys(row, persons, hidden))
            columns = self._mask_columns(row.columns, search)
            if search.hits <= permanent:
                break
            permanent |= search.hits
        keys = self._remaining_keys(persons, dropped, suppressed)
        while True:
            hidden = dropped | due.hashed | payload_masked
            search.begin(hidden, *self._names_and_keys(row, persons, hidden))
            payload = search.mask(row.payload, self._root, PersonalData.UNCLASSIFIED)
            if search.hits <= payload_masked:
                break
            payload_masked |= search.hits
        masked = Row(columns, payload, keys, permanent, payload_masked - permanent)
        return MaskedRow(masked, frozenset(search.changed), unparsable)

    def _may_mention(
        self,
        row: Row,
        persons: Mapping[str, PersonKey],
        hidden: Classes,
        columns: Mapping[str, Any],
        payload: Any,
    ) -> bool:
        """Return whether a text may still contain a name, number or address from masked columns.

        A fast test that may be wrong in one direction: it searches the whole row once.
        """
        names, keys = self._names_and_keys(row, persons, hidden)
        if not names and not keys:
            return False
        left = [dump_json(payload)]
        left += [text for name in self._changeable if isinstance(text := columns[name], str)]
        text = "\n".join(left).casefold()
        if "\\u" in text or _OTHER_DIGITS.search(text):
            return True
        digits = text.encode().translate(None, _NO_DIGITS)
        for name in persons.keys() if keys else ():
            if not persons[name].accepted or self._classes[name] not in hidden:
                continue
            received = row.columns.get(name)
            if not isinstance(received, str):
                return True
            if self.identified[name] is Contents.EMAIL:
                if (read_email(received) or "") in text:
                    return True
                continue
            number = _plain_digits(received)
            if len(number) < _TAIL or number[-_TAIL:].encode() in digits:
                return True
        return any(name in text or '"' in name or "\\" in name for name in names)

    def _mentions_any(self, row: Row, suppressed: Set[str]) -> bool:
        """Return whether a text of the row contains the number or address of these persons."""
        texts: list[str] = []
        _collect_texts(row.payload, self._root, texts)
        # the payload contains what the columns contain, unless it was masked
        for name in self._changeable if row.payload_masked else self.identified:
            _collect_texts(row.columns.get(name), None, texts)
        persons_in = self._persons.persons_in
        return any(not suppressed.isdisjoint(persons_in(text)) for text in texts)

    def _compute_due(self, today: date, row_day: date | None, last_contact: date | None) -> _Due:
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

    def _drops_a_link(self, dropped: Classes, persons: Mapping[str, PersonKey]) -> bool:
        """Return whether a number or address of the caller or contact is dropped."""
        return any(
            person.accepted and self._classes[name] in dropped & CONTACT_SIDE
            for name, person in persons.items()
        )

    def _names_and_keys(
        self, row: Row, persons: Mapping[str, PersonKey], hidden: Classes
    ) -> tuple[list[str], set[str]]:
        """Return the folded names and the keys of persons in the columns to mask."""
        names: list[str] = []
        keys: set[str] = set()
        for name, data_class in self._naming:
            if data_class not in hidden:
                continue
            person = persons.get(name)
            if person:
                keys.update(person.accepted)
            text = row.columns.get(name)
            is_person = not person or person.kind not in _NO_PERSON
            if is_person and isinstance(text, str):
                # `Jean Dupont <jean@exemple.fr>` contains a name too
                name_before, _, address = text.casefold().partition("<")
                parts = (text.casefold(), name_before.strip(" \"'") if address else "")
                names += [part for part in parts if len(part) >= _SHORTEST_NAME]
        return names, keys

    def _remaining_keys(
        self, persons: Mapping[str, PersonKey], dropped: Classes, suppressed: Set[str]
    ) -> dict[str, str | None]:
        gone = {
            key
            for name, person in persons.items()
            if self._classes[name] in dropped
            for key in person.accepted
        }
        return {
            name: person.key
            if gone.isdisjoint(person.accepted) and suppressed.isdisjoint(person.accepted)
            else None
            for name, person in persons.items()
        }

    def _mask_columns(self, columns: Mapping[str, Any], search: _Search) -> Mapping[str, Any]:
        if not search.is_needed:
            return columns
        masked = dict(columns)
        for name, member in self._changeable.items():
            if masked.get(name) is not None and not search.spares(member.classes):
                masked[name] = self._mask_column(name, masked[name], member, search)
        return masked

    def _mask_column(self, name: str, value: Any, member: Member, search: _Search) -> Any:
        data_class = self._classes[name]
        if name not in self._json:
            return search.mask(value, member, data_class)
        received, _ = load_json(value.encode()) if isinstance(value, str) else (value, 0)
        masked = search.mask(received, member, data_class)
        if masked is received:
            return value
        if masked is None:
            return None
        return dump_json(masked) if isinstance(value, str) else masked


class _Search:
    """Masks the values of classes, and texts that mention a person."""

    def __init__(self, keys: PersonKeys, suppressed: Set[str]) -> None:
        self.changed: set[PersonalData] = set()
        """Classes of which a value was masked."""
        self._keys = keys
        self._suppressed = suppressed

    def begin(self, hidden: Classes, names: list[str], own_keys: Set[str]) -> None:
        """Begin to mask columns or a payload.

        `hidden`: the classes to mask. `names` and `own_keys`: the persons in columns to mask.
        """
        self.hits: set[PersonalData] = set()
        """Classes about the caller or contact in which a text mentions a person."""
        self.hidden = hidden
        self._names = names
        self._own_keys = own_keys
        self._searches = bool(self._suppressed or own_keys or names)

    def spares(self, classes: Classes) -> bool:
        """Return whether no value of declared members with these classes can be masked."""
        if self._searches or PersonalData.UNCLASSIFIED in self.hidden:
            return False
        return classes.isdisjoint(self.hidden)

    @property
    def is_needed(self) -> bool:
        """Whether anything may be masked."""
        return bool(self.hidden) or self._searches

    def mask(self, value: Any, member: Member | None, inherited: PersonalData) -> Any:
        """Return the masked value, or `value` itself if nothing is masked.

        `inherited`: the class of values that no declaration describes.
        """
        if isinstance(value, dict):
            is_leaf = member is not None and not member.below
            if is_leaf and self._is_hidden(value, member, inherited):
                return None
            return self._mask_object(value, member, inherited)
        if member is not None and member.data_class is None and not isinstance(value, list):
            member, inherited = self._replace_object(value, member, inherited)
        if value is None or self._is_hidden(value, member, inherited):
            return None
        data_class = _class_of(value, member, inherited)
        if isinstance(value, list):
            elements = [self.mask(each, member, data_class) for each in value]
            changed = any(new is not old for new, old in zip(elements, value, strict=True))
            return elements if changed else value
        is_kept_value = member is not None and member.kept
        return None if not is_kept_value and self._mentions(value, data_class) else value

    def _replace_object(
        self, value: Any, member: Member, inherited: PersonalData
    ) -> tuple[Member | None, PersonalData]:
        """Return the declaration of a scalar in place of an object: its id, unless it is a person.

        Otherwise it has the class of personal members of the object, if there are any.
        """
        text = value if isinstance(value, str) else _digits(value)
        if "id" in member.below and not (text and self._keys.persons_in(text)):
            return member.below["id"], inherited
        classes = [each.data_class for each in member.below.values() if each.data_class]
        personal = (each for each in classes if each is not PersonalData.NONE)
        return None, next(personal, PersonalData.UNCLASSIFIED)

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
        hidden = self.hidden
        spares = self.spares(_NO_CLASSES)
        for name, below in value.items():
            child = member.child(name) if member is not None else None
            new = below
            if child is None:
                if self._must_remove(name, inherited):
                    changed = True
                    continue
                if inherited not in hidden:
                    new = self.mask(below, None, inherited)
                elif below is not None:
                    new = None
                    self.changed.add(inherited)
            elif spares and child.classes.isdisjoint(hidden):
                pass
            elif (
                type(below) not in _SCALARS
                or child.data_class is None
                or child.data_class in hidden
                # most members of most rows do not mention anybody
                or (not child.kept and self._mentions(below, child.data_class))
            ):
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
        if not self._searches:
            return False
        text = value if isinstance(value, str) else _digits(value)
        if text is None:
            return False
        found = self._keys.persons_in(text)
        if (
            self._suppressed.isdisjoint(found)
            and self._own_keys.isdisjoint(found)
            and not _contains_any(text, self._names)
        ):
            return False
        if data_class in CONTACT_SIDE:
            self.hits.add(data_class)
        self.changed.add(data_class)
        return True


def _scalar_member(data_class: PersonalData, contains: Contents | None) -> Member:
    return Member(data_class, contains, classes=frozenset({data_class}))


def _collect_texts(value: Any, member: Member | None, texts: list[str]) -> None:
    """Append the texts of a value, and the names of its members, that may contain a person."""
    if isinstance(value, str):
        if len(value) >= _SHORTEST_NUMBER or "@" in value:
            texts.append(value)
    elif isinstance(value, dict):
        for name, below in value.items():
            child = member.child(name) if member is not None else None
            if child is None:
                if len(name) >= _SHORTEST_NUMBER or "@" in name:
                    texts.append(name)
            elif child.kept and not isinstance(below, dict | list):
                continue
            if below is not None:
                _collect_texts(below, child, texts)
    elif isinstance(value, list):
        for each in value:
            _collect_texts(each, member, texts)
    elif (text := _digits(value)) is not None:
        texts.append(text)


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


def _plain_digits(received: str) -> str:
    """Return the digits of a number without its extension; empty if they are uncertain."""
    digits = _NUMBER_DIGITS.sub("", received)
    return digits if 9 <= len(digits) <= 15 and digits.isascii() else ""


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
