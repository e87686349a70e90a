"""Reading rows by their declaration: what is accepted, what becomes None, and that nothing a server sends makes it raise."""

import json as stdlib_json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.catalog.reader import ParsedRow, RowReader, as_boolean, as_decimal, as_integer, as_moment, as_text

PARIS = ZoneInfo("Europe/Paris")
START = {"id": "call-1", "start_at": "2025-03-04 09:06:09"}


def read(row: dict[str, Any], collection: str = "calls", **zones: ZoneInfo) -> ParsedRow:
    zones = {"response_zone": PARIS, "partition_zone": PARIS} | zones
    return RowReader(load_catalogue()[collection], **zones).read(row)


def value(row: dict[str, Any], column: str, collection: str = "calls") -> Any:
    columns = list(load_catalogue()[collection].columns)
    return read(row, collection).values[columns.index(column)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "call-1"}, "call-1"),
        ({"id": 17}, "17"),
        ({"id": " call-1 "}, "call-1"),
        ({"id": 0}, "0"),
        ({"uuid": "u"}, "u"),
        ({"id": None, "uuid": "u"}, "u"),
        ({"id": ""}, None),
        ({"id": {"value": "x"}}, None),
        ({"id": ["x"]}, None),
        ({}, None),
    ],
)
def test_id(row: dict[str, Any], expected: str | None) -> None:
    assert read(row).id == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"account": {"id": "acc-1", "name": "A"}}, "acc-1"),
        ({"account": {"id": 5}}, "5"),
        ({"account": None, "account_id": "acc-2"}, "acc-2"),
        ({"account": "acc-3"}, None),
        ({"account": []}, None),
        ({"account": None}, None),
    ],
)
def test_account_may_be_an_object_null_or_absent(row: dict[str, Any], expected: str | None) -> None:
    assert read(START | row).account_id == expected


@pytest.mark.parametrize(
    ("received", "expected", "misfit"),
    [
        (12, 12, False),
        ("12", 12, False),
        (12.6, 13, False),
        ("12,6", 13, False),
        (12.5, 12, False),
        (" 7 ", 7, False),
        (-1, -1, False),
        (True, 1, False),
        (None, None, False),
        ("abc", None, True),
        ("", None, True),
        ("1,234.5", None, True),
        ("NaN", None, True),
        (2**63, None, True),
        ("1e400", None, True),
        ([1], None, True),
        ({"seconds": 1}, None, True),
    ],
)
def test_durations_in_any_dress(received: object, expected: int | None, misfit: bool) -> None:
    row = read(START | {"duration": received})
    assert row.values[list(load_catalogue()["calls"].columns).index("duration_seconds")] == expected
    assert ("duration_seconds" in row.misfits) is misfit


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (0, False),
        (1, True),
        (1.0, True),
        ("1", True),
        ("true", True),
        ("TRUE", True),
        ("Oui", True),
        (False, False),
        ("non", False),
        ("0", False),
        (2, None),
        ("perhaps", None),
        ("", None),
        (None, None),
        ([], None),
        (float("nan"), None),
    ],
)
def test_booleans(received: object, expected: bool | None) -> None:
    assert value({"enabled": received}, "enabled", "email_alerts") is expected


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("text", "text"),
        ("  ", None),
        (33612345678, "33612345678"),
        (1.5, "1.5"),
        (True, "true"),
        ({"a": 1}, None),
        (None, None),
        ("0033 6 12", "0033 6 12"),
        ("caf\u00e9 \ud83d\ude00", "caf\u00e9 \ud83d\ude00"),
    ],
)
def test_texts(received: object, expected: str | None) -> None:
    assert as_text(received) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"utm_source": "google", "utm_medium": "cpc"},
        {"utm": {"source": "google", "medium": "cpc"}},
        {"analysis": {"utm_source": "google", "utm_medium": "cpc"}},
        {"utm": {"source": "google"}, "utm_medium": "cpc"},
        {"utm": "google", "session": {"utm_source": "google", "utm_medium": "cpc"}},
        {"utm_source": None, "utm_medium": "", "utm": {"source": "google", "medium": "cpc"}},
    ],
)
def test_utm_flat_or_nested(row: dict[str, Any]) -> None:
    assert value(START | row, "utm_source") == "google"
    assert value(START | row, "utm_medium") == "cpc"
    assert "utm_source" not in read(START | row).misfits


def test_the_first_candidate_that_fits_wins() -> None:
    assert value(START | {"channel_name": "SEO", "channel": "other"}, "channel") == "SEO"
    assert value(START | {"channel": {"id": 4, "name": "SEO"}}, "channel") == "SEO"
    assert value(START | {"duration": "abc", "analysis": {"duration": 9}}, "duration_seconds") == 9


