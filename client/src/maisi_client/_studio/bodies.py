"""Read the bodies of requests, JSON or voxels, up to a limit."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from .._arguments import MaskArguments, complete, sizes_text
from .._datasets.plan import parse_argument
from .._errors import InvalidRequest
from .._validation import JSON_BYTES, read_json
from .errors import Refused

_GZIP = 16 + zlib.MAX_WBITS  # selects the gzip format in zlib
_PICTURES = ("mask", "source")  # ids of pictures, whereas arguments would be paths


async def read_object(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request's body; raises `Refused` for any other body."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > JSON_BYTES:
            raise Refused(413, "too_large", f"more than {JSON_BYTES} bytes of JSON were sent")
    try:
        return read_json(bytes(content))
    except (ValueError, UnicodeDecodeError):
        raise Refused(400, "invalid_request", "the body is not a JSON object") from None


def read_ids(body: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the ids of mask and source in a request, each may be None; raises `InvalidRequest`."""
    for name in _PICTURES:
        if not isinstance(body.get(name), (str, type(None))):
            raise InvalidRequest(f"{name} is not the id of a picture")
    return body.get("mask"), body.get("source")


def read_arguments(body: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return the arguments of a request for `Client.generate` or `Client.mask`, with a seed.

    An anatomy becomes a text, as in commands and plans. Raises `InvalidRequest` for a name or a
    value that the method does not accept.
    """
    arguments = body.get("arguments", {})
    if not isinstance(arguments, dict):
        raise InvalidRequest("arguments is not an object")
    values = {}
    for name, value in arguments.items():
        if name in _PICTURES:
            raise InvalidRequest(f"{name} is an id outside of the arguments")
        if value is not None:
            values[name] = parse_argument("arguments", name, value)
    others = values.keys() - MaskArguments.__annotations__.keys()
    if method == "mask" and others:
        raise InvalidRequest(
            f"{', '.join(sorted(others))}: not allowed in a request for only a mask"
        )
    if "anatomy" in values:
        values["anatomy"] = sizes_text(values["anatomy"])
    return complete(values)


async def read_bytes(request: Request, size: int) -> bytes:
    """Return a body of exactly `size` bytes after decompression; it may be compressed by gzip.

    Raises `Refused` for another size, or for data that is not gzip.
    """
    packed = request.headers.get("content-encoding", "").lower() == "gzip"
    unpack = zlib.decompressobj(_GZIP)
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += unpack.decompress(chunk, size + 1 - len(content)) if packed else chunk
            if len(content) > size or unpack.unconsumed_tail:
                raise Refused(413, "too_large", f"more than {size} bytes of voxels were sent")
    except zlib.error:
        raise Refused(400, "invalid_request", "the body is not gzip") from None
    if len(content) != size or (packed and not unpack.eof):
        sentence = f"{len(content)} bytes of voxels were sent; {size} are expected"
        raise Refused(400, "invalid_request", sentence)
    return bytes(content)
