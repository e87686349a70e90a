"""Reading one received row by its declaration: id, account, moment, typed columns, and what was not expected.

Tolerant on purpose: member names and types of most collections are assumptions. A value that does not fit its column becomes NULL
and is counted; the received row is kept whole beside the columns, so nothing is lost.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from magnetis_dagster.catalog.model import Collection, ColumnType
from magnetis_dagster.exact_json import dump_json

Row = Mapping[str, Any]

ID_PATHS = ("id", "uuid")
ACCOUNT_PATHS = ("account.id", "account_id")
_Path = tuple[str, ...]
"""A member, and the members below it."""
_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""Older than any call tracking: a moment before it is a placeholder such as 0000-00-00 or the epoch."""
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_YEARS = range(_EARLIEST.year - 1, _LATEST.year + 1)
_FRENCH = re.compile(r"^(\d{2})/(\d{2})/(\d{4})[ T](\d{2}:\d{2}(?::\d{2})?)$")
_PLAIN_NAME = re.compile(r"(?!.*\d{4})[^\W\d][\w-]{0,39}")
_LONGEST_ACCOUNT = 512
"""Characters; PostgreSQL's index takes no key beyond a third of a page (2,704 bytes), and a longer one would stop its window."""
_LARGEST_BIGINT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """One row as its declaration reads it."""

    id: str | None
    account_id: str | None
    occurred_at: datetime | None
    """Moment of an event, in UTC; None on a snapshot, or when no candidate member holds a usable time."""
    day: date | None
    """Local day of `occurred_at` in the partition zone."""
    values: tuple[Any, ...]
    """One value per declared column, in order."""
    misfits: tuple[str, ...]
    """Columns whose received value does not fit their type."""


@dataclass(frozen=True, slots=True)
class ParsedRows:
    """Rows as their declaration reads them, column by column; each list has one value per row. See ParsedRow."""

    ids: list[str | None]
    account_ids: list[str | None]
    occurred_at: list[datetime | None]
    days: list[date | None]
    columns: list[list[Any]]
    """One list per declared column, in order."""
    misfits: dict[str, list[int]]
    """Column to the numbers of the rows whose received value does not fit its type."""


class RowReader:
    """Reads rows of one collection. Zone-less times are read in `response_zone`; days are days of `partition_zone`."""

    def __init__(self, collection: Collection, *, response_zone: ZoneInfo, partition_zone: ZoneInfo) -> None:
        self.collection = collection
        self._partition_zone = partition_zone
        self._response_zone = response_zone
        self._id = [_split(path) for path in ID_PATHS]
        self._account = [_split(path) for path in ACCOUNT_PATHS]
        self._time = [_split(path) for path in collection.time_fields]
        self._columns = [
            (name, [_split(path) for path in column.paths], _converter(column.type, response_zone))
            for name, column in collection.columns.items()
        ]
        declared = [path for column in collection.columns.values() for path in column.paths]
        self.known_members = frozenset(
            path.split(".")[0] for path in [*declared, *ID_PATHS, *ACCOUNT_PATHS, *collection.time_fields]
        )
        """Top-level members that some declaration reads; any other member of a row is unknown (and kept in the payload)."""

    def read(self, row: Row) -> ParsedRow:
        """Return what the declaration makes of `row`. Never raises: what does not fit is None, and named in `misfits`."""
        rows = self.read_all([row])
        return ParsedRow(
            rows.ids[0],
            rows.account_ids[0],
            rows.occurred_at[0],
            rows.days[0],
            tuple(values[0] for values in rows.columns),
            tuple(rows.misfits),
        )

    def read_all(self, rows: Sequence[Row]) -> ParsedRows:
        """Return what `read` makes of each of `rows`."""
        page = _Page(rows)
        misfits: dict[str, list[int]] = {}
        columns = []
        for name, paths, convert in self._columns:
            values, numbers = page.column(paths, convert)
            columns.append(values)
            if numbers:
                misfits[name] = numbers
        moments, _ = page.column(self._time, _moments(self._response_zone))
        accounts, _ = page.column(self._account, _texts)
        zone = self._partition_zone
        return ParsedRows(
            ids=page.column(self._id, _texts)[0],
            account_ids=[account if account and len(account) <= _LONGEST_ACCOUNT else None for account in accounts],
            occurred_at=moments,
            days=[moment.astimezone(zone).date() if moment else None for moment in moments],
            columns=columns,
            misfits=misfits,
        )


def as_text(value: object) -> str | None:
    """Return a scalar as text, `''` and containers as None."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    return None


def as_integer(value: object) -> int | None:
    """Return a whole number; fractions of a unit are rounded to the nearest, halves to even (a duration of "12.6" is 13)."""
    if type(value) is int:
        rounded = value
    else:
        number = as_decimal(value)
        if number is None:
            return None
        rounded = round(number)
    return rounded if abs(rounded) <= _LARGEST_BIGINT else None


def as_decimal(value: object) -> Decimal | None:
    """Return a finite number, from a number or from text with a point or a comma."""
    if isinstance(value, bool):
        return Decimal(int(value))
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(str(value)) if math.isfinite(value) else None
    if isinstance(value, str):
        try:
            number = Decimal(value.strip().replace(",", "."))
        except InvalidOperation:
            return None
        return number if number.is_finite() and abs(number.adjusted()) < 1000 else None
    return None


def as_boolean(value: object) -> bool | None:
    """Return a truth value from true/false, 0/1 and their usual spellings."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in {0, 1}:
        return bool(value)
    if isinstance(value, str):
        return {
            "1": True,
            "true": True,
            "yes": True,
            "oui": True,
            "0": False,
            "false": False,
            "no": False,
            "non": False,
        }.get(value.strip().lower())
    return None


