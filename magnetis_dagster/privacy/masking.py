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
from functools import lru_cache
from typing import Any

from magnetis_dagster.catalog import Collection, ColumnType, Contents, PersonalData
from magnetis_dagster.exact_json import dump_json, load_json
from magnetis_dagster.privacy.ages import Age
from magnetis_dagster.privacy.caller_key import read_email
from magnetis_dagster.privacy.classification import (
    CONTACT_SIDE,
    STAFF,
    Member,
    classify,
    column_classes,
    is_kept,
    json_member,
)
from magnetis_dagster.privacy.person_keys import PersonKey, PersonKeys
from magnetis_dagster.privacy.person_search import PersonSearch
from magnetis_dagster.privacy.phone import PhoneKind
from magnetis_dagster.privacy.plan import CLASSES, CollectionPlan, Treatment
from magnetis_dagster.privacy.value_masking import NO_PERSON, Classes, ValueMasker, fold_name

_ALL: Classes = frozenset(CLASSES)
_NO_CLASSES: Classes = frozenset()
_NOBODY: frozenset[str] = frozenset()
_NO_DIGITS = bytes(each for each in range(256) if not 48 <= each <= 57)
_ENCODED = re.compile(r"[%&\\]|  ")
"""Signs of encoded characters, and double spaces."""
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
    """Classes with at least one value that was masked now; NONE for a text that is not personal by
    itself."""
    unparsable: tuple[str, ...] = ()
    """Columns with a text that is no phone number or address, although it should be one."""
    is_withheld: bool = False
    """Whether the received row contains a value that may not be stored anywhere: of an erased
    person, or of a class that is hashed or dropped on arrival."""
    mentions: tuple[str, ...] = ()
    """Sorted caller keys, of the active secret, of persons in texts without a column for a caller
    key, such as a number in a free text or a title."""