def test_lists_and_objects_are_kept_as_json() -> None:
    recipients = ["a@example.com", {"name": "B"}]
    assert stdlib_json.loads(value({"recipients": recipients}, "recipients", "reports")) == recipients


@pytest.mark.parametrize(
    "received",
    [
        "2025-03-04 09:06:09",
        "2025-03-04T09:06:09",
        "2025-03-04T09:06:09.000000",
        "2025-03-04T08:06:09Z",
        "2025-03-04T08:06:09+00:00",
        "2025-03-04T10:06:09+02:00",
        " 2025-03-04 09:06:09 ",
        "04/03/2025 09:06:09",
        "04/03/2025T09:06:09",
        1741075569,
        1741075569.0,
        1741075569000,
        "1741075569",
        "1741075569000",
    ],
)
def test_accepted_times(received: object) -> None:
    assert as_moment(received, PARIS) == datetime(2025, 3, 4, 8, 6, 9, tzinfo=UTC)


def test_times_to_the_minute() -> None:
    for received in ("2025-03-04 09:06", "04/03/2025 09:06"):
        assert as_moment(received, PARIS) == datetime(2025, 3, 4, 8, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    "received",
    [
        "2025-03-04",
        "04/03/2025",
        "",
        "yesterday",
        "0000-00-00 00:00:00",
        "2025-02-30 10:00:00",
        "1970-01-01 00:00:00",
        "2025-03-04 25:00:00",
        "31/13/2025 10:00",
        "2999-01-01 00:00:00",
        "12345",
        "²²²²²²²²²²",
        "2025-03-04 09:06:09 CET",
        0,
        -1,
        1,
        True,
        None,
        [],
        {},
        float("nan"),
        float("inf"),
        10**400,
        -(10**400),
        {"date": "2025-03-04 09:06:09"},
    ],
)
def test_refused_times(received: object) -> None:
    assert as_moment(received, PARIS) is None


def test_the_first_candidate_that_holds_a_moment_places_the_row() -> None:
    row = read({"id": 1, "start_at": "soon", "date": "2025-03-04", "created_at": "2025-03-04 23:30:00"})
    assert row.occurred_at == datetime(2025, 3, 4, 22, 30, tzinfo=UTC)
    assert row.day == date(2025, 3, 4)


def test_a_row_without_a_moment_has_no_day_and_a_snapshot_needs_none() -> None:
    assert read({"id": 1, "date": "2025-03-04"}).day is None
    assert read({"id": 1, "created_at": "2025-03-04 10:00:00"}, "accounts").occurred_at is None


@pytest.mark.parametrize(
    ("received", "moment", "day"),
    [
        # 2025-03-30: 02:00 becomes 03:00, the day has 23 hours
        ("2025-03-30 00:00:00", "2025-03-29T23:00:00Z", date(2025, 3, 30)),
        ("2025-03-30 01:59:59", "2025-03-30T00:59:59Z", date(2025, 3, 30)),
        ("2025-03-30 03:00:00", "2025-03-30T01:00:00Z", date(2025, 3, 30)),
        ("2025-03-30 23:59:59", "2025-03-30T21:59:59Z", date(2025, 3, 30)),
        ("2025-03-29T22:59:59Z", "2025-03-29T22:59:59Z", date(2025, 3, 29)),
        ("2025-03-30T21:59:59Z", "2025-03-30T21:59:59Z", date(2025, 3, 30)),
        ("2025-03-30T22:00:00Z", "2025-03-30T22:00:00Z", date(2025, 3, 31)),
        # an hour that the clocks leave out is read as if they had not moved yet
        ("2025-03-30 02:30:00", "2025-03-30T01:30:00Z", date(2025, 3, 30)),
        # 2025-10-26: 03:00 becomes 02:00, the day has 25 hours, and of the repeated hour the first is taken
        ("2025-10-26 02:30:00", "2025-10-26T00:30:00Z", date(2025, 10, 26)),
        ("2025-10-26 03:00:00", "2025-10-26T02:00:00Z", date(2025, 10, 26)),
        ("2025-10-26T01:30:00Z", "2025-10-26T01:30:00Z", date(2025, 10, 26)),
        ("2025-10-26T22:59:59Z", "2025-10-26T22:59:59Z", date(2025, 10, 26)),
        ("2025-10-26T23:00:00Z", "2025-10-26T23:00:00Z", date(2025, 10, 27)),
    ],
)
def test_days_over_both_clock_changes(received: str, moment: str, day: date) -> None:
    row = read({"id": 1, "start_at": received})
    assert row.occurred_at == datetime.fromisoformat(moment)
    assert row.day == day


