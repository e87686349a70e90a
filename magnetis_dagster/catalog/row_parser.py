"""Parse received rows by their declaration: id, account, time and typed columns.

The parser is tolerant, because member names and types of most collections are assumptions. A value
that does not fit its column becomes NULL and is counted. The warehouse stores the received row next
to the columns, so no data is lost.
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
"""Before call tracking existed: an earlier time is a placeholder, such as 0000-00-00 or the epoch.
"""
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_YEARS = range(_EARLIEST.year - 1, _LATEST.year + 1)
_FRENCH = re.compile(r"^(\d{2})/(\d{2})/(\d{4})[ T](\d{2}:\d{2}(?::\d{2})?)$")
_PLAIN_NAME = re.compile(r"(?!.*\d{4})[^\W\d][\w-]{0,39}")
_LONGEST_ACCOUNT = 512
"""Maximum number of characters of an account id.

PostgreSQL rejects index keys above a third of a page (2,704 bytes), which would fail the window.
"""
_LARGEST_BIGINT = 2**63 - 1
_MOST_DIGITS = 1000
_MOST_PLACES = 16_383
"""Maximum number of decimal places of PostgreSQL's numeric type."""
_ZERO_DATE = re.compile(
    r"(?:0000-00-00|0001-01-01|-0001-11-30|00/00/0000)(?:[ T].*)?|1970-01-01[ T]00:00(?::00.*)?|0",
    re.DOTALL,
)
"""Placeholders for "no time" in MySQL, .NET, PHP and Unix time."""
_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})|(\d{2})/(\d{2})/(\d{4})")
_BOOLEANS = {"1": True, "true": True, "yes": True, "oui": True}
_BOOLEANS |= {"0": False, "false": False, "no": False, "non": False}
_WHOLE_PHONE = re.compile(r"\+?[0-9]{8,15}\.0")
_COMPOSITE_ESCAPES = str.maketrans({"\\": "\\\\", "|": "\\|"})


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """One parsed row."""

    id: str | None
    account_id: str | None
    occurred_at: datetime | None
    """Time of an event in UTC; None on a snapshot, or if no candidate contains a usable time."""
    day: date | None
    """Local day of `occurred_at` in the partition time zone."""
    values: tuple[Any, ...]
    """One value per declared column, in order."""
    misfits: tuple[str, ...]
    """Columns whose received value does not fit."""


@dataclass(frozen=True, slots=True)
class ParsedRows:
    """Parsed rows, column by column: each list has one value per row. See ParsedRow."""

    ids: list[str | None]
    account_ids: list[str | None]
    occurred_at: list[datetime | None]
    days: list[date | None]
    columns: list[list[Any]]
    """One list per declared column, in order."""
    misfits: dict[str, list[int]]
    """Row numbers by column for values that do not fit; includes `account_id` and `occurred_at`."""
    unreadable_time: list[str | None]
    """The first time field that is present, if its value is not a time. Later fields are ignored.
    """
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
                _converter(column, response_zone, indexed=name in collection.indexed),
            )
            for name, column in collection.columns.items()
        ]
        declared = [*collection.key_paths, *collection.time_fields]
        declared += [path for column in collection.columns.values() for path in column.paths]
        self.known_members = frozenset(split(path)[0] for path in declared)
        """Declared top-level members, as declared. Rows may spell them differently: see `unknown`.
        """

    def unknown(self, members: Iterable[str]) -> set[str]:
        """Return the top-level members that no declaration matches."""
        return {member for member in members if fold(member) not in self._shapes.known}

    def read(self, row: Row) -> ParsedRow:
        """Parse one row.

        Never raises: values that do not fit are None and listed in `misfits`.
        """
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
        """Parse several rows, with the same results as `read`."""
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
            # A member that is present but is not an id decides too. Falling back to another member
            # would change the row's identity.
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
    """Return a scalar as text, and None for blank text, lists and objects.

    A whole number has no decimal point: 33612345678.0 is a phone number.
    """
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # str() rejects integers of more than 4,300 digits
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
    """Return the text of an id. 12, 12.0 and "12" are equal; a boolean is not an id."""
    return None if isinstance(value, bool) else as_text(value)


