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

from magnetis_dagster.catalog.durations import convert, seconds_of
from magnetis_dagster.catalog.model import (
    INDEXED_CHARACTERS,
    SECONDS_PER_UNIT,
    Collection,
    Column,
    ColumnType,
)
from magnetis_dagster.catalog.names import fold, split
from magnetis_dagster.catalog.page_members import Candidates, Converter, Page, Shapes, is_numbered
from magnetis_dagster.exact_json import dump_json

Row = Mapping[str, Any]

_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""Older than any call tracking: a moment before it is a placeholder such as 0000-00-00 or the epoch."""
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_YEARS = range(_EARLIEST.year - 1, _LATEST.year + 1)
_FRENCH = re.compile(r"^(\d{2})/(\d{2})/(\d{4})[ T](\d{2}:\d{2}(?::\d{2})?)$")
_PLAIN_NAME = re.compile(r"(?!.*\d{4})[^\W\d][\w-]{0,39}")
_LONGEST_ACCOUNT = 512
"""Characters; PostgreSQL's index takes no key beyond a third of a page (2,704 bytes), and a longer one would stop its window."""
_LARGEST_BIGINT = 2**63 - 1
_MOST_DIGITS = 1000
_MOST_PLACES = 16_383
"""Digits after the point that PostgreSQL's numeric takes."""
_ZERO_DATE = re.compile(
    r"(?:0000-00-00|0001-01-01|-0001-11-30|00/00/0000)(?:[ T].*)?|1970-01-01[ T]00:00(?::00.*)?|0",
    re.DOTALL,
)
"""What servers write for "no time": MySQL, .NET, PHP and the epoch."""
_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})|(\d{2})/(\d{2})/(\d{4})")
_WHOLE_PHONE = re.compile(r"\+?[0-9]{8,15}\.0")
_COMPOSITE_ESCAPES = str.maketrans({"\\": "\\\\", "|": "\\|"})


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
    """Column to the numbers of the rows whose received value does not fit its type; `account_id` and `occurred_at` included."""
    unreadable_time: list[str | None]
    """The first time field that is present, if its value is no moment: no later one places the row."""
    hint_days: list[date | None]
    """Of a row without a moment: the day that another time field names; a hint, not its day."""


