"""The row parser accepts any input; values that do not fit become None."""

import json as stdlib_json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsed_rows import ParsedRow, known_members, read_row

from magnetis_dagster.catalog import Catalogue, Collection, load_catalogue
from magnetis_dagster.catalog.conversions import (
    as_boolean,
    as_decimal,
    as_integer,
    as_moment,
    as_text,
)
from magnetis_dagster.catalog.row_parser import ParsedRows, RowParser

PARIS = ZoneInfo("Europe/Paris")
START = {"id": "call-1", "start_at": "2025-03-04 09:06:09"}


def read(row: dict[str, Any], collection: str = "calls", **zones: ZoneInfo) -> ParsedRow:
    zones = {"response_zone": PARIS, "partition_zone": PARIS} | zones
    return read_row(RowParser(load_catalogue()[collection], **zones), row)


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
        ({"id": 12.0}, "12"),
        ({"id": Decimal("12.0")}, "12"),
        ({"id": Decimal(99999999999999999998)}, "99999999999999999998"),
        ({"id": True}, None),
        # falling back to another member would change the row's identity
        ({"id": {"value": "x"}, "uuid": "u"}, None),
        ({"ID": "call-1"}, "call-1"),
        ({"Id": "other", "id": "call-1"}, "call-1"),
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
        ({"account": {"id": 12}}, "12"),
        ({"account": {"id": 12.0}}, "12"),
        ({"account": {"id": "12"}}, "12"),
        ({"account": "acc-3"}, "acc-3"),
        ({"account": 12}, "12"),
        ({"account": [{"id": "acc-4"}]}, "acc-4"),
        ({"account": ["acc-5"]}, "acc-5"),
        ({"Account": {"ID": "acc-6"}}, "acc-6"),
        ({"accountId": "acc-7"}, "acc-7"),
        ({"account.id": "acc-8"}, "acc-8"),
        ({"account": []}, None),
        ({"account": None}, None),
    ],
)
def test_an_account_may_be_an_object_a_scalar_null_or_absent(
    row: dict[str, Any], expected: str | None
) -> None:
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
def test_durations_as_numbers_and_texts(
    received: object, expected: int | None, misfit: bool
) -> None:
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


def test_lists_and_objects_are_stored_as_json() -> None:
    recipients = ["a@example.com", {"name": "B"}]
    assert (
        stdlib_json.loads(value({"recipients": recipients}, "recipients", "reports")) == recipients
    )


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
def test_rejected_times(received: object) -> None:
    assert as_moment(received, PARIS) is None


def read_all(rows: list[dict[str, Any]], collection: Collection | None = None) -> ParsedRows:
    return RowParser(
        collection or load_catalogue()["calls"], response_zone=PARIS, partition_zone=PARIS
    ).read_all(rows)


ABSENT = [
    None,
    "",
    "  ",
    0,
    "0",
    "0000-00-00 00:00:00",
    "0000-00-00",
    "-0001-11-30T00:00:00+00:00",
    "1970-01-01 00:00:00",
]


@pytest.mark.parametrize("absent", ABSENT)
def test_without_a_time_the_next_candidate_is_used(absent: object) -> None:
    rows = read_all([{"id": 1, "start_at": absent, "date": "2025-03-04 23:30:00"}])
    assert rows.days == [date(2025, 3, 4)]
    assert (rows.unreadable_time, rows.misfits) == ([None], {})


@pytest.mark.parametrize(
    "unreadable",
    [
        "soon",
        "2025-03-04 11:00:00 CET",
        "2025-03-04",
        "0025-03-04 10:00:00",
        "2999-01-01 00:00:00",
        True,
        -1,
        [],
        {},
    ],
)
def test_an_unreadable_time_is_not_replaced_by_a_later_candidate(unreadable: object) -> None:
    good = {"id": 0, "start_at": "2025-03-04 10:00:00"}
    rows = read_all(
        [
            good,
            {"id": 1, "started_at": unreadable, "created_at": "2025-03-06 00:10:00"},
            good | {"date": unreadable},
        ]
    )
    assert rows.occurred_at[1] is None
    assert rows.days == [date(2025, 3, 4), None, date(2025, 3, 4)]
    assert rows.unreadable_time == [None, "started_at", None]
    assert rows.misfits == {"occurred_at": [1]}