def as_integer(value: object) -> int | None:
    """Return an integer, rounded half to even: a duration of "12.6" becomes 13."""
    if type(value) is int:
        rounded = value
    else:
        number = as_decimal(value)
        if number is None:
            return None
        rounded = round(number)
    return rounded if abs(rounded) <= _LARGEST_BIGINT else None


def as_decimal(value: object) -> Decimal | None:
    """Return a finite number from a number or from text with a point or comma.

    Returns None for numbers that PostgreSQL rejects: more than 1,000 digits before the point or in
    total, or more than 16,383 decimal places.
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
    """Return a duration in `unit`.

    The value is a number in `received_unit`, or text that includes its units, such as 00:03:21.
    """
    if isinstance(value, str) and (seconds := seconds_of(value.strip())) is not None:
        return convert(seconds, "seconds", unit)
    number = as_decimal(value)
    return number if number is None else convert(number, received_unit or unit, unit)


def as_boolean(value: object) -> bool | None:
    """Return a boolean from true/false, yes/no, oui/non or 0/1."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in {0, 1}:
        return bool(value)
    if isinstance(value, str):
        return _BOOLEANS.get(value.strip().lower())
    return None


def as_moment(value: object, zone: tzinfo) -> datetime | None:
    """Return a time in UTC.

    Accepts ISO 8601, `YYYY-MM-DD HH:MM:SS`, `DD/MM/YYYY HH:MM`, and Unix time in seconds or
    milliseconds. Text without a zone is in `zone`; in an hour that the clocks repeat, the first
    occurrence counts. Returns None for a date without a time, and for placeholders: times before
    1990 or after 2200.
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
    # check the year first: a time at the end of the calendar cannot be converted to UTC
    if moment is None or moment.year not in _YEARS:
        return None
    if moment.tzinfo is None:
        # replace() is much slower
        moment = datetime.combine(moment.date(), moment.time(), zone)
    # Python compares two times of the same zone without their offsets: wrong across a clock change
    moment = moment.astimezone(UTC)
    return moment if _EARLIEST <= moment < _LATEST else None


def shown_name(name: str) -> str:
    """Return a member's name for display, or `*` if it may be a value.

    Objects keyed by numbers or addresses have values as member names.
    """
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
        # fast path for the API's usual format, YYYY-MM-DD HH:MM:SS: takes a third of the time
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
    """Return `zone`'s UTC offset in an hour, `YYYY-MM-DD HH`; None if it changes."""
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
    # hot path: most values of most rows are text or absent
    return [
        (raw.strip() or None) if type(raw) is str else None if raw is None else as_text(raw)
        for raw in received
    ]


def _phones(received: Iterable[Any]) -> list[Any]:
    """Return phone numbers as text, without the ".0" of a float."""
    return [
        text[:-2] if text and text[-2:] == ".0" and _WHOLE_PHONE.fullmatch(text) else text
        for text in _texts(received)
    ]


def _limited(texts: Converter) -> Converter:
    """Return None for texts that an index would reject; `payload` contains them."""
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
    """Join the parts of an id with `|`.

    Escapes `|` and `\\` in parts, so that ids stay distinct.
    """
    given = [part.translate(_COMPOSITE_ESCAPES) for part in parts if part is not None]
    return "|".join(given) if len(given) == len(parts) else None


def _is_blank(raw: Any) -> bool:
    return raw is None or (isinstance(raw, str) and not raw.strip())


def _is_no_time(raw: Any) -> bool:
    if isinstance(raw, str):
        text = raw.strip()
        return not text or _ZERO_DATE.fullmatch(text) is not None
    return raw is None or (type(raw) is int and raw == 0)
