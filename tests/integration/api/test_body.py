"""Response bodies in every requested compression and every charset, over real HTTP."""

import codecs
import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import raw

from magnetis_dagster import api
from magnetis_dagster.api.response import read_envelope
from magnetis_dagster.api.response_body import to_utf8

ROWS = [{"id": "1", "name": "Hélène Çà"}]
PAGE = json.dumps({"data": ROWS, "meta": {"total": 1}}, ensure_ascii=False)
UTF8 = PAGE.encode()


def gzip_compress(data):
    return gzip.compress(data, mtime=0)  # test ids must not contain the time


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def gzip_members(data, size):
    return b"".join(
        gzip_compress(data[start : start + size]) for start in range(0, len(data), size)
    )


def receive(request_page, body, **headers):
    exchange = request_page(raw(200, body, **headers))
    assert exchange.page is not None, exchange.error
    # a stored page is parsed again from its body alone
    again = read_envelope(exchange.page.body, 250)
    assert (again.rows, again.replaced_characters) == (
        exchange.page.rows,
        exchange.page.replaced_characters,
    )
    return exchange.page


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip_compress(UTF8)),
        ("x-gzip", gzip_members(UTF8, 1)),
        ("gzip", gzip_members(UTF8, 7)),
        ("gzip", gzip_members(UTF8, 40) + b"\0" * 512),
        ("GZIP", gzip_compress(b"") + gzip_compress(UTF8) + gzip_compress(b"")),
        ("deflate", zlib.compress(UTF8)),
        ("deflate", zlib.compress(UTF8, 9)),
        ("deflate", raw_deflate(UTF8)),
        ("identity", UTF8),
    ],
)
def test_compressions(request_page, encoding, body):
    assert receive(request_page, body, content_encoding=encoding).rows == ROWS


def test_a_body_that_arrives_byte_by_byte(request_page):
    for body, encoding in ((gzip_members(UTF8, 30), "gzip"), (raw_deflate(UTF8), "deflate")):
        chunked = (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: "
            + encoding.encode()
            + b"\r\n\r\n"
        )
        chunked += b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        assert request_page(chunked).page.rows == ROWS


@pytest.mark.parametrize(
    ("encoding", "body", "why"),
    [
        ("gzip", gzip_members(UTF8, 20)[:-3], "truncated"),
        ("gzip", gzip_compress(UTF8) + gzip_compress(b"x")[:5], "truncated"),
        ("gzip", gzip_compress(UTF8) + b"garbage", "broken"),
        ("deflate", raw_deflate(UTF8)[:-3], "truncated"),
        ("gzip", b"\x1f", "truncated"),
        ("deflate", UTF8, "broken"),
        ("gzip, gzip", gzip_compress(gzip_compress(UTF8)), "not requested"),
    ],
)
def test_broken_compressions(request_page, encoding, body, why):
    exchange = request_page(raw(200, body, content_encoding=encoding))
    assert type(exchange.error) is api.UnexpectedResponse
    assert why in str(exchange.error)


def test_bombs_of_many_members_end_at_the_cap(request_page):
    limits = api.ClientLimits(attempts=1, body_bytes=2**20)
    full = gzip_compress(b" " * 2**19) * 4
    empty = gzip_compress(b"") * 60_000
    for body in (full, empty):
        assert (
            type(request_page(raw(200, body, content_encoding="gzip"), limits=limits).error)
            is api.ResponseTooLarge
        )


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        *(
            ("ISO-8859-1", "latin-1"),
            ("iso-8859-15", "iso-8859-15"),
            ('"Windows-1252"', "cp1252"),
            ("macintosh", "mac-roman"),
        ),
        *(
            ("utf-16", "utf-16"),
            ("UTF-16LE", "utf-16-le"),
            ("utf-16be", "utf-16-be"),
            ("utf-32", "utf-32"),
            ("utf-7", "utf-7"),
        ),
        *(
            ("utf-8", "utf-8"),
            ("utf-8", "utf-8-sig"),
            ("UTF8", "utf-8"),
            ("utf-8", "utf-16"),
            ("utf-8", "utf-32-le"),
        ),
        *(
            ("us-ascii", "utf-8"),
            ("iso-8859-1", "utf-8"),
            ("utf-16", "utf-8"),
            ("klingon", "utf-8"),
            ("unicode_escape", "utf-8"),
        ),
        *(
            ("rot13", "utf-8"),
            ("hex", "utf-8"),
            ("idna", "utf-8"),
            ("", "utf-8"),
            ("../x", "utf-8"),
            ("cp500", "cp500"),
        ),
    ],
)
def test_declared_charsets(request_page, charset, codec):
    page = receive(
        request_page, PAGE.encode(codec), content_type=f"application/json; charset={charset}"
    )
    assert (page.rows, page.replaced_characters) == (ROWS, 0)


@pytest.mark.parametrize(
    "codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"]
)
def test_unicode_without_a_declaration(request_page, codec):
    page = receive(request_page, PAGE.encode(codec), content_type="application/json")
    assert (page.rows, page.replaced_characters) == (ROWS, 0)


@pytest.mark.parametrize("codec", ["shift_jis", "gb18030", "iso-2022-jp", "euc-kr", "big5"])
def test_charsets_of_several_bytes(request_page, codec):
    text = '{"data":[{"id":"1","name":"日本"}]}'
    assert (
        receive(
            request_page, text.encode(codec), content_type=f"application/json; charset={codec}"
        ).rows[0]["name"]
        == "日本"
    )


def test_bytes_that_are_invalid_in_the_charset_are_replaced_and_counted(request_page):
    body = b'{"data":[{"id":"1","name":"\xe9x\x81"}]}'
    page = receive(request_page, body, content_type="application/json; charset=cp1252")
    assert (page.rows[0]["name"], page.replaced_characters) == ("éx\ufffd", 1)
    page = receive(request_page, body, content_type="application/json; charset=nobody-knows-it")
    assert (page.rows[0]["name"], page.replaced_characters) == ("\ufffdx\ufffd", 2)


def test_a_body_that_grows_past_the_cap_in_utf8(request_page):
    body = b'{"data":[{"id":"' + b"\xe9" * 700 + b'"}]}'
    limits = api.ClientLimits(attempts=1, body_bytes=1_000)
    assert (
        type(
            request_page(
                raw(200, body, content_type="application/json; charset=latin-1"), limits=limits
            ).error
        )
        is api.ResponseTooLarge
    )


@given(
    st.binary(max_size=60),
    st.sampled_from(
        [None, "latin-1", "utf-16", "cp1252", "utf-7", "big5", "cp037", "x", "\0", "hz"]
    ),
)
def test_nothing_makes_it_crash(body, charset):
    once = to_utf8(body, charset)
    assert isinstance(once, bytes)
    # a body that begins as a page is UTF-8 now and stays so
    if once.startswith(b"{") and b"\0" not in once[:4] and not once.startswith(codecs.BOM_UTF8):
        assert to_utf8(once, None) == once
