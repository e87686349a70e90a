"""The envelope in every form that the unknowns of the API allow."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnetis_dagster.api.envelope import EnvelopeError, read_envelope


def read(content, limit=250):
    return read_envelope(content if isinstance(content, bytes) else json.dumps(content).encode(), limit)


def test_numbers_of_meta_may_be_text():
    page = read({"data": [], "links": {"next": None}, "meta": {"total": " 1200 ", "last_page": "5"}})
    assert (page.total, page.last_page, page.has_next) == (1200, 5, False)


@pytest.mark.parametrize("odd", [None, True, "many", -1, 1.5, [], {}, "9" * 19, "²", "१"])
def test_a_total_that_is_no_count_is_unknown(odd):
    page = read({"data": [], "meta": {"total": odd, "last_page": odd}})
    assert (page.total, page.last_page, page.has_next) == (None, None, None)


@pytest.mark.parametrize("missing", [{}, {"links": None, "meta": None}, {"links": [], "meta": []}, {"links": {}, "meta": {}}])
def test_links_and_meta_may_be_missing(missing):
    page = read({"data": [{"id": 1}], **missing})
    assert (page.rows, page.total, page.last_page, page.has_next) == ([{"id": 1}], None, None, None)


def test_the_older_paginator_is_read_too():
    page = read({"data": [{"id": 1}], "total": 9, "last_page": 2, "next_page_url": "https://x/?page=2"})
    assert (page.total, page.last_page, page.has_next) == (9, 2, True)


def test_a_bare_array_is_one_page_unless_it_is_full():
    assert read([{"id": 1}]).last_page == 1
    assert read([{"id": 1}]).has_next is False
    full = read([{"id": 1}, {"id": 2}], limit=2)
    assert (full.last_page, full.has_next, full.total) == (None, None, None)


def test_data_as_an_object():
    assert read({"data": {"0": {"id": "a"}, "7": {"id": "b"}}}).rows == [{"id": "a"}, {"id": "b"}]
    assert read({"data": {"id": "a", "account": {"id": 1}}}).rows == [{"id": "a", "account": {"id": 1}}]
    assert read({"data": {}}).rows == []
    with pytest.raises(EnvelopeError, match="`data` is a single dict"):
        read({"data": {"name": "x"}})


def test_null_data_is_no_rows_only_where_none_are_announced():
    assert read({"data": None, "meta": {"total": "0"}}).rows == []
    with pytest.raises(EnvelopeError, match="null"):
        read({"data": None, "meta": {"total": 3}})


def test_rows_that_are_no_objects_are_kept():
    assert read({"data": [{"id": 1}, None, "x", [2]]}).rows == [{"id": 1}, None, "x", [2]]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"  <html>", "HTML"),
        (b'{"data": [{"id": "06123', "cut short"),
        (b'"0612345678"', "a JSON str"),
        (b"null", "a JSON NoneType"),
        (b'{"data": "0612345678"}', "a single str"),
        (b"\xff\xfe[\x00]\x00", "cut short or broken"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[" * 900 + b'"\\u0000"' + b"]" * 900, "nested too deeply"),
    ],
)
def test_what_is_no_envelope_is_told_without_quoting_it(body, why):
    with pytest.raises(EnvelopeError, match=why) as caught:
        read(body)
    assert "0612" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected", "count"),
    [
        (b"a\\u0000b", "a\ufffdb", 1),
        (b"\\ud83d", "\ufffd", 1),
        (b"\\udc00\\ud800", "\ufffd\ufffd", 2),
        (b"\\ud83d\\ude00", "😀", 0),
        (b"caf\xe9", "caf\ufffd", 1),
        (b"\xef\xbf\xbd\\u0000", "\ufffd\ufffd", 1),
        (b"\\\\u0000", "\\u0000", 0),
        (b"raw\nline", "raw\nline", 0),
    ],
)
def test_what_postgresql_cannot_store_is_replaced_and_counted(text, expected, count):
    page = read(b'{"data": [{"id": "1", "name": "' + text + b'"}]}')
    assert page.rows == [{"id": "1", "name": expected}]
    assert page.replaced_characters == count


def test_member_names_are_cleaned_too():
    page = read(b'{"data": [{"na\\u0000me": 1}]}')
    assert page.rows == [{"na\ufffdme": 1}]
    assert page.replaced_characters == 1


def test_a_byte_order_mark_is_passed_over():
    page = read(b'\xef\xbb\xbf{"data": [{"id": 1}]}')
    assert (page.rows, page.replaced_characters) == ([{"id": 1}], 0)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (b"9007199254740993", 9007199254740993),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", "18446744073709551616"),
        (b"-9223372036854775808", -(2**63)),
        (b"-9223372036854775809", "-9223372036854775809"),
        (b"1" * 5000, "1" * 5000),
    ],
)
def test_big_ids_keep_every_digit(number, expected):
    assert read(b'{"data": [{"id": ' + number + b"}]}").rows == [{"id": expected}]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_json_does_not_have_become_null(number):
    assert read(b'{"data": [{"id": "1", "value": ' + number + b"}]}").rows == [{"id": "1", "value": None}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4), st.booleans())
def test_any_rows_arrive_storable_and_otherwise_untouched(rows, ascii_only):
    page = read_envelope(json.dumps({"data": rows}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"), 250)
    stored = json.dumps(page.rows, ensure_ascii=False).encode()
    assert b"\\u0000" not in stored.replace(b"\\\\", b"")
    if not page.replaced_characters and not any(abs(number) >= 2**63 for number in _integers(rows)):
        assert page.rows == rows


@given(st.binary() | JSON.map(lambda value: json.dumps({"data": value, "meta": value, "links": value}).encode()))
def test_nothing_makes_it_crash(body):
    try:
        page = read_envelope(body, 250)
    except EnvelopeError:
        return
    assert isinstance(page.rows, list)


def _integers(value):
    if isinstance(value, int):
        return [value]
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [number for member in members for number in _integers(member)]


@pytest.mark.parametrize(
    ("key", "remaining"),
    [
        ({"id": "key-1", "remaining": 12}, 12),
        ({"id": "key-1", "quota": {"remaining": "12"}}, 12),
        ({"id": "key-1", "calls_remaining": 0}, 0),
        ({"id": "key-1", "remaining": -1}, None),
        ({"id": "key-1", "limit": 5000}, None),
        ("key-1", None),
        (None, None),
    ],
)
def test_calls_left_by_the_apis_own_word(key, remaining):
    body = json.dumps({"data": [], "meta": {"total": 0, "apiKey": key}}).encode()
    assert read_envelope(body, 250).remaining == remaining
