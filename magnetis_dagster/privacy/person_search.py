"""Search the texts of a row for phone numbers and e-mail addresses.

A number in a note is as personal as one in its own column. Texts that never change are skipped:
ids, accounts and times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from magnetis_dagster.catalog import PersonalData
from magnetis_dagster.exact_json import dump_json
from magnetis_dagster.privacy.classification import Member
from magnetis_dagster.privacy.person_keys import PersonKeys
from magnetis_dagster.privacy.value_masking import DEEPEST, number_text

if TYPE_CHECKING:
    from magnetis_dagster.privacy.masking import Row

_NOBODY: frozenset[str] = frozenset()
_MOST_TEXTS = 100_000
"""Texts whose persons are remembered. Labels and tracked numbers occur in every row."""
_may_mention = re.compile(r"[^\x00-\x7f]|[@%&(\[{\\]|[0-9](?:[\W_]{0,5}[0-9]){8}").search
"""A fast test that may be wrong in one direction: characters beyond ASCII, those that begin an
encoded or spelled sign (`@ % & \\ ( [ {`), or nine digits."""
_NONE_RECEIVED: Mapping[str, Member | None] = {}


class PersonSearch:
    """Finds the persons that the texts of rows mention.

    `root`: the declared members of a received row. `columns`: those of columns that may change.
    """

    def __init__(self, root: Member, columns: Mapping[str, Member], persons: PersonKeys) -> None:
        self._root = root
        self._columns = columns
        self._persons_in = persons.persons_in
        self._known: dict[str, frozenset[str]] = {}

    def search(self, row: Row) -> tuple[Set[str], Set[str]]:
        """Return the keys, of all secrets, in all texts, and those that are not the company's."""
        found: set[str] = set()
        mentioned: set[str] = set()
        if len(self._known) >= _MOST_TEXTS:
            self._known.clear()
        if type(row.payload) is dict:
            self._search_object(row.payload, self._root, found, mentioned)
        else:
            self._search_value(row.payload, None, found, mentioned)
        # the payload contains what the columns contain, unless it was masked
        if row.payload_masked:
            for name, member in self._columns.items():
                self._search_value(row.columns.get(name), member, found, mentioned)
        return found, mentioned

    def _search_object(
        self,
        members: dict[str, Any],
        member: Member | None,
        found: set[str],
        mentioned: set[str],
        level: int = 0,
    ) -> None:
        received = member.received if member is not None else _NONE_RECEIVED
        known = self._known
        for name, value in members.items():
            kind = type(value)
            try:
                child = received[name]
            except KeyError:
                child = member.child(name) if member is not None else None
            if child is None:
                if known.get(name) is not _NOBODY:
                    self._search_text(name, None, found, mentioned)
            elif child.kept and kind is not dict and kind is not list:
                continue
            if kind is str:
                # most values mention nobody, and occur in many rows
                if known.get(value) is not _NOBODY and _may_mention(value):
                    self._search_text(value, child, found, mentioned)
                elif child is not None and child.data_class is PersonalData.NONE:
                    known[value] = _NOBODY
            elif kind is not bool and value is not None:
                self._search_value(value, child, found, mentioned, level + 1)

    def _search_value(
        self,
        value: Any,
        member: Member | None,
        found: set[str],
        mentioned: set[str],
        level: int = 0,
    ) -> None:
        if level > DEEPEST and isinstance(value, dict | list):
            self._search_text(dump_json(value), None, found, mentioned)
        elif isinstance(value, dict):
            self._search_object(value, member, found, mentioned, level)
        elif isinstance(value, list):
            for each in value:
                self._search_value(each, member, found, mentioned, level + 1)
        elif member is not None and member.kept:
            return
        elif isinstance(value, str):
            self._search_text(value, member, found, mentioned)
        elif (text := number_text(value)) is not None:
            self._search_text(text, member, found, mentioned)

    def _search_text(
        self, text: str, member: Member | None, found: set[str], mentioned: set[str]
    ) -> None:
        keys = self._known.get(text)
        if keys is None:
            keys = self._persons_in(text) or _NOBODY
            self._known[text] = keys
        if keys:
            found |= keys
            if member is None or not member.is_own_number:
                mentioned |= keys