def test_a_row_without_a_time_gets_a_hint_from_another_candidate() -> None:
    rows = read_all(
        [
            {
                "id": 1,
                "start_at": "soon",
                "date": "2025-03-04",
                "created_at": "2025-03-06 00:10:00",
            },
            {"id": 2, "start_at": "soon", "date": "later", "created_at": "2025-03-06 00:10:00"},
            {"id": 3, "start_at": "soon", "date": "31/12/2024"},
            {"id": 4, "start_at": "soon", "date": "2025-13-77"},
            {"id": 5, "start_at": "2025-03-04 10:00:00", "date": "2025-03-05"},
            {"id": 6, "start_at": "2025-03-04 11:00:00 CET"},
        ]
    )
    assert rows.hint_days == [
        date(2025, 3, 4),
        date(2025, 3, 6),
        date(2024, 12, 31),
        None,
        None,
        date(2025, 3, 4),
    ]


def test_a_row_without_a_time_has_no_day_and_a_snapshot_has_no_time() -> None:
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
        # a time in the skipped hour uses the offset before the change
        ("2025-03-30 02:30:00", "2025-03-30T01:30:00Z", date(2025, 3, 30)),
        # 2025-10-26: 03:00 becomes 02:00, the day has 25 hours; the first repeated hour counts
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


def test_response_zone_and_partition_zone_may_differ() -> None:
    row = read({"id": 1, "start_at": "2025-07-01 23:30:00"}, response_zone=ZoneInfo("UTC"))
    assert (row.occurred_at, row.day) == (
        datetime(2025, 7, 1, 23, 30, tzinfo=UTC),
        date(2025, 7, 2),
    )


def declared(**changes: Any) -> Collection:
    calls = load_catalogue()["calls"].model_dump()
    return Collection.model_validate(
        calls | changes | {"columns": calls["columns"] | changes.get("columns", {})}
    )


def columns(
    row: dict[str, Any], collection: Collection | None = None
) -> tuple[dict[str, Any], set[str]]:
    """Return the columns that have a value, and the misfits."""
    collection = collection or load_catalogue()["calls"]
    parsed = read_all([START | row], collection)
    values = {
        name: values[0]
        for name, values in zip(collection.columns, parsed.columns, strict=True)
        if values[0] is not None
    }
    return values, set(parsed.misfits)


@pytest.mark.parametrize(
    ("id_paths", "row", "expected"),
    [
        (["call_id"], {"call_id": "c1", "id": "x"}, "c1"),
        ([["id", "leg"]], {"id": "c1", "leg": 2}, "c1|2"),
        ([["id", "leg.number"]], {"id": "c1", "leg": {"number": 2.0}}, "c1|2"),
        ([["id", "leg"]], {"id": "c1"}, None),
        ([["id", "leg"]], {"id": "c1", "leg": ""}, None),
        ([["id", "leg"], "id"], {"id": "c1"}, "c1"),
        ([["id", "leg"], "id"], {"id": "c1", "leg": {"of": 2}}, None),
        ([["id", "leg"], "id"], {"id": "a|b"}, "a\\|b"),
        ([["id", "leg"], "id"], {"id": "a", "leg": "b"}, "a|b"),
        (["id", "uuid"], {"id": "a|b"}, "a|b"),
    ],
)
def test_declared_id_paths(id_paths: list[Any], row: dict[str, Any], expected: str | None) -> None:
    assert read_all([row], declared(id_paths=id_paths)).ids == [expected]


