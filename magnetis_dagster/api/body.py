"""Reading the body of an answer under a cap: compressed bombs and endless streams stop here, before they fill the memory."""

import zlib

import httpx

from magnetis_dagster.api.envelope import EnvelopeError

ACCEPT_ENCODING = "gzip, deflate"
"""What `read_body` can undo within a cap; httpx would expand a whole chunk at once, a thousandfold for a bomb."""
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


async def read_body(response: httpx.Response, cap: int) -> bytes | None:
    """Return the decompressed body, or None where it would pass `cap` bytes; the rest is left unread.

    Raises EnvelopeError (unknown or broken compression) and the errors of httpx.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip", "deflate", ""}:
        raise EnvelopeError("a compression that was not asked for")
    inflate = zlib.decompressobj(_GZIP_OR_ZLIB) if encoding not in {"identity", ""} else None
    parts: list[bytes] = []
    room = cap
    try:
        async for chunk in response.aiter_raw():
            part = inflate.decompress(chunk, room + 1) if inflate else chunk
            room -= len(part)
            if room < 0:
                return None
            parts.append(part)
    except zlib.error:
        raise EnvelopeError("a broken compressed stream") from None
    if inflate and parts and not inflate.eof:
        raise EnvelopeError("a compressed stream that ends too early")
    return b"".join(parts)
