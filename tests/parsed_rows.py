"""One parsed row, for tests of the row parser, which parses a page at a time."""

from datetime import date, datetime
from typing import Any, NamedTuple

from magnetis_dagster.catalog.row_parser import RowParser


class ParsedRow(NamedTuple):
    """The lists of ParsedRows, for one row."""

    id: str | None
    account_id: str | None
    occurred_at: datetime | None
    day: date | None
    values: tuple[Any, ...]
    misfits: tuple[str, ...]


def read_row(parser: RowParser, row: dict[str, Any]) -> ParsedRow:
    """Parse one row."""
    rows = parser.read_all([row])
    return ParsedRow(
        rows.ids[0],
        rows.account_ids[0],
        rows.occurred_at[0],
        rows.days[0],
        tuple(values[0] for values in rows.columns),
        tuple(rows.misfits),
    )


def known_members(parser: RowParser) -> set[str]:
    """Return the top-level members as declared; rows may spell them differently."""
    collection = parser.collection
    paths = {*collection.key_paths, *collection.time_fields}
    paths |= {path for column in collection.columns.values() for path in column.paths}
    return {path.split(".")[0] for path in paths}