@settings(deadline=None)
@given(
    parts=st.lists(
        st.tuples(*[st.text("a|\\1", min_size=1, max_size=4)] * 2),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_composite_ids_stay_distinct(parts: list[tuple[str, str]]) -> None:
    ids = read_all(
        [{"id": first, "leg": second} for first, second in parts],
        declared(id_paths=[["id", "leg"]]),
    ).ids
    assert len(set(ids)) == 2


def test_declared_account_paths() -> None:
    collection = declared(account_paths=["client.ref"])
    assert read_all(
        [{"client": {"ref": 7}, "account": {"id": "x"}}, {"client": {}}], collection
    ).account_ids == ["7", None]


@pytest.mark.parametrize(
    "account",
    [{"name": "A"}, {"id": {"x": 1}}, ["acc-1", "acc-2"], [{"id": 1}, {"id": 2}], True, "a" * 513],
)
def test_an_unreadable_account_is_a_misfit_unless_another_candidate_has_one(
    account: object,
) -> None:
    rows = read_all(
        [START | {"account": account}, START | {"account": account, "account_id": "acc-9"}, START]
    )
    assert rows.account_ids == [None, "acc-9", None]
    assert rows.misfits["account_id"] == [0]


@pytest.mark.parametrize("account", [None, "", [], {}])
def test_an_empty_account_is_none(account: object) -> None:
    rows = read_all([START | {"account": account}])
    assert (rows.account_ids, rows.misfits) == ([None], {})


@pytest.mark.parametrize(
    "row",
    [
        {"caller": {"number": "+33 1"}},
        {"callerNumber": "+33 1"},
        {"CallerNumber": "+33 1"},
        {"caller-number": "+33 1"},
        {"Caller Number": "+33 1"},
        {"CALLER_NUMBER": "+33 1"},
        {"caller.number": "+33 1"},
        {"Caller": {"Number": "+33 1"}},
        {"caller": [{"NUMBER": "+33 1"}]},
        {"callerNumber": "+33 2", "caller_number": "+33 1"},
        {"caller_number": None, "callerNumber": "+33 1"},
        {"CallerNumber": "+33 1", "callerNumber": "+33 2"},
    ],
)
def test_names_in_any_convention(row: dict[str, Any]) -> None:
    assert columns(row)[0]["caller_number"] == "+33 1"
    parser = RowParser(load_catalogue()["calls"], response_zone=PARIS, partition_zone=PARIS)
    assert parser.unknown(row) == set()


@pytest.mark.parametrize(
    "row",
    [
        {"callers_number": "+33 1"},
        {"number_caller": "+33 1"},
        {"call_number": "+33 1"},
        {"càller": "+33 1"},
    ],
)
def test_different_names_do_not_match(row: dict[str, Any]) -> None:
    assert columns(row) == ({}, set())
    parser = RowParser(load_catalogue()["calls"], response_zone=PARIS, partition_zone=PARIS)
    assert parser.unknown(row) == set(row)


def test_names_are_matched_row_by_row_on_one_page() -> None:
    rows = read_all(
        [
            {"id": 1, "startedAt": "2025-03-01 10:00:00"},
            {"id": 2, "started_at": "2025-03-02 10:00:00", "startedAt": "2025-03-01 10:00:00"},
            {"id": 3, "StartAt": "2025-03-03 10:00:00", "started_at": "2025-03-01 10:00:00"},
        ]
    )
    assert [day.day if day else None for day in rows.days] == [1, 2, 3]


def test_the_exact_declared_name_has_priority_over_other_spellings() -> None:
    collection = declared(columns={"ref": {"paths": ["our_ref", "ourRef"]}})
    assert columns({"OurRef": "a", "ourRef": "b"}, collection)[0]["ref"] == "b"


@pytest.mark.parametrize(
    ("row", "expected", "misfits"),
    [
        ({"recipient": "rec-1"}, {"recipient_id": "rec-1"}, set()),
        ({"recipient": 17}, {"recipient_id": "17"}, set()),
        ({"recipient": ["rec-1"]}, {"recipient_id": "rec-1"}, set()),
        (
            {"recipient": [{"id": "rec-1", "number": "0033"}]},
            {"recipient_id": "rec-1", "recipient_number": "0033"},
            set(),
        ),
        ({"recipient": ["rec-1", "rec-2"]}, {}, {"recipient_id", "recipient_number"}),
        # a phone number, an address or a name is not an id
        ({"recipient": "+33199000001"}, {}, {"recipient_id", "recipient_number"}),
        ({"recipient": "Jean Dupont"}, {}, {"recipient_id", "recipient_number"}),
        ({"recipient": []}, {}, set()),
        ({"number": "num-1"}, {"number_id": "num-1"}, set()),
        ({"number": "0033199"}, {"number": "0033199"}, set()),
        ({"number": "+33 1 99 00"}, {"number": "+33 1 99 00"}, set()),
        ({"number": 33612345678.0}, {"number": "33612345678"}, set()),
        ({"number": ["0033199"]}, {"number": "0033199"}, set()),
        (
            {"number": "num-1", "called_number": "0033199"},
            {"number_id": "num-1", "number": "0033199"},
            set(),
        ),
        ({"number": {"id": "num-1"}}, {"number_id": "num-1"}, {"number"}),
        ({"number": [1, 2]}, {}, {"number"}),
        ({"status": {"label": "completed"}}, {}, {"status"}),
        ({"status": {"label": "completed"}, "state": "completed"}, {"status": "completed"}, set()),
        ({"caller": "0033"}, {"caller_number": "0033"}, set()),
        ({"channel": ["SEO"]}, {"channel": "SEO"}, set()),
        ({"visit": "vis-1"}, {"visit_id": "vis-1"}, set()),
        ({"analysis": "none"}, {"analysis": '"none"'}, set()),
        ({"analysis": []}, {"analysis": "[]"}, set()),
    ],
)
def test_objects_that_became_scalars_and_scalars_that_became_objects(
    row: dict[str, Any], expected: dict[str, Any], misfits: set[str]
) -> None:
    assert columns(row) == (expected, misfits)


def test_a_scalar_in_place_of_an_object_is_a_misfit_of_its_columns() -> None:
    values, misfits = columns({"utm": "google"})
    assert values == {}
    assert {"utm_source", "utm_medium", "gclid"} <= misfits


def test_a_label_is_not_an_id() -> None:
    collection = declared(columns={"channel_id": {"paths": ["channel.id"]}})
    assert columns({"channel": "SEO"}, collection)[0] == {"channel": "SEO"}
    assert columns({"channel": "cha-1"}, collection)[0] == {"channel_id": "cha-1"}


@pytest.mark.parametrize(
    ("received", "seconds"),
    [
        ("00:03:21", 201),
        ("03:21", 201),
        ("3:21", 201),
        ("75:30", 4530),
        ("1:00:00", 3600),
        ("00:03:20.6", 201),
        ("PT3M21S", 201),
        ("pt201s", 201),
        ("P1DT1H", 90000),
        ("PT0S", 0),
        ("201 s", 201),
        ("3 min 21 s", 201),
        ("3m21s", 201),
        ("1h", 3600),
        ("201000 ms", 201),
        ("201", 201),
        (201, 201),
        (201.0, 201),
        (Decimal("201.0"), 201),
        ("00:75:00", None),
        ("3:21:", None),
        ("P", None),
        ("PT", None),
        ("P1Y", None),
        ("", None),
        ("99999999999999999999", None),
        (10**4000, None),
        (Decimal("1E+400"), None),
    ],
)
def test_durations_in_seconds(received: object, seconds: int | None) -> None:
    values, misfits = columns({"duration": received})
    assert values.get("duration_seconds") == seconds
    assert misfits == (set() if seconds is not None else {"duration_seconds"})


@pytest.mark.parametrize(
    ("received", "seconds"),
    [
        (201000, 201),
        ("201000", 201),
        (201400.0, 201),
        ("00:03:21", 201),
        ("PT3M21S", 201),
        ("201 s", 201),
    ],
)
def test_declared_milliseconds_are_converted(received: object, seconds: int) -> None:
    column = {
        "type": "integer",
        "unit": "seconds",
        "received_unit": "milliseconds",
        "paths": ["duration"],
    }
    assert columns({"duration": received}, declared(columns={"duration_seconds": column}))[0] == {
        "duration_seconds": seconds
    }


def test_clock_notation_requires_a_column_with_a_unit() -> None:
    collection = declared(columns={"score": {"type": "integer", "paths": ["score"]}})
    assert columns({"score": "03:21"}, collection) == ({}, {"score"})


@pytest.mark.parametrize(
    "received",
    [33612345678, 33612345678.0, Decimal("33612345678.0"), "33612345678.0", " 33612345678 "],
)
def test_a_phone_number_that_was_converted_to_a_float(received: object) -> None:
    assert columns({"caller_number": received})[0] == {"caller_number": "33612345678"}


def test_numbers_keep_every_digit() -> None:
    digits = "340282366920938463463374607431768211455"
    assert columns({"visit_id": Decimal(digits), "number_id": int(digits)})[0] == {
        "visit_id": digits,
        "number_id": digits,
    }
    assert as_decimal(Decimal("12345678901234567.89")) == Decimal("12345678901234567.89")
    assert as_text(Decimal("48.858370123456789012")) == "48.858370123456789012"
    assert as_text(10**5000) == f"1{'0' * 5000}"


@pytest.mark.parametrize(
    ("received", "fits"),
    [
        ("0." + "1" * 999, True),
        ("0." + "1" * 20_000, False),
        (Decimal("1" * 1000), True),
        (Decimal("1" * 1001), False),
        (Decimal("1E-16383"), True),
        (Decimal("1E-16384"), False),
        (Decimal("1E+999"), True),
        (Decimal("1E+1000"), False),
        (Decimal("NaN"), False),
        (10**1001, False),
    ],
)
def test_decimals_that_postgresql_accepts(received: object, fits: bool) -> None:
    assert (as_decimal(received) is not None) is fits


def test_known_members_are_the_declared_top_level_names(
    catalogue: Catalogue,
) -> None:
    parser = RowParser(catalogue["calls"], response_zone=PARIS, partition_zone=PARIS)
    known = known_members(parser)
    assert {"id", "account", "start_at", "utm", "utm_source", "caller_number"} <= known
    assert not [member for member in known if "." in member]
    assert "fax" not in known


no_deadline = settings(deadline=None)
"""Tests may be slow on a busy machine."""

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.datetimes().map(str)
)
json = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
MEMBERS = sorted(
    {
        part
        for c in load_catalogue().enabled
        for column in c.columns.values()
        for path in column.paths
        for part in path.split(".")
    }
)
members = st.sampled_from(
    [*MEMBERS, "id", "uuid", "account", "account_id", "start_at", "created_at", "date"]
)
rows = st.dictionaries(
    members | st.text(max_size=5), json | st.dictionaries(members, json, max_size=3), max_size=8
)


@pytest.mark.parametrize("collection", ["calls", "emails", "email_alerts", "conversions"])
@no_deadline
@given(row=rows)
def test_the_parser_accepts_any_json_object(collection: str, row: dict[str, Any]) -> None:
    parsed = read(row, collection)
    assert len(parsed.values) == len(load_catalogue()[collection].columns)
    assert (parsed.day is None) == (parsed.occurred_at is None)
    for text in (parsed.id, parsed.account_id):
        assert text is None or text


@no_deadline
@given(value=json | st.integers(min_value=10**300) | st.decimals())
def test_conversions_accept_any_value(value: object) -> None:
    integer = as_integer(value)
    assert integer is None or abs(integer) < 2**63
    number = as_decimal(value)
    assert number is None or number.is_finite()
    assert as_boolean(value) in {True, False, None}
    moment = as_moment(value, PARIS)
    assert moment is None or moment.tzinfo is not None


offsets = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@no_deadline
@given(moment=st.datetimes(datetime(1990, 1, 2), datetime(2199, 12, 30), timezones=offsets))  # noqa: DTZ001
def test_times_with_a_zone_survive_the_round_trip(moment: datetime) -> None:
    assert as_moment(moment.isoformat(), PARIS) == moment
    assert as_moment(moment.isoformat(sep=" "), PARIS) == moment


@no_deadline
@given(moment=st.datetimes(datetime(1990, 1, 2), datetime(2199, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_local_times_survive_the_round_trip_except_in_the_second_repeated_hour(
    moment: datetime,
) -> None:
    local = moment.astimezone(PARIS)
    read_back = as_moment(
        local.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds"), PARIS
    )
    assert read_back == moment.astimezone(UTC) - timedelta(hours=local.fold)


zones = st.sampled_from(
    [
        "Europe/Paris",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Africa/Casablanca",
        "UTC",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    local=st.one_of(
        st.datetimes(datetime(1989, 12, 30), datetime(2200, 1, 3)),  # noqa: DTZ001
        # near clock changes
        st.datetimes(datetime(2025, 3, 30), datetime(2025, 4, 7)),  # noqa: DTZ001
        st.datetimes(datetime(2025, 10, 4), datetime(2025, 11, 3)),  # noqa: DTZ001
    ),
    zone=zones.map(ZoneInfo),
)
def test_the_fast_path_for_times_gives_the_results_of_as_moment(
    local: datetime, zone: ZoneInfo
) -> None:
    text = local.isoformat(sep=" ", timespec="seconds")
    row = read({"id": "call-1", "start_at": text, "end_at": text}, response_zone=zone)
    assert row.occurred_at == as_moment(text, zone)
    assert value({"end_at": text}, "ended_at") == as_moment(text, PARIS)


@no_deadline
@given(moment=st.datetimes(datetime(2002, 1, 1), datetime(2190, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_unix_times_survive_the_round_trip(moment: datetime) -> None:
    seconds = int(moment.timestamp())
    expected = moment.replace(microsecond=0)
    assert (
        as_moment(seconds, PARIS)
        == as_moment(str(seconds), PARIS)
        == as_moment(seconds * 1000, PARIS)
        == expected
    )


@no_deadline
@given(
    number=st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
    )
)
def test_decimals_survive_the_round_trip_with_a_point_or_a_comma(number: Decimal) -> None:
    assert as_decimal(str(number)) == as_decimal(str(number).replace(".", ",")) == number
