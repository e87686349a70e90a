"""The envelope in every form that the undocumented API may use."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnetis_dagster.api import response as envelope
from magnetis_dagster.api.response import (
    EnvelopeError,
    EnvelopeTooLarge,
    ErrorInside,
    read_envelope,
)
from magnetis_dagster.exact_json import dump_json

ERRORS = [
    (
        {"success": False, "message": "Database unavailable", "data": []},
        500,
        "Database unavailable",
    ),
    (
        {
            "data": [],
            "errors": [{"message": "backend timeout"}],
            "meta": {"total": 0, "last_page": 1},
        },
        500,
        "timeout",
    ),
    ({"data": [], "meta": {"total": 0, "error": "index is rebuilding"}}, 500, "rebuilding"),
    ({"status": "error", "message": "Oops", "data": []}, 500, "Oops"),
    ({"status": "FAILED", "data": []}, 500, ""),
    ({"status": 503, "data": [], "message": "Maintenance"}, 503, "Maintenance"),
    ({"code": "429", "data": []}, 429, ""),
    ({"error": {"code": 500}, "data": []}, 500, ""),
    ({"error": {"code": 422, "message": "from is required"}}, 422, "from is required"),
    ({"errors": [{"status": "404", "title": "No such route"}]}, 404, "No such route"),
    ({"error": True, "data": []}, 500, ""),
    ({"ok": "false", "data": []}, 500, ""),
    ({"success": 0, "data": [], "total": 0}, 500, ""),
    ({"message": "Server Error"}, 500, "Server Error"),
    ({"data": None, "message": "Internal error"}, 500, "Internal error"),
    ({"data": {"message": "Internal error"}}, 500, "Internal error"),
    ({"data": [], "message": "Too Many Attempts."}, 429, "Too Many"),
    ({"data": [], "success": False, "message": "Daily quota exceeded"}, 429, "quota"),
    ({"success": False, "error": {"code": 400, "message": "Quota d'appels dépassé"}}, 429, "Quota"),
    ({"data": [], "message": "Unauthenticated."}, 401, "Unauthenticated"),
    ({"success": False, "error": "Invalid API key"}, 401, "Invalid API key"),
    ({"fault": {"faultstring": "This action is forbidden"}}, 403, "forbidden"),
]
"""Bodies with HTTP 200: content, the status that they should have had, and words of the message."""


def read(content, limit=250):
    return read_envelope(
        content if isinstance(content, bytes) else json.dumps(content).encode(), limit
    )


def test_numbers_of_meta_may_be_text():
    page = read(
        {"data": [], "links": {"next": None}, "meta": {"total": " 1200 ", "last_page": "5"}}
    )
    assert (page.total, page.last_page, page.has_next) == (1200, 5, False)


@pytest.mark.parametrize("odd", [None, True, "many", -1, 1.5, [], {}, "9" * 19, "²", "१"])
def test_an_invalid_total_is_unknown(odd):
    page = read({"data": [], "meta": {"total": odd, "last_page": odd}})
    assert (page.total, page.last_page, page.has_next) == (None, None, None)


@pytest.mark.parametrize(
    "missing",
    [{}, {"links": None, "meta": None}, {"links": [], "meta": []}, {"links": {}, "meta": {}}],
)
def test_links_and_meta_may_be_missing(missing):
    page = read({"data": [{"id": 1}], **missing})
    assert (page.rows, page.total, page.last_page, page.has_next) == ([{"id": 1}], None, None, None)


def test_the_older_paginator_is_read_too():
    page = read(
        {"data": [{"id": 1}], "total": 9, "last_page": 2, "next_page_url": "https://x/?page=2"}
    )
    assert (page.total, page.last_page, page.has_next) == (9, 2, True)


@pytest.mark.parametrize("rows", [[], [{"id": 1}], [{"id": 1}, {"id": 2}]])
def test_a_bare_array_announces_no_pages(rows):
    # the server may lower the page size below the limit, so a short page is not always the last one
    page = read(rows, limit=2)
    assert page.rows == rows
    assert (page.total, page.last_page, page.has_next) == (None, None, None)


def test_data_as_an_object():
    assert read({"data": {"0": {"id": "a"}, "7": {"id": "b"}}}).rows == [{"id": "a"}, {"id": "b"}]
    assert read({"data": {"id": "a", "account": {"id": 1}}}).rows == [
        {"id": "a", "account": {"id": 1}}
    ]
    assert read({"data": {}}).rows == []
    with pytest.raises(EnvelopeError, match="`data` is a single dict"):
        read({"data": {"name": "x"}})


def test_null_data_means_no_rows_only_if_none_are_announced():
    assert read({"data": None, "meta": {"total": "0"}}).rows == []
    with pytest.raises(EnvelopeError, match="null"):
        read({"data": None, "meta": {"total": 3}})


def test_rows_that_are_not_objects_are_kept():
    assert read({"data": [{"id": 1}, None, "x", [2]]}).rows == [{"id": 1}, None, "x", [2]]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"  <html>", "HTML"),
        (b'{"data": [{"id": "06123', "truncated"),
        (b'"0612345678"', "a JSON str"),
        (b"null", "a JSON NoneType"),
        (b'{"data": "0612345678"}', "a single str"),
        (b"\xff\xfe[\x00]\x00", "truncated or invalid"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_an_invalid_envelope_is_reported_without_quoting_it(body, why):
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


def test_a_byte_order_mark_is_ignored():
    page = read(b'\xef\xbb\xbf{"data": [{"id": 1}]}')
    assert (page.rows, page.replaced_characters) == ([{"id": 1}], 0)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_numbers_that_json_does_not_have_become_null(number):
    assert read(b'{"data": [{"id": "1", "value": ' + number + b"}]}").rows == [
        {"id": "1", "value": None}
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4), st.booleans())
def test_any_rows_become_storable_and_are_otherwise_unchanged(rows, ascii_only):
    page = read_envelope(
        json.dumps({"data": rows}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"), 250
    )
    stored = dump_json(page.rows)
    assert "\\u0000" not in stored.replace("\\\\", "")
    stored.encode()
    if not page.replaced_characters:
        assert page.rows == rows  # a Decimal equals the same integer


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps({"data": value, "meta": value, "links": value}).encode())
)
def test_nothing_makes_it_crash(body):
    try:
        page = read_envelope(body, 250)
    except EnvelopeError:
        return
    assert isinstance(page.rows, list)


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
def test_calls_left_according_to_the_api(key, remaining):
    body = json.dumps({"data": [], "meta": {"total": 0, "apiKey": key}}).encode()
    assert read_envelope(body, 250).remaining == remaining


@pytest.mark.parametrize(
    "fine",
    [
        {"success": True, "errors": []},
        {"status": "success", "error": None, "errors": None},
        {"status": "ok", "code": 200, "error": False, "errors": {}},
        {"success": 1, "message": "OK", "error": "", "error_code": 0},
        {"success": None, "errors": {"calls": []}, "error": {"message": ""}},
        {"meta": {"total": 0, "status": 200, "errors": []}},
        {"meta": {"total": 0}, "message": "No calls in this window."},
        {"message": "Results are limited to 250 rows a page."},
    ],
)
@pytest.mark.parametrize(
    "rows", [[], [{"id": "1", "status": "failed", "error": "no answer", "code": 500}]]
)
def test_flags_that_report_no_error(fine, rows):
    assert read({"data": rows, **fine}).rows == rows


def test_a_single_row_may_have_failed_itself():
    assert (
        read({"data": {"id": "1", "status": "failed", "error": "busy"}}).rows[0]["error"] == "busy"
    )


@pytest.mark.parametrize("body", ERRORS, ids=[str(each[0])[:60] for each in ERRORS])
def test_an_error_in_a_200_is_not_a_page(body):
    content, status, words = body
    with pytest.raises(ErrorInside) as caught:
        read(content)
    assert caught.value.status == status
    assert words in json.loads(caught.value.body)["message"]


def test_a_flagged_error_is_not_a_page_even_with_rows():
    with pytest.raises(ErrorInside):
        read(
            {
                "data": [{"id": 1}],
                "errors": [{"message": "2 of 3 shards failed"}],
                "meta": {"total": 1},
            }
        )


def test_rows_and_values_of_a_page_are_limited(monkeypatch):
    monkeypatch.setattr(envelope, "MOST_VALUES", 1_000)
    monkeypatch.setattr(envelope, "MOST_ROWS", 500)
    assert len(read([{"a": 1}] * 332).rows) == 332  # two separators per row, and the array
    with pytest.raises(EnvelopeTooLarge, match="1000 values"):
        read([{"a": 1}] * 501)
    with pytest.raises(EnvelopeTooLarge, match="501 rows for a limit of 250"):
        read([1] * 501)
    for nested in (b"[" * 2_000, b'{"a":' * 2_000, b'["' + b'","' * 2_000):
        with pytest.raises(EnvelopeTooLarge):
            read(nested)


def test_large_pages_pass():
    assert len(read({"data": [{f"member_{n}": n for n in range(1_000)}] * 250}).rows) == 250
    assert (
        len(read({"data": [{"id": 1, "body": "Dear all, [note], {x}, " * 1_000}] * 250}).rows)
        == 250
    )


@pytest.mark.parametrize("text", [",,[[{{" * 1_000, '\\",' * 1_000, "\\\\", '"'])
def test_separators_in_strings_do_not_count_as_values(monkeypatch, text):
    monkeypatch.setattr(envelope, "MOST_VALUES", 1_000)
    rows = [{"id": n, "body": text} for n in range(5)]
    assert read({"data": rows}).rows == rows


@pytest.mark.parametrize(
    "body", [b'["' + b'\\"' * 1_000_000, b'["' + b'""' * 2_000_000, b"[" + b'"",' * 2_000_000]
)
def test_counting_takes_linear_time(monkeypatch, body):
    monkeypatch.setattr(envelope, "MOST_VALUES", 100)
    began = time.process_time()
    with pytest.raises(EnvelopeError):
        read(body + b"," * 1_000)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "uneasy",
    [
        {"message": "Service temporarily unavailable"},
        {"meta": {"timed_out": True, "total": 0}},
        {"status": "timeout"},
        {"result": "unavailable"},
        {"code": "E_BACKEND_DOWN"},
        {"success": "N"},
        {"warnings": ["partial results: one of 3 shards"]},
        {"statut": "erreur"},
    ],
)
def test_an_empty_list_beside_a_reported_problem_is_an_error(uneasy):
    with pytest.raises(ErrorInside):
        read_envelope(json.dumps({"data": [], **uneasy}).encode(), 250)
    assert read_envelope(
        json.dumps({"data": [{"id": "1"}], "message": "Service temporarily unavailable"}).encode(),
        250,
    ).rows


@pytest.mark.parametrize(
    "fine",
    [
        {"error_code": "00"},
        {"error_message": "OK"},
        {"error": "No results"},
        {"message": "Aucun appel"},
    ],
)
def test_an_empty_list_without_a_reported_problem_is_an_empty_day(fine):
    assert read_envelope(json.dumps({"data": [], **fine}).encode(), 250).rows == []