@dataclass(frozen=True, slots=True)
class _Due:
    """The classes that the plan masks at an age."""

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
        """Columns with a caller key, and their contents."""
        self._json = {name for name, each in declared.items() if each.type is ColumnType.JSON}
        self._changeable = {
            name: json_member(column, self._root)
            if column.type is ColumnType.JSON
            else _scalar_member(self._classes[name], self.identified.get(name))
            for name, column in declared.items()
            if not is_kept(name, column, self._classes[name])
        }
        self._naming = [(name, each) for name, each in self._classes.items() if each in _NAMING]
        classes = self._root.classes | {PersonalData.UNCLASSIFIED}
        self._never_clear = {
            name
            for name, rule in plan.rules.items()
            if rule.on_arrival is not Treatment.CLEAR and name in classes
        }
        self._due = lru_cache(10_000)(self._compute_due)
        self._search = PersonSearch(self._root, self._changeable, persons)

    @property
    def stores_less(self) -> bool:
        """Whether the plan hashes or drops a class of this collection on arrival."""
        return bool(self._never_clear)

    def contact_cutoff(self, today: date) -> date | None:
        """Return the last day that is old enough by a rule that counts from the last contact.

        None if there is no such rule.
        """
        _, by_contact = self.ages()
        return max((age.cutoff(today) for age in by_contact), default=None)

    def ages(self) -> tuple[list[Age], list[Age]]:
        """Return the ages that count from the row, and those from the last contact."""
        rules = (rule.mask_after for rule in self._plan.rules.values())
        ages = dict.fromkeys(filter(None, [*rules, self._plan.payload.mask_after]))
        by_row = [age for age in ages if not age.since_last_contact]
        return by_row, [age for age in ages if age.since_last_contact]

    def row_cutoffs(self, today: date) -> dict[PersonalData, date]:
        """Return the last day that is old enough, by class whose values are then dropped.

        Only classes whose age counts from the row.
        """
        return {
            name: rule.mask_after.cutoff(today)
            for name, rule in self._plan.rules.items()
            if rule.mask_after
            and not rule.mask_after.since_last_contact
            and rule.mask_to is Treatment.DROP
        }

    def columns_of(self, data_class: PersonalData) -> list[str]:
        """Return the columns of a class whose values may be masked."""
        return [name for name in self._changeable if self._classes[name] is data_class]

    def keep_columns(self, parsed: dict[str, Any], stored: Row) -> dict[str, Any]:
        """Return parsed columns with the stored values of classes that the payload lacks."""
        masked = stored.masked | stored.payload_masked
        if masked:
            for name in self._changeable:
                if self._classes[name] in masked:
                    parsed[name] = stored.columns[name]
        return parsed

    def contact_keys(self, row: Row) -> set[str]:
        """Return the caller keys, of all secrets, of the caller or contact of a row."""
        persons, _ = self._identify(row)
        return {
            key
            for name, person in persons.items()
            if self._classes[name] in CONTACT_SIDE
            for key in person.accepted
        }

    def persons_in(self, row: Row) -> Set[str]:
        """Return all caller keys, of all secrets, of the numbers and addresses in a row."""
        persons, _ = self._identify(row)
        found, _ = self._search.search(row)
        return {*found, *(key for person in persons.values() for key in person.accepted)}

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
        found, mentioned = self._search.search(row)
        permanent = row.masked | due.dropped
        payload_masked = row.payload_masked | (_ALL if due.payload else _NO_CLASSES)
        if suppressed:
            for name, person in persons.items():
                keys_in: Set[str] = frozenset(person.accepted)
                if person.kind is PhoneKind.UNPARSABLE and isinstance(row.columns[name], str):
                    # such as two numbers
                    keys_in = self._persons.persons_in(row.columns[name])
                if not suppressed.isdisjoint(keys_in):
                    # what else the row says about the caller, or about the recipient
                    is_contact = self._classes[name] in CONTACT_SIDE
                    permanent |= CONTACT_SIDE if is_contact else STAFF
        if self._drops_a_link(permanent | due.never_stored, persons):
            permanent |= CONTACT_SIDE
        dropped = permanent | due.never_stored
        hidden = dropped | due.hashed
        if found.isdisjoint(suppressed):
            keys = self._remaining_keys(persons, dropped, suppressed)
            if not hidden and not payload_masked:
                # most rows
                mentions = self._own_mentions(mentioned, persons) if mentioned else ()
                return MaskedRow(
                    Row(row.columns, row.payload, keys), unparsable=unparsable, mentions=mentions
                )
            values = ValueMasker(self._persons, _NOBODY)
            values.begin(hidden, [], _NOBODY)
            columns = self._mask_columns(row.columns, values)
            values.begin(hidden | payload_masked, [], _NOBODY)
            payload = values.mask(row.payload, self._root, PersonalData.UNCLASSIFIED)
            if not self._may_mention(row, persons, hidden, columns, payload):
                masked = Row(columns, payload, keys, permanent, payload_masked - permanent)
                return self._result(
                    masked, values, persons, unparsable, mentioned, suppressed=False
                )
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
        values = ValueMasker(self._persons, suppressed)
        while True:
            if self._drops_a_link(permanent | due.never_stored, persons):
                permanent |= CONTACT_SIDE
            dropped = permanent | due.never_stored
            hidden = dropped | due.hashed
            values.begin(hidden, *self._names_and_keys(row, persons, hidden))
            columns = self._mask_columns(row.columns, values)
            if values.hits <= permanent:
                break
            permanent |= values.hits
        keys = self._remaining_keys(persons, dropped, suppressed)
        while True:
            # what is masked in the payload only stays in the columns, and so do texts about it
            hidden = dropped | due.hashed
            names_and_keys = self._names_and_keys(row, persons, hidden)
            values.begin(hidden | payload_masked, *names_and_keys)
            payload = values.mask(row.payload, self._root, PersonalData.UNCLASSIFIED)
            if values.hits <= payload_masked:
                break
            payload_masked |= values.hits
        masked = Row(columns, payload, keys, permanent, payload_masked - permanent)
        found, mentioned = self._search.search(row)
        is_suppressed = not found.isdisjoint(suppressed)
        return self._result(
            masked, values, persons, unparsable, mentioned, suppressed=is_suppressed
        )

    def _result(
        self,
        masked: Row,
        values: ValueMasker,
        persons: Mapping[str, PersonKey],
        unparsable: tuple[str, ...],
        mentioned: Set[str],
        *,
        suppressed: bool,
    ) -> MaskedRow:
        mentions: tuple[str, ...] = ()
        if mentioned:
            # some of the texts are masked now
            mentions = self._own_mentions(self._search.search(masked)[1], persons)
        is_withheld = suppressed or not self._never_clear.isdisjoint(values.changed)
        return MaskedRow(masked, frozenset(values.changed), unparsable, is_withheld, mentions)

    def _own_mentions(
        self, mentioned: Set[str], persons: Mapping[str, PersonKey]
    ) -> tuple[str, ...]:
        """Return the mentioned keys of the active secret that no column of the row contains."""
        own = {key for person in persons.values() for key in person.accepted}
        return tuple(sorted(filter(self._persons.is_active, mentioned - own)))

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
        # accents may be written in several ways
        is_unusual = _OTHER_DIGITS.search(text) or _ENCODED.search(text)
        if is_unusual or (names and not text.isascii()):
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
        return any(name in text for name in names)

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
            is_person = not person or person.kind not in NO_PERSON
            if is_person and isinstance(text, str):
                # `Jean Dupont <jean@exemple.fr>` contains a name too
                name_before, _, address = text.partition("<")
                parts = (fold_name(text), fold_name(name_before.strip(" \"'")) if address else "")
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

    def _mask_columns(self, columns: Mapping[str, Any], values: ValueMasker) -> Mapping[str, Any]:
        if not values.is_needed:
            return columns
        masked = dict(columns)
        for name, member in self._changeable.items():
            if masked.get(name) is not None and not values.spares(member.classes):
                masked[name] = self._mask_column(name, masked[name], member, values)
        return masked

    def _mask_column(self, name: str, value: Any, member: Member, values: ValueMasker) -> Any:
        data_class = self._classes[name]
        if name not in self._json:
            return values.mask(value, member, data_class)
        received, _ = load_json(value.encode()) if isinstance(value, str) else (value, 0)
        masked = values.mask(received, member, data_class)
        if masked is received:
            return value
        if masked is None:
            return None
        return dump_json(masked) if isinstance(value, str) else masked


def _scalar_member(data_class: PersonalData, contains: Contents | None) -> Member:
    return Member(data_class, contains, classes=frozenset({data_class}))


def _plain_digits(received: str) -> str:
    """Return the digits of a number without its extension; empty if they are uncertain."""
    digits = _NUMBER_DIGITS.sub("", received)
    return digits if 9 <= len(digits) <= 15 and digits.isascii() and digits.isdecimal() else ""
