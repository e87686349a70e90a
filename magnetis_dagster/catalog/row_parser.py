"""Parse received rows by their declaration: id, account, time and typed columns.

Member names and types of most collections are assumptions. So a value that does not fit its column
becomes NULL and is counted. The warehouse stores the received row next to the columns.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from magnetis_dagster.catalog.conversions import (
    as_day,
    converter_of,
    is_blank,
    is_no_time,
    to_accounts,
    to_identifiers,
    to_moments,
)
from magnetis_dagster.catalog.model import Collection, ColumnType
from magnetis_dagster.catalog.names import fold, split
from magnetis_dagster.catalog.page_members import Candidates, Page, Shapes
from magnetis_dagster.foreign_text import is_personal

Row = Mapping[str, Any]

_PLAIN_NAME = re.compile(r"(?!.*\d{4})[^\W\d][\w-]{0,39}")
_FEWEST_DIGITS = 6
"""Digits that make a name a value, also in groups: `tel_06_12_34`."""
_COMPOSITE_ESCAPES = str.maketrans({"\\": "\\\\", "|": "\\|"})


@dataclass(frozen=True, slots=True)
class ParsedRows:
    """Parsed rows, column by column: each list has one value per row."""

    ids: list[str | None]
    account_ids: list[str | None]
    occurred_at: list[datetime | None]
    """Times of events in UTC; None on a snapshot, or if no candidate contains a usable time."""
    days: list[date | None]
    """Local days of `occurred_at` in the partition time zone."""
    columns: list[list[Any]]
    """One list per declared column, in order."""
    misfits: dict[str, list[int]]
    """Row numbers by column for values that do not fit; includes `account_id` and `occurred_at`."""
    unreadable_time: list[str | None]
    """The first time field that is present, if its value is not a time; others are ignored."""
    hint_days: list[date | None]
    """For a row without a time: the day in another time field. It is a hint, not the row's day."""


class RowParser:
    """Parses rows of one collection.

    Times without a zone are in `response_zone`. Days are days of `partition_zone`.
    """

    def __init__(
        self, collection: Collection, *, response_zone: ZoneInfo, partition_zone: ZoneInfo
    ) -> None:
        self.collection = collection
        self._partition_zone = partition_zone
        self._response_zone = response_zone
        self._shapes = shapes = Shapes(collection)
        self._ids = [[split(path) for path in parts] for parts in collection.id_paths]
        self._escapes_ids = any(len(parts) > 1 for parts in self._ids)
        self._account = (
            None if collection.rows_are_accounts else Candidates(shapes, collection.account_paths)
        )
        self._time = [split(path) for path in collection.time_fields]
        self._columns = [
            (
                name,
                Candidates(shapes, column.paths, as_json=column.type is ColumnType.JSON),
                converter_of(column, response_zone, indexed=name in collection.indexed),
            )
            for name, column in collection.columns.items()
        ]

    def unknown(self, members: Iterable[str]) -> set[str]:
        """Return the top-level members that no declaration matches."""
        return {member for member in members if fold(member) not in self._shapes.known}

    def read_all(self, rows: Sequence[Row]) -> ParsedRows:
        """Parse rows. Never raises: values that do not fit are None and listed in `misfits`."""
        page = Page(rows, self._shapes)
        misfits: dict[str, list[int]] = {}
        columns = []
        for name, candidates, convert_all in self._columns:
            values, numbers = page.column(candidates, convert_all)
            columns.append(values)
            if numbers:
                misfits[name] = numbers
        moments, unreadable = page.first_present(
            self._time, to_moments(self._response_zone), is_no_time
        )
        if numbers := [number for number, path in enumerate(unreadable) if path]:
            misfits["occurred_at"] = numbers
        ids = self._read_ids(page)
        accounts, numbers = self._accounts(page, ids)
        if numbers:
            misfits["account_id"] = numbers
        zone = self._partition_zone
        return ParsedRows(
            ids=ids,
            account_ids=accounts,
            occurred_at=moments,
            days=[moment.astimezone(zone).date() if moment else None for moment in moments],
            columns=columns,
            misfits=misfits,
            unreadable_time=unreadable,
            hint_days=self._hints(page, moments),
        )

    def _read_ids(self, page: Page) -> list[str | None]:
        ids: list[str | None] = [None] * page.size
        decided = [False] * page.size
        for parts in self._ids:
            read = [page.first_present([path], to_identifiers, is_blank) for path in parts]
            found, _ = read[0]
            if self._escapes_ids:
                texts = (values for values, _ in read)
                found = list(map(_composite, zip(*texts, strict=True)))
            if None not in found and not any(decided):
                return found
            # A member that is present but is not an id decides too. Falling back to another member
            # would change the row's identity.
            for number, new in enumerate(found):
                is_present = new or any(unreadable[number] for _, unreadable in read)
                if is_present and not decided[number]:
                    ids[number] = new
                    decided[number] = True
        return ids

    def _accounts(self, page: Page, ids: list[str | None]) -> tuple[list[str | None], list[int]]:
        if self._account is None:
            accounts = to_accounts(ids)
            pairs = enumerate(zip(accounts, ids, strict=True))
            return accounts, [number for number, (account, id_) in pairs if id_ and not account]
        accounts, misfits = page.column(self._account, to_accounts)
        if None in accounts:
            # an account that is present without an id is a misfit; `page.column` cannot see this
            for names in self._account.paths:
                for received in page.at(names[:-1]) if len(names) > 1 else ():
                    misfits += (
                        number
                        for number, raw in enumerate(received)
                        if raw and accounts[number] is None
                    )
        return accounts, sorted(set(misfits))

    def _hints(self, page: Page, moments: list[datetime | None]) -> list[date | None]:
        hints: list[date | None] = [None] * page.size
        missing = [number for number, moment in enumerate(moments) if moment is None]
        for names in self._time if missing else ():
            for received in page.at(names):
                for number in missing:
                    hints[number] = hints[number] or as_day(
                        received[number], self._response_zone, self._partition_zone
                    )
        return hints


def mask_name(name: str) -> str:
    """Return a member's name for display, or `*` if it may be a value, such as a number."""
    is_name = _PLAIN_NAME.fullmatch(name) and not is_personal(name, _FEWEST_DIGITS)
    return name if is_name else "*"


def _composite(parts: tuple[str | None, ...]) -> str | None:
    """Join the parts of an id with `|`; escape `|` and `\\` in parts, so that ids stay distinct."""
    given = [part.translate(_COMPOSITE_ESCAPES) for part in parts if part is not None]
    return "|".join(given) if len(given) == len(parts) else None
