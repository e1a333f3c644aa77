"""Errors as JSON, one sentence each, without paths of the session's folder."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .._errors import InvalidRequest, MaisiError, ServerError, ServerUnavailable, Timeout

_STATUS: tuple[tuple[type[MaisiError], int], ...] = (
    (InvalidRequest, 400),
    (ServerUnavailable, 503),
    (Timeout, 504),
    (ServerError, 502),
)
_UNSUPPORTED = 501


class Refused(Exception):
    """The page's server refuses a request: HTTP status, kind, and one sentence."""

    def __init__(self, status: int, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.kind = status, kind


def not_found(what: str) -> Refused:
    """Return the error for an unknown id."""
    return Refused(404, "not_found", f"there is no such {what}; it may have been removed")


def error_json(kind: str, message: str) -> dict[str, str]:
    """Return an error in the form that the page reads."""
    return {"kind": kind, "message": " ".join(message.split())}


def response(status: int, kind: str, message: str) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse({"error": error_json(kind, message)}, status)


def without_folder(message: str, folder: Path) -> str:
    """Return a message in which files of `folder` have only their names."""
    inside = re.compile(rf"{re.escape(str(folder))}/(?:[\w.-]+/)*")
    return inside.sub("", message).replace(str(folder), "the session's folder")


def handlers(folder: Path) -> dict[Any, Callable[[Request, Any], Any]]:
    """Return Starlette's exception handlers; `folder` is the session's."""

    async def refused(request: Request, error: Refused) -> Response:
        return response(error.status, error.kind, str(error))

    async def failed(request: Request, error: MaisiError) -> Response:
        status = next((n for kind, n in _STATUS if isinstance(error, kind)), _UNSUPPORTED)
        return response(status, error.kind, without_folder(str(error), folder))

    async def unknown_path(request: Request, error: HTTPException) -> Response:
        kind = "not_found" if error.status_code == 404 else "invalid_request"
        sentence = f"{request.method} of this address is not offered"
        return response(error.status_code, kind, sentence)

    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # the client has disconnected

    async def files(request: Request, error: OSError) -> Response:
        if isinstance(error, FileNotFoundError):  # removed since the request was read
            return await refused(request, not_found("picture"))
        if error.errno == errno.ENOSPC:
            return response(507, "disk_full", "the disk with the session's folder is full")
        raise error

    async def unexpected(request: Request, error: Exception) -> Response:
        # The terminal of `maisi studio` shows the traceback.
        sentence = "maisi studio failed at this request; its terminal shows the reason"
        return response(500, "internal", sentence)

    return {
        Refused: refused,
        MaisiError: failed,
        HTTPException: unknown_path,
        ClientDisconnect: gone,
        OSError: files,
        Exception: unexpected,
    }