def as_moment(value: object, zone: tzinfo) -> datetime | None:
    """Return a moment in UTC from ISO 8601 text, `YYYY-MM-DD HH:MM:SS`, `DD/MM/YYYY HH:MM`, or a Unix time in (milli)seconds.

    Text without a zone is read in `zone`; of an hour that the clocks repeat, the first is taken. A date without a time is
    not a moment. Moments before 1990 or after 2200 are placeholders, not moments.
    """
    moment: datetime | None = None
    if isinstance(value, str):
        text = value.strip()
        if text[2:3] == "/" and (match := _FRENCH.match(text)):
            text = f"{match[3]}-{match[2]}-{match[1]} {match[4]}"
        if len(text) >= 16:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                return None
        elif text.isdecimal() and len(text) in {10, 13}:
            return as_moment(int(text), zone)
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 7e12:
        seconds = value / 1000 if value > 1e11 else value
        if seconds < 7e9:
            moment = datetime.fromtimestamp(seconds, UTC)
    # the year first: a moment at the calendar's end has no UTC
    if moment is None or moment.year not in _YEARS:
        return None
    if moment.tzinfo is None:
        moment = datetime.combine(moment.date(), moment.time(), zone)  # replace() is much slower
    # In UTC: Python compares two times of one zone by their clock faces, an hour wrong across a clock change.
    moment = moment.astimezone(UTC)
    return moment if _EARLIEST <= moment < _LATEST else None


def shown_name(name: str) -> str:
    """Return a member's name fit to be shown: an object keyed by numbers or addresses has values for names, which become `*`."""
    return name if _PLAIN_NAME.fullmatch(name) else "*"


_Converter = Callable[[Iterable[Any]], list[Any]]
"""Makes values of received ones, None of None and of what does not fit."""


def _converter(kind: ColumnType, zone: tzinfo) -> _Converter:
    match kind:
        case ColumnType.TEXT:
            return _texts
        case ColumnType.INTEGER:
            return _each(as_integer)
        case ColumnType.DECIMAL:
            return _each(as_decimal)
        case ColumnType.BOOLEAN:
            return _each(as_boolean)
        case ColumnType.TIMESTAMP:
            return _moments(zone)
        case ColumnType.JSON:
            return _each(dump_json)


def _each(convert: Callable[[Any], Any]) -> _Converter:
    return lambda received: [None if raw is None else convert(raw) for raw in received]


def _moments(zone: tzinfo) -> _Converter:
    def moment(raw: Any) -> datetime | None:
        # YYYY-MM-DD HH:MM:SS, as the API writes every time: read as UTC and moved, in a third of the time
        if type(raw) is str and len(raw) == 19 and raw[13] == ":" and (offset := _offset(raw[:13], zone)) is not None:
            try:
                found = datetime.fromisoformat(raw + "+00:00") - offset
            except ValueError:
                return as_moment(raw, zone)
            return found if _EARLIEST <= found < _LATEST else None
        return as_moment(raw, zone)

    return _each(moment)


@lru_cache(maxsize=10_000)
def _offset(hour: str, zone: tzinfo) -> timedelta | None:
    """Return what `zone` is ahead of UTC over the whole of an hour, `YYYY-MM-DD HH`; None where it changes within."""
    try:
        first, last = (datetime.fromisoformat(hour + rest).replace(tzinfo=zone) for rest in (":00:00", ":59:59.999999"))
    except ValueError:
        return None
    if first.year not in _YEARS or first.utcoffset() != last.utcoffset():
        return None
    return first.utcoffset()


def _texts(received: Iterable[Any]) -> list[Any]:
    # most values of most rows come through here, most of them text or absent
    return [(raw.strip() or None) if type(raw) is str else None if raw is None else as_text(raw) for raw in received]


class _Page:
    """Rows, and what is at paths in them; several columns look at the same places."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._found: dict[_Path, list[Any]] = {(): list(rows)}
        self._objects: dict[_Path, tuple[set[str], bool]] = {}
        self._nothing = [None] * len(rows)

    def column(self, paths: Sequence[_Path], convert: _Converter) -> tuple[list[Any], list[int]]:
        """Return the value of each row, from the first path that has one that fits, and the rows that have only misfits."""
        rows = len(self._found[()])
        values: list[Any] = [None] * rows
        misfits: list[int] = []
        for path in paths:
            received = self._at(path)
            if received.count(None) == rows:
                continue
            if values.count(None) < rows:
                received = [raw if value is None else None for raw, value in zip(received, values, strict=True)]
            found = convert(received)
            if found.count(None) != received.count(None):
                misfits += (number for number, value in enumerate(found) if value is None and received[number] is not None)
            values = (
                found
                if values.count(None) == rows
                else [new if old is None else old for old, new in zip(values, found, strict=True)]
            )
            if None not in values:
                break
        return values, [number for number in dict.fromkeys(misfits) if values[number] is None]

    def _at(self, path: _Path) -> list[Any]:
        found = self._found.get(path)
        if found is None:
            *parents, name = path
            found = self._found[path] = self._below(tuple(parents), name)
        return found

    def _below(self, parents: _Path, name: str) -> list[Any]:
        above = self._at(parents)
        if (objects := self._objects.get(parents)) is None:
            found = [row for row in above if isinstance(row, dict)]
            # most members that a declaration looks for are in no row, and a set tells that of all rows at once
            objects = self._objects[parents] = set[str]().union(*found), len(found) == len(above)
        members, only_objects = objects
        if name not in members:
            return self._nothing
        if only_objects:
            return [row.get(name) for row in above]
        return [row.get(name) if isinstance(row, dict) else None for row in above]


def _split(path: str) -> _Path:
    return tuple(path.split("."))
