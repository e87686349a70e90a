"""Mask personal data of rows for display in Dagster, which has no login."""

from datetime import UTC, datetime

from magnetis_dagster.catalog.conversions import as_moment, as_text
from magnetis_dagster.catalog.model import Collection, ColumnType, PersonalData
from magnetis_dagster.exact_json import dump_json
from magnetis_dagster.foreign_text import display

MASK = "***"
_LONGEST = 120
_FEWEST_DIGITS = 8
"""Digits of a number in a text. Excludes postcodes, years and months."""
_FEWEST_DIGITS_OF_ID = 9
"""Digits of a number in an id: those of a French number without its first 0. Short integers are
often ids."""
_EARLIEST_UNIX_TIME = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
"""Unix time 1,000,000,000. Earlier times have nine digits, like a number that lost its first 0."""


def mask_text(text: str) -> str:
    """Mask e-mail addresses and phone numbers; return one truncated line."""
    return display(text, 10 * _LONGEST, _LONGEST, (_FEWEST_DIGITS, MASK, MASK))


def mask_id(identifier: str) -> str:
    """Return an id for display. The digits of a UUID stay, although many may stand in a row."""
    return display(identifier, 10 * _LONGEST, _LONGEST, (_FEWEST_DIGITS_OF_ID, MASK, MASK))


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
            return _mask_time(value)
        return mask_text(as_text(value) or dump_json(value))


def _mask_time(value: object) -> str:
    """Return a time for display. A number that is a Unix time too may be a phone number."""
    moment = as_moment(value, UTC)
    if moment is None:
        return MASK
    text = str(value)
    if mask_text(text) == text:
        return text
    is_number = moment < _EARLIEST_UNIX_TIME or text.lstrip().startswith("0")
    return MASK if is_number else moment.isoformat(" ", "seconds")
