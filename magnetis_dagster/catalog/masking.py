"""Mask personal data of rows for display in Dagster, which has no login."""

import re
from datetime import UTC

from magnetis_dagster.catalog.conversions import as_moment, as_text
from magnetis_dagster.catalog.model import Collection, ColumnType, PersonalData
from magnetis_dagster.exact_json import dump_json

MASK = "***"
_LONGEST = 120
_EMAIL = re.compile(r"[^\s@<>\"'(]{1,200}@[^\s@<>\"')]{1,200}")
_NUMBER = re.compile(r"\+?\(?\d(?:[\s.\-/()]{0,3}\d){7,}")
"""At least eight digits, possibly in groups. Excludes postcodes, years and months."""
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def mask_text(text: str) -> str:
    """Mask e-mail addresses and phone numbers; return one truncated line."""
    line = _UNPRINTABLE.sub(" ", text[: 10 * _LONGEST]).strip()
    line = _NUMBER.sub(MASK, _EMAIL.sub(MASK, line))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def mask_id(identifier: str) -> str:
    """Return an id for display; keep digits, because a UUID may contain eight in a row."""
    return _EMAIL.sub(MASK, _UNPRINTABLE.sub(" ", identifier))[:_LONGEST]


class Masking:
    """Masks columns with personal data, and members that no column declares."""

    def __init__(self, collection: Collection) -> None:
        self._columns = collection.columns
        self._keys = collection.key_paths
        self._by_path = [
            (path, column) for column in collection.columns.values() for path in column.paths
        ]

    def column(self, name: str, value: str | None) -> str | None:
        """Return the text of a column, masked if it is personal data, or None."""
        column = self._columns.get(name)
        if value is None or column is None:
            return None
        return mask_text(value) if column.personal_data is PersonalData.NONE else MASK

    def member(self, path: str, value: object) -> str:
        """Return the text of a value at a dotted path of a received row, masked if needed."""
        if value is None:
            return "null"
        if path in self._keys:
            return mask_id(str(value))
        columns = [
            column
            for declared, column in self._by_path
            if path == declared or path.startswith(f"{declared}.")
        ]
        if not columns or any(column.personal_data is not PersonalData.NONE for column in columns):
            return f"{MASK} ({len(value)})" if isinstance(value, list) else MASK
        types = {column.type for column in columns}
        if isinstance(value, dict | list) and ColumnType.JSON not in types:
            # a list or object in place of a scalar may contain anything
            return MASK
        if ColumnType.TIMESTAMP in types:
            # the digits of a time would match the pattern of phone numbers
            return str(value) if as_moment(value, UTC) else MASK
        return mask_text(as_text(value) or dump_json(value))
