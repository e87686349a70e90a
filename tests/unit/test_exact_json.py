"""Numbers keep every digit when JSON is parsed and written.

Values that PostgreSQL cannot store are named and keep their text.
"""

import json
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnetis_dagster import exact_json
from magnetis_dagster.exact_json import (
    MOST_LEVELS,
    TOO_DEEP,
    TOO_MANY_DIGITS,
    BrokenJson,
    Unparsed,
    dump_json,
    dump_jsonb,
    dump_rows,
    fits_numeric,
    load_json,
    load_stored,
)


def load(text):
    return load_json(text if isinstance(text, bytes) else text.encode())[0]


def nested(levels, inner="1"):
    return "[" * levels + inner + "]" * levels


@pytest.mark.parametrize(
    "digits",
    [
        *(
            "0",
            "-1",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
        ),
        *(
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "340282366920938463463374607431768211455",
        ),
        *(
            "1" * 5000,
            "-" + "9" * 400,
            "48.858370123456789012",
            "12345678901234567.89",
            "0.1",
            "-0.30000000000000004",
        ),
        *(
            "1E+5",
            "1e400",
            "-1e400",
            "1e-999",
            "1E-324",
            "1.2345e-320",
            "5e-324",
            "1.7976931348623157e308",
            "1e-0000400",
        ),
        *(
            "123456789012345678901234567890e-10",
            "0.00000000000000000000000000001",
            "1e22",
            "1e23",
            "12345678901234567e0",
        ),
    ],
)
@pytest.mark.parametrize(
    "around", ["[%s]", '{"a":%s}', '{"a": [ 1 , %s\n]}', '{"a":%s,"b":"é"}', "[%s,1]"]
)
def test_numbers_keep_every_digit(digits, around):
    text = around % digits
    exact = json.loads(text, parse_int=Decimal, parse_float=Decimal)
    for received in (load(text), load_stored(text.encode()), load(dump_json(load(text)))):
        written = json.loads(dump_json(received), parse_int=Decimal, parse_float=Decimal)
        assert written == exact


NUMBERS = st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?\Z")
NOISE = st.text(st.sampled_from('0123456789.-+eE,:[]{} "\\'), max_size=40)


@given(
    st.lists(st.tuples(NUMBERS, NOISE), max_size=6), st.sampled_from([(",", ":"), (" , ", " : ")])
)
def test_any_numbers_among_any_strings(pairs, separators):
    comma, colon = separators
    text = (
        "["
        + comma.join(
            f'{{"n"{colon}{digits}{comma}{json.dumps(noise)}{colon}{digits}}}'
            for digits, noise in pairs
        )
        + "]"
    )
    exact = json.loads(text, parse_int=Decimal, parse_float=Decimal)
    assert json.loads(dump_json(load(text)), parse_int=Decimal, parse_float=Decimal) == exact


def test_numbers_that_fit_are_plain_numbers_in_every_page():
    fast, slow = (
        load("[1.5,100,1e5,18446744073709551615]"),
        load("[1.5,100,1e5,18446744073709551615,1e400]"),
    )
    assert list(map(type, fast)) == [float, int, float, int]
    assert slow == [*fast, Decimal("1e400")]
    assert list(map(type, slow[:4])) == list(map(type, fast))


def test_minus_zero_and_zero():
    assert dump_json(load("[-0.0,0e5,-0,0e200000]")) == "[-0.0,0.0,0,0.0]"


@pytest.mark.parametrize(
    "text",
    [
        " [1]\n",
        '{"id":"1234567890123456.1"}',
        "[12345678901234567]",
        "[9876543210987654321]",
        '["1e-999"]',
    ],
)
def test_pages_without_such_numbers_are_parsed_by_orjson(monkeypatch, text):
    monkeypatch.setattr(exact_json, "_parse", None)
    assert load(text) == orjson.loads(text)