class RowParser:
    """Reads rows of one collection. Zone-less times are read in `response_zone`; days are days of `partition_zone`."""

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
                _converter(column, response_zone, indexed=name in collection.indexed),
            )
            for name, column in collection.columns.items()
        ]
        declared = [*collection.key_paths, *collection.time_fields]
        declared += [path for column in collection.columns.values() for path in column.paths]
        self.known_members = frozenset(split(path)[0] for path in declared)
        """Top-level members that some declaration names. A row may write them in another convention: see `unknown`."""

    def unknown(self, members: Iterable[str]) -> set[str]:
        """Return the top-level members that no declaration reads in any convention; they are kept in the payload."""
        return {member for member in members if fold(member) not in self._shapes.known}

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
        page = Page(rows, self._shapes)
        misfits: dict[str, list[int]] = {}
        columns = []
        for name, candidates, convert_all in self._columns:
            values, numbers = page.column(candidates, convert_all)
            columns.append(values)
            if numbers:
                misfits[name] = numbers
        moments, unreadable = page.first_present(
            self._time, _moments(self._response_zone), _is_no_time
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
            read = [page.first_present([path], _identifiers, _is_blank) for path in parts]
            texts = [values for values, _ in read]
            found = (
                list(map(_composite, zip(*texts, strict=True))) if self._escapes_ids else texts[0]
            )
            if None not in found and not any(decided):
                return found
            # a member that is present but no id decides as well: under another member, the row would become another row
            for number, new in enumerate(found):
                if not decided[number] and (
                    new or any(unreadable[number] for _, unreadable in read)
                ):
                    ids[number] = new
                    decided[number] = True
        return ids

    def _accounts(self, page: Page, ids: list[str | None]) -> tuple[list[str | None], list[int]]:
        if self._account is None:
            accounts = _accounts(ids)
            return accounts, [
                number for number, account in enumerate(accounts) if account is None and ids[number]
            ]
        accounts, misfits = page.column(self._account, _accounts)
        if None in accounts:
            # an account without an id is unreadable, other than an object of a column that lacks a member
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
        missing = (
            [number for number, moment in enumerate(moments) if moment is None]
            if self._time
            else []
        )
        for names in self._time if missing else ():
            for received in page.at(names):
                for number in missing:
                    hints[number] = hints[number] or self._day_of(received[number])
        return hints

    def _day_of(self, raw: Any) -> date | None:
        if moment := as_moment(raw, self._response_zone):
            return moment.astimezone(self._partition_zone).date()
        if isinstance(raw, str) and (match := _DATE.match(raw.strip())):
            try:
                day = date.fromisoformat(match[1] or f"{match[4]}-{match[3]}-{match[2]}")
            except ValueError:
                return None
            return day if day.year in _YEARS else None
        return None


def as_text(value: object) -> str | None:
    """Return a scalar as text, `''` and containers as None. A whole number has no point: 33612345678.0 is a phone number."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # str() refuses 4,300 digits
        return str(value) if value.bit_length() < 10_000 else format(Decimal(value), "f")
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, Decimal):
        whole = (
            value.is_finite()
            and value.adjusted() < _MOST_DIGITS
            and value == value.to_integral_value()
        )
        return str(int(value)) if whole else str(value)
    return None


def as_identifier(value: object) -> str | None:
    """Return the text of an id: 12, 12.0 and "12" are the same one, and a truth value is none."""
    return None if isinstance(value, bool) else as_text(value)


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
    """Return a finite number, from a number or from text with a point or a comma.

    None beyond 1,000 digits, before the point or in all, and beyond 16,383 places, which PostgreSQL does not take.
    """
    if isinstance(value, bool):
        return Decimal(int(value))
    if isinstance(value, float):
        return Decimal(str(value)) if math.isfinite(value) else None
    if isinstance(value, str):
        try:
            number = Decimal(value.strip().replace(",", "."))
        except InvalidOperation:
            return None
    elif isinstance(value, int | Decimal):
        number = Decimal(value)
    else:
        return None
    if not number.is_finite() or number.adjusted() >= _MOST_DIGITS:
        return None
    _, digits, exponent = number.as_tuple()
    return number if len(digits) <= _MOST_DIGITS and int(exponent) >= -_MOST_PLACES else None


def as_duration(value: object, unit: str, received_unit: str | None = None) -> Decimal | None:
    """Return a duration in `unit`, from a number in `received_unit` or from text with its own units, such as 00:03:21."""
    if isinstance(value, str) and (seconds := seconds_of(value.strip())) is not None:
        return convert(seconds, "seconds", unit)
    number = as_decimal(value)
    return number if number is None else convert(number, received_unit or unit, unit)


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
    elif isinstance(value, Decimal):
        return as_moment(float(value), zone) if value.is_finite() else None
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


def _converter(column: Column, zone: tzinfo, *, indexed: bool) -> Converter:
    match column.type:
        case ColumnType.TEXT:
            texts = _phones if any(is_numbered(split(path)) for path in column.paths) else _texts
            return _limited(texts) if indexed else texts
        case ColumnType.INTEGER | ColumnType.DECIMAL:
            return _each(_number(column))
        case ColumnType.BOOLEAN:
            return _each(as_boolean)
        case ColumnType.TIMESTAMP:
            return _moments(zone)
        case ColumnType.JSON:
            return _each(dump_json)


def _number(column: Column) -> Callable[[Any], Any]:
    convert_one: Callable[[Any], Any] = (
        as_integer if column.type is ColumnType.INTEGER else as_decimal
    )
    unit, received_unit = column.unit, column.received_unit
    if unit not in SECONDS_PER_UNIT:
        return convert_one
    if received_unit not in {None, unit}:
        return lambda raw: convert_one(as_duration(raw, unit, received_unit))
    return lambda raw: convert_one(raw if type(raw) is int else as_duration(raw, unit))


def _each(convert_one: Callable[[Any], Any]) -> Converter:
    return lambda received: [None if raw is None else convert_one(raw) for raw in received]


def _moments(zone: tzinfo) -> Converter:
    def moment(raw: Any) -> datetime | None:
        # YYYY-MM-DD HH:MM:SS, as the API writes every time: read as UTC and moved, in a third of the time
        if (
            type(raw) is str
            and len(raw) == 19
            and raw[13] == ":"
            and (offset := _offset(raw[:13], zone)) is not None
        ):
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
        first, last = (
            datetime.fromisoformat(hour + rest).replace(tzinfo=zone)
            for rest in (":00:00", ":59:59.999999")
        )
    except ValueError:
        return None
    if first.year not in _YEARS or first.utcoffset() != last.utcoffset():
        return None
    return first.utcoffset()


def _texts(received: Iterable[Any]) -> list[Any]:
    # most values of most rows come through here, most of them text or absent
    return [
        (raw.strip() or None) if type(raw) is str else None if raw is None else as_text(raw)
        for raw in received
    ]


def _phones(received: Iterable[Any]) -> list[Any]:
    """Read phone numbers: one that passed through a float, as text too, is 33612345678 and not 33612345678.0."""
    return [
        text[:-2] if text and text[-2:] == ".0" and _WHOLE_PHONE.fullmatch(text) else text
        for text in _texts(received)
    ]


def _limited(texts: Converter) -> Converter:
    """Return None for texts that an index would reject; `payload` keeps them."""
    return lambda received: [
        text if text is None or len(text) <= INDEXED_CHARACTERS else None
        for text in texts(received)
    ]


def _identifiers(received: Iterable[Any]) -> list[Any]:
    return [(raw.strip() or None) if type(raw) is str else as_identifier(raw) for raw in received]


def _accounts(received: Iterable[Any]) -> list[Any]:
    return [
        account if account and len(account) <= _LONGEST_ACCOUNT else None
        for account in _identifiers(received)
    ]


def _composite(parts: tuple[str | None, ...]) -> str | None:
    """Return `a|b` of the parts of an id; `|` and `\\` in a part are escaped, so that no two ids become one."""
    given = [part.translate(_COMPOSITE_ESCAPES) for part in parts if part is not None]
    return "|".join(given) if len(given) == len(parts) else None


def _is_blank(raw: Any) -> bool:
    return raw is None or (isinstance(raw, str) and not raw.strip())


def _is_no_time(raw: Any) -> bool:
    if isinstance(raw, str):
        text = raw.strip()
        return not text or _ZERO_DATE.fullmatch(text) is not None
    return raw is None or (type(raw) is int and raw == 0)
