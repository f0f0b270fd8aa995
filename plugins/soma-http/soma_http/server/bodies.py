"""Reading the body of a request, up to a limit, whatever its headers say."""

from __future__ import annotations

import zlib

from starlette.requests import Request

from soma_http.server.refusals import Refusal

_WINDOWS = {"gzip": 31, "deflate": 15}


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request, decompressed.

    Raises:
        Refusal: It is larger than the limit, or cannot be decompressed.
    """
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    encoding = request.headers.get("content-encoding", "identity").lower()
    return body if encoding == "identity" else _decompressed(body, encoding, limit)


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding not in _WINDOWS:
        raise Refusal(f"the content encoding {encoding!r} is not known; use gzip", 415)
    decompressor = zlib.decompressobj(_WINDOWS[encoding])
    try:
        whole = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refusal(f"the body is not {encoding}: {error}") from None
    if len(whole) > limit:
        raise _too_large(limit)
    if not decompressor.eof or decompressor.unused_data:
        raise Refusal(f"the body is not one {encoding} from start to end")
    return whole


def _too_large(limit: int) -> Refusal:
    return Refusal(f"the body is larger than the limit of {limit:,} bytes", 413)