@pytest.mark.parametrize(
    ("number", "fits"),
    [
        ("1" * 131_072, True),
        ("1" * 131_073, False),
        ("0." + "1" * 16_383, True),
        ("0." + "1" * 16_384, False),
        ("1" * 131_072 + ".1", False),
        ("1e1000", True),
        ("1e1001", False),
        ("1e-1000", True),
        ("1e-1001", False),
        ("1e131071", False),
        ("-0." + "1" * 16_382 + "E-1", True),
        ("1." + "1" * 131_071 + "E+1000", False),
        ("NaN", False),
        ("Infinity", False),
        ("-0", True),
    ],
)
def test_numbers_that_postgresql_stores(number, fits):
    assert fits_numeric(Decimal(number)) is fits


@pytest.mark.parametrize(
    "number",
    [
        "1e1001",
        "1" * 140_000,
        "0." + "1" * 20_000,
        "1e99999999999999999999999",
        "-1e-99999999999999999999",
    ],
)
def test_other_numbers_are_named_and_keep_their_text(number):
    text, reason = dump_jsonb(load(f'{{"id":"1","x":[{number}]}}'))
    assert reason == TOO_MANY_DIGITS
    written = json.loads(text, parse_int=str, parse_float=str)["x"][0]
    assert written == number or Decimal(written) == Decimal(number)


def test_orjson_writes_most_levels():
    assert dump_jsonb(load(nested(MOST_LEVELS))) == (nested(MOST_LEVELS), None)
    with pytest.raises(TypeError):
        orjson.dumps(load(nested(MOST_LEVELS + 1)))


@pytest.mark.parametrize("levels", [MOST_LEVELS + 1, 400, 1_000, 1_030, 5_000, 100_000])
@pytest.mark.parametrize("inner", ["1", '"a\\"]"', "99999999999999999999.5"])
def test_deep_values_are_named_and_keep_their_text(levels, inner):
    text = f'{{"id":"1","é":{nested(levels, inner)},"name":"[{{"}}'
    row = load(f'{{"data":[{text},{{"id":"2"}}]}}')["data"][0]
    assert (row["id"], row["name"]) == ("1", "[{")
    assert dump_jsonb(row) == (text, TOO_DEEP)


def test_deep_objects_too():
    text = '{"id":"1","x":%s}' % ('{"a":' * 2_000 + "null" + "}" * 2_000)
    assert dump_jsonb(load(f"[{text}]")[0]) == (text, TOO_DEEP)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 2_000,
        "[" * 2_000 + "]" * 1_999,
        "]" * 2_000,
        '["' + "[" * 2_000,
        "{" * 2_000 + "}" * 2_000,
    ],
)
def test_broken_deep_json_is_broken(text):
    with pytest.raises(BrokenJson):
        load(text)


def test_rows_are_written_the_same_one_by_one_and_together():
    rows = [
        {"a": 1.5},
        {"b": Decimal("1e400")},
        {"c": Unparsed(nested(300))},
        {"d": 2**70, "e": "é\n"},
        {"f": Decimal("1e2000")},
    ]
    texts, reasons = dump_rows(rows)
    assert [(text, reasons.get(number)) for number, text in enumerate(texts)] == [
        dump_jsonb(row) for row in rows
    ]
    assert reasons == {2: TOO_DEEP, 4: TOO_MANY_DIGITS}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_the_writer_without_recursion_writes_the_same(value):
    written, reason = exact_json._write(value)
    assert reason is None
    assert json.loads(written) == value
    assert exact_json._write(value, sort=True)[0] == dump_json(value, sort=True)
    assert json.loads(dump_json(value, sort=True)) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\ud800\u0000", "\ufffd\ufffd"),
        (r"\\ud83d\ude00", "\\ud83d\ufffd"),
        (r"\\\ud83d\ude00", "\\😀"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\uDC00x\uDBFF", "\ufffdx\ufffd"),
    ],
)
def test_surrogates_among_backslashes(text, expected):
    content, replaced = load_json(f'{{"{text}":"{text}"}}'.encode())
    assert content == {expected: expected}
    assert replaced == 2 * expected.count("\ufffd")


@pytest.mark.parametrize("rest", ["", ',"b":1e400', ',"b":"\\u0000"'])
def test_the_last_of_two_members_with_the_same_name_counts(rest):
    assert load(f'{{"a":1,"a":2{rest}}}')["a"] == 2
