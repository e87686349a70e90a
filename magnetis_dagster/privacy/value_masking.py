"""Mask the values of classes in a received row, and texts that mention a person."""

from __future__ import annotations

import unicodedata
from collections.abc import Set
from decimal import Decimal
from typing import Any

from magnetis_dagster.catalog import Contents, PersonalData
from magnetis_dagster.catalog.conversions import as_text
from magnetis_dagster.catalog.row_parser import mask_name
from magnetis_dagster.exact_json import Unparsed, dump_json
from magnetis_dagster.plain_text import plain_text
from magnetis_dagster.privacy.classification import CONTACT_SIDE, Member
from magnetis_dagster.privacy.person_keys import PersonKeys
from magnetis_dagster.privacy.phone import PhoneKind

Classes = frozenset[PersonalData]

NO_PERSON = frozenset({PhoneKind.WITHHELD, PhoneKind.SHORT_CODE})
"""Kinds of numbers that are never masked."""
_NO_CLASSES: Classes = frozenset()
DEEPEST = 50
"""Levels of a row that are examined one by one. Deeper values count as one text."""
_SCALARS = {str, int, float, bool}


class ValueMasker:
    """Masks the values of classes, and texts that mention a person."""

    def __init__(self, keys: PersonKeys, suppressed: Set[str]) -> None:
        self.changed: set[PersonalData] = set()
        """Classes with a value that was masked."""
        self._keys = keys
        self._suppressed = suppressed
        self._level = 0

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
        if isinstance(value, dict | list):
            if self._level > DEEPEST:
                return self._mask_deep(value, member, inherited)
            self._level += 1
            try:
                return self._mask_nested(value, member, inherited)
            finally:
                self._level -= 1
        return self._mask_scalar(value, member, inherited)

    def _mask_deep(self, value: Any, member: Member | None, inherited: PersonalData) -> Any:
        """Mask a value as one text."""
        data_class = _class_of(value, member, inherited)
        if data_class in self.hidden:
            self.changed.add(data_class)
            return None
        return None if self._mentions(dump_json(value), data_class) else value

    def _mask_nested(self, value: Any, member: Member | None, inherited: PersonalData) -> Any:
        if isinstance(value, dict):
            is_leaf = member is not None and not member.below
            if is_leaf and self._is_hidden(value, member, inherited):
                return None
            return self._mask_object(value, member, inherited)
        if self._is_hidden(value, member, inherited):
            return None
        data_class = _class_of(value, member, inherited)
        elements = [self.mask(each, member, data_class) for each in value]
        changed = any(new is not old for new, old in zip(elements, value, strict=True))
        return elements if changed else value

    def _mask_scalar(self, value: Any, member: Member | None, inherited: PersonalData) -> Any:
        if member is not None and member.data_class is None:
            member, inherited = self._replace_object(value, member, inherited)
        if value is None or self._is_hidden(value, member, inherited):
            return None
        data_class = _class_of(value, member, inherited)
        is_kept_value = member is not None and member.kept
        return None if not is_kept_value and self._mentions(value, data_class) else value

    def _replace_object(
        self, value: Any, member: Member, inherited: PersonalData
    ) -> tuple[Member | None, PersonalData]:
        """Return the declaration of a scalar in place of an object: its id, unless it is a person.

        Otherwise it has the class of personal members of the object, if there are any.
        """
        text = value if isinstance(value, str) else number_text(value)
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
            and self._keys.phone(value).kind in NO_PERSON
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
        text = value if isinstance(value, str) else number_text(value)
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


def number_text(value: Any) -> str | None:
    """Return the text of a number with at least seven digits, or of an unparsed value."""
    if isinstance(value, Unparsed):
        return value.text
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    text = as_text(value)
    return text if text is not None and 7 <= len(text) <= 40 else None


def fold_name(text: str) -> str:
    """Return a text in lower case without accents, decoded, with single spaces."""
    decomposed = unicodedata.normalize("NFKD", plain_text(text)).casefold()
    letters = "".join(each for each in decomposed if not unicodedata.combining(each))
    return " ".join(letters.split())


def _contains_any(text: str, names: list[str]) -> bool:
    """Return whether one of the folded names occurs as whole words."""
    folded = fold_name(text) if names else ""
    for name in names:
        start = folded.find(name)
        while start >= 0:
            end = start + len(name)
            if not folded[start - 1 : start].isalnum() and not folded[end : end + 1].isalnum():
                return True
            start = folded.find(name, start + 1)
    return False
