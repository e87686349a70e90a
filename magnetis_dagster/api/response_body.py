"""Read a response body: decompress it within a size limit and convert it to UTF-8.

The limit stops decompression bombs and endless responses early.
"""

import codecs
import json
import zlib

import httpx

from magnetis_dagster.api.response import EnvelopeError

ACCEPT_ENCODING = "gzip, deflate"
"""Encodings that `read_body` decompresses within a limit. httpx would expand a whole chunk, a
thousandfold for a bomb."""
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_RAW_DEFLATE = -zlib.MAX_WBITS
_NOT_A_CHARSET = {"idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined"}
"""Python's own text codecs; some need quadratic time."""


async def read_body(response: httpx.Response, cap: int) -> bytes | None:
    """Return the decompressed body in UTF-8; None if it exceeds `cap` bytes.

    The rest of a larger body is not read.

    Raises: EnvelopeError if the compression is unknown or broken; the errors of httpx.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip", "deflate", ""}:
        raise EnvelopeError("a compression that was not requested")
    inflate = _Inflate() if encoding not in {"identity", ""} else None
    parts: list[bytes] = []
    received, room = 0, cap
    try:
        async for chunk in response.aiter_raw():
            received += len(chunk)
            part = inflate.decompress(chunk, room + 1) if inflate else chunk
            room -= len(part)
            if room < 0 or received > cap:
                return None
            parts.append(part)
    except zlib.error:
        raise EnvelopeError("a broken compressed stream") from None
    if inflate and received and not inflate.complete:
        raise EnvelopeError("a truncated compressed stream")
    body = to_utf8(b"".join(parts), response.charset_encoding)
    return body if len(body) <= cap else None


def to_utf8(body: bytes, charset: str | None) -> bytes:
    """Return JSON text in UTF-8 without a byte order mark.

    `charset` is the one that Content-Type declares. The bytes take precedence over it. JSON in
    UTF-16 or UTF-32 begins with a byte order mark or with zero bytes. Valid UTF-8 beyond ASCII is
    UTF-8. Bytes that are invalid in the charset stay unchanged.
    """
    found = json.detect_encoding(body)
    if found not in {"utf-8", "utf-8-sig"}:
        return _transcoded(body, found, "surrogatepass")
    if found == "utf-8-sig":
        return body.removeprefix(codecs.BOM_UTF8)
    if charset is None or charset in {"utf-8", "utf8"} or _is_utf8_beyond_ascii(body):
        return body
    return _transcoded(body, charset, "surrogateescape")


def _transcoded(body: bytes, charset: str, errors: str) -> bytes:
    try:
        if codecs.lookup(charset).name.replace("-", "_") in _NOT_A_CHARSET:
            return body
        text = body.decode(charset, errors)
        # a page is an object or an array; any other beginning means that the charset is wrong
        return text.encode("utf-8", errors) if text.lstrip()[:1] in {"{", "["} else body
    except (LookupError, ValueError):
        return body  # an unknown charset, or not the body's: read as UTF-8


def _is_utf8_beyond_ascii(body: bytes) -> bool:
    try:
        return not body.isascii() and bool(body.decode())
    except UnicodeDecodeError:
        return False


class _Inflate:
    """Decompresses gzip of any number of members, zlib and raw deflate."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._first = b""
        """Bytes received before the format of the stream was known."""
        self._begun = False

    @property
    def complete(self) -> bool:
        return self._stream.eof

    def decompress(self, chunk: bytes, most: int) -> bytes:
        """Return at most `most` decompressed bytes of `chunk`. Raises zlib.error."""
        if not self._begun:
            self._first += chunk
            if len(self._first) < 2:
                return b""
            # the two bytes of a zlib header are a multiple of 31; gzip begins with 1f 8b
            is_zlib = (
                self._first[0] & 15 == zlib.DEFLATED
                and int.from_bytes(self._first[:2], "big") % 31 == 0
            )
            if not is_zlib and self._first[:2] != b"\x1f\x8b":
                self._stream = zlib.decompressobj(_RAW_DEFLATE)
            chunk, self._begun = self._first, True
        parts = []
        while chunk and most:
            if self._stream.eof:
                # files are padded with zeros after the last member
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    break
                self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
            part = self._stream.decompress(chunk, most)
            most -= len(part)
            parts.append(part)
            chunk = self._stream.unused_data
        return b"".join(parts)
