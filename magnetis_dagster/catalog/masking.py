"""What of a row may be shown outside the tables: nothing personal. Used wherever Dagster, which has no login, shows a value."""

import re
from datetime import UTC

from magnetis_dagster.catalog.model import Collection, ColumnType, PersonalData
from magnetis_dagster.catalog.row_parser import as_moment, as_text
from magnetis_dagster.exact_json import dump_json

MASK = "***"
_LONGEST = 120
_EMAIL = re.compile(r"[^\s@<>\"'(]{1,200}@[^\s@<>\"')]{1,200}")
_NUMBER = re.compile(r"\+?\(?\d(?:[\s.\-/()]{0,3}\d){7,}")
"""Eight digits or more, also in groups; a postcode, a year or a month is none."""
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def masked(text: str) -> str:
    """Return free text on one line, cut, with e-mail addresses and phone numbers masked: a title may hold one."""
    line = _UNPRINTABLE.sub(" ", text[: 10 * _LONGEST]).strip()
    line = _NUMBER.sub(MASK, _EMAIL.sub(MASK, line))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def masked_id(identifier: str) -> str:
    """Return an id fit to be shown. Its digits stay: a UUID may hold eight in a row."""
    return _EMAIL.sub(MASK, _UNPRINTABLE.sub(" ", identifier))[:_LONGEST]


class Masking:
    """What of the received rows of one collection may be shown, by the personal-data classes of its columns.

    A member that no column declares may hold anything, and is masked.
    """

    def __init__(self, collection: Collection) -> None:
        self._columns = collection.columns
        self._keys = collection.key_paths
        self._of = [
            (path, column) for column in collection.columns.values() for path in column.paths
        ]

    def column(self, name: str, value: str | None) -> str | None:
        """Return the text of a column; None where there is none."""
        column = self._columns.get(name)
        if value is None or column is None:
            return None
        return masked(value) if column.personal_data is PersonalData.NONE else MASK

    def member(self, path: str, value: object) -> str:
        """Return the value at a dotted path of a received row, as text."""
        if value is None:
            return "null"
        if path in self._keys:
            return masked_id(str(value))
        columns = [
            column
            for declared, column in self._of
            if path == declared or path.startswith(f"{declared}.")
        ]
        if not columns or any(column.personal_data is not PersonalData.NONE for column in columns):
            return f"{MASK} ({len(value)})" if isinstance(value, list) else MASK
        if isinstance(value, dict | list) and not any(
            column.type is ColumnType.JSON for column in columns
        ):
            # where a word or a number was promised, it may hold anything
            return MASK
        if any(column.type is ColumnType.TIMESTAMP for column in columns):
            # its digits would pass for a phone number
            return str(value) if as_moment(value, UTC) else MASK
        return masked(as_text(value) or dump_json(value))