def test_response_zone_and_partition_zone_are_two_things() -> None:
    row = read({"id": 1, "start_at": "2025-07-01 23:30:00"}, response_zone=ZoneInfo("UTC"))
    assert (row.occurred_at, row.day) == (datetime(2025, 7, 1, 23, 30, tzinfo=UTC), date(2025, 7, 2))


def test_known_members_are_the_top_level_names_that_some_declaration_reads(catalogue: Catalogue) -> None:
    known = RowReader(catalogue["calls"], response_zone=PARIS, partition_zone=PARIS).known_members
    assert {"id", "account", "start_at", "utm", "utm_source", "caller_number"} <= known
    assert not [member for member in known if "." in member]
    assert "fax" not in known


patient = settings(deadline=None)
"""A loaded machine is slow, not wrong."""

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.datetimes().map(str)
json = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)
MEMBERS = sorted(
    {part for c in load_catalogue().enabled for column in c.columns.values() for path in column.paths for part in path.split(".")}
)
members = st.sampled_from([*MEMBERS, "id", "uuid", "account", "account_id", "start_at", "created_at", "date"])
rows = st.dictionaries(members | st.text(max_size=5), json | st.dictionaries(members, json, max_size=3), max_size=8)


@pytest.mark.parametrize("collection", ["calls", "emails", "email_alerts", "conversions"])
@patient
@given(row=rows)
def test_no_json_object_makes_the_reader_raise(collection: str, row: dict[str, Any]) -> None:
    parsed = read(row, collection)
    assert len(parsed.values) == len(load_catalogue()[collection].columns)
    assert (parsed.day is None) == (parsed.occurred_at is None)
    for text in (parsed.id, parsed.account_id):
        assert text is None or text


@patient
@given(value=json | st.integers(min_value=10**300) | st.decimals())
def test_no_value_makes_a_conversion_raise(value: object) -> None:
    integer = as_integer(value)
    assert integer is None or abs(integer) < 2**63
    number = as_decimal(value)
    assert number is None or number.is_finite()
    assert as_boolean(value) in {True, False, None}
    moment = as_moment(value, PARIS)
    assert moment is None or moment.tzinfo is not None


offsets = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@patient
@given(moment=st.datetimes(datetime(1990, 1, 2), datetime(2199, 12, 30), timezones=offsets))  # noqa: DTZ001
def test_moments_with_a_zone_survive_the_round_trip(moment: datetime) -> None:
    assert as_moment(moment.isoformat(), PARIS) == moment
    assert as_moment(moment.isoformat(sep=" "), PARIS) == moment


@patient
@given(moment=st.datetimes(datetime(1990, 1, 2), datetime(2199, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_local_moments_survive_the_round_trip_but_for_the_second_of_a_repeated_hour(moment: datetime) -> None:
    local = moment.astimezone(PARIS)
    read_back = as_moment(local.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds"), PARIS)
    assert read_back == moment.astimezone(UTC) - timedelta(hours=local.fold)


zones = st.sampled_from(["Europe/Paris", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "UTC"])


@settings(max_examples=300)
@given(
    local=st.one_of(
        st.datetimes(datetime(1989, 12, 30), datetime(2200, 1, 3)),  # noqa: DTZ001
        # around the changes of clocks
        st.datetimes(datetime(2025, 3, 30), datetime(2025, 4, 7)),  # noqa: DTZ001
        st.datetimes(datetime(2025, 10, 4), datetime(2025, 11, 3)),  # noqa: DTZ001
    ),
    zone=zones.map(ZoneInfo),
)
def test_times_of_rows_are_read_as_as_moment_reads_them(local: datetime, zone: ZoneInfo) -> None:
    text = local.isoformat(sep=" ", timespec="seconds")
    row = read({"id": "call-1", "start_at": text, "end_at": text}, response_zone=zone)
    assert row.occurred_at == as_moment(text, zone)
    assert value({"end_at": text}, "ended_at") == as_moment(text, PARIS)


@patient
@given(moment=st.datetimes(datetime(2002, 1, 1), datetime(2190, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_unix_times_survive_the_round_trip(moment: datetime) -> None:
    seconds = int(moment.timestamp())
    expected = moment.replace(microsecond=0)
    assert as_moment(seconds, PARIS) == as_moment(str(seconds), PARIS) == as_moment(seconds * 1000, PARIS) == expected


@patient
@given(number=st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_decimals_survive_with_a_point_or_a_comma(number: Decimal) -> None:
    assert as_decimal(str(number)) == as_decimal(str(number).replace(".", ",")) == number
