"""Convert received values to columns, ids, accounts and times; a misfit becomes None."""

import math
import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from magnetis_dagster.catalog.durations import convert, seconds_of
from magnetis_dagster.catalog.model import (
    INDEXED_CHARACTERS,
    SECONDS_PER_UNIT,
    Column,
    ColumnType,
)
from magnetis_dagster.catalog.names import split
from magnetis_dagster.catalog.page_members import Converter, is_numbered
from magnetis_dagster.exact_json import dump_json

_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""An earlier time is a placeholder: it is older than any call tracking."""
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_YEARS = range(_EARLIEST.year - 1, _LATEST.year + 1)
_FRENCH = re.compile(r"^(\d{2})/(\d{2})/(\d{4})[ T](\d{2}:\d{2}(?::\d{2})?)$")
_LONGEST_ACCOUNT = 512
"""Characters. PostgreSQL rejects index keys above 2,704 bytes, which would fail the window."""
_LARGEST_BIGINT = 2**63 - 1
_MOST_DIGITS = 1000
_MOST_PLACES = 16_383
_ZERO_DATE = re.compile(
    r"(?:0000-00-00|0001-01-01|-0001-11-30|00/00/0000)(?:[ T].*)?|1970-01-01[ T]00:00(?::00.*)?|0",
    re.DOTALL,
)
"""Placeholders for "no time" in MySQL, .NET, PHP and Unix time."""
_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})|(\d{2})/(\d{2})/(\d{4})")
_BOOLEANS = {"1": True, "true": True, "yes": True, "oui": True}
_BOOLEANS |= {"0": False, "false": False, "no": False, "non": False}
_WHOLE_PHONE = re.compile(r"\+?[0-9]{8,15}\.0")


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
        is_short = value.is_finite() and value.adjusted() < _MOST_DIGITS
        return str(int(value) if is_short and value == value.to_integral_value() else value)
    return None


def as_identifier(value: object) -> str | None:
    """Return the text of an id. 12, 12.0 and "12" are equal; a boolean is not an id."""
    return None if isinstance(value, bool) else as_text(value)


def as_integer(value: object) -> int | None:
    """Return an integer, rounded half to even: a duration of "12.6" becomes 13."""
    number = value if type(value) is int else as_decimal(value)
    rounded = None if number is None else round(number)
    return rounded if rounded is None or abs(rounded) <= _LARGEST_BIGINT else None


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


def as_day(value: object, response_zone: tzinfo, partition_zone: tzinfo) -> date | None:
    """Return the partition day of a time, or the day of a date without a time."""
    if moment := as_moment(value, response_zone):
        return moment.astimezone(partition_zone).date()
    if isinstance(value, str) and (match := _DATE.match(value.strip())):
        try:
            day = date.fromisoformat(match[1] or f"{match[4]}-{match[3]}-{match[2]}")
        except ValueError:
            return None
        return day if day.year in _YEARS else None
    return None


def converter_of(column: Column, zone: tzinfo, *, indexed: bool) -> Converter:
    """Return the converter for a column's values. Times without a zone are in `zone`."""
    match column.type:
        case ColumnType.TEXT:
            texts = _phones if any(is_numbered(split(path)) for path in column.paths) else _texts
            return _limit_length(texts) if indexed else texts
        case ColumnType.INTEGER:
            return _each(_number(column, as_integer))
        case ColumnType.DECIMAL:
            return _each(_number(column, as_decimal))
        case ColumnType.BOOLEAN:
            return _each(as_boolean)
        case ColumnType.TIMESTAMP:
            return to_moments(zone)
        case ColumnType.JSON:
            return _each(dump_json)


def _number(column: Column, convert_one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    unit, received_unit = column.unit, column.received_unit
    if unit not in SECONDS_PER_UNIT:
        return convert_one
    if received_unit not in {None, unit}:
        return lambda raw: convert_one(as_duration(raw, unit, received_unit))
    return lambda raw: convert_one(raw if type(raw) is int else as_duration(raw, unit))


def _each(convert_one: Callable[[Any], Any]) -> Converter:
    return lambda received: [None if raw is None else convert_one(raw) for raw in received]


def to_moments(zone: tzinfo) -> Converter:
    """Return a converter to times in UTC. Times without a zone are in `zone`."""

    def moment(raw: Any) -> datetime | None:
        # fast path for the API's usual format, YYYY-MM-DD HH:MM:SS: takes a third of the time
        is_usual = type(raw) is str and len(raw) == 19 and raw[13] == ":"
        if is_usual and (offset := _offset(raw[:13], zone)) is not None:
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
        first = datetime.fromisoformat(f"{hour}:00:00").replace(tzinfo=zone)
    except ValueError:
        return None
    last = first.replace(minute=59, second=59, microsecond=999_999)
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
    return [
        text[:-2] if text and text[-2:] == ".0" and _WHOLE_PHONE.fullmatch(text) else text
        for text in _texts(received)
    ]


def _limit_length(texts: Converter) -> Converter:
    """Return None for texts that an index would reject; `payload` contains them."""
    return lambda received: [
        text if text and len(text) <= INDEXED_CHARACTERS else None for text in texts(received)
    ]


def to_identifiers(received: Iterable[Any]) -> list[Any]:
    """Convert values to ids."""
    return [(raw.strip() or None) if type(raw) is str else as_identifier(raw) for raw in received]


def to_accounts(received: Iterable[Any]) -> list[Any]:
    """Convert values to account ids; None for an id that is too long to index."""
    return [
        account if account and len(account) <= _LONGEST_ACCOUNT else None
        for account in to_identifiers(received)
    ]


def is_blank(raw: Any) -> bool:
    """Return whether a value is missing or blank text."""
    return raw is None or (isinstance(raw, str) and not raw.strip())


def is_no_time(raw: Any) -> bool:
    """Return whether a value stands for no time: missing, blank or a placeholder."""
    if isinstance(raw, str):
        text = raw.strip()
        return not text or _ZERO_DATE.fullmatch(text) is not None
    return raw is None or (type(raw) is int and raw == 0)
