"""Send DICOM files by STOW-RS, DICOMweb's store transaction (PS3.18 10.5)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import secrets
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .._counted import counted
from .._errors import InvalidRequest, MaisiError, ServerError, ServerUnavailable, printable
from .sending import SECONDS, Destination, stored

TOKEN = "MAISI_STOW_TOKEN"  # environment variable with a bearer token
_BATCH = 32 << 20  # most bytes of files in one request, except for one larger file
_ANSWER = 4 << 20  # most bytes of an answer that are read
_FAILED = "00081198"  # tag of the Failed SOP Sequence in the answer
_UNAVAILABLE = (408, 425, 429, 502, 503, 504)
_REFUSED = (401, 403, 404, 405)  # the status of a refusal that does not depend on the files


def service(url: str) -> Destination:
    """Return the DICOMweb service at `url`, the part before `/studies`, http or https.

    The URL may contain user and password. Otherwise $MAISI_STOW_TOKEN, if set, is sent as bearer
    token. Raises `InvalidRequest` for a URL of another form.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        # The encoding raises for names that DNS cannot have.
        if host and re.search(rb"[\x00-\x20\x7f]", host.encode("idna")):
            raise ValueError
    except ValueError:
        parts, host, port = SplitResult("", "", "", "", ""), None, None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        without_password = url.rpartition("@")[2]
        raise InvalidRequest(
            f"the DICOMweb service is '{printable(without_password, 200)}'; its URL is expected,"
            " such as https://pacs.example/dicom-web"
        )
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    path = path if path.endswith("/studies") else f"{path}/studies"
    address = parts.netloc.rpartition("@")[2]
    name, headers = f"{parts.scheme}://{address}{path}", _credentials(parts)

    def send(files: Sequence[Path]) -> None:
        connection = (
            http.client.HTTPConnection(host, port, timeout=SECONDS)
            if parts.scheme == "http"
            else http.client.HTTPSConnection(
                host, port, timeout=SECONDS, context=ssl.create_default_context()
            )
        )
        with contextlib.closing(connection):
            number = 0
            for batch in _batches(files):
                _post(name, connection, path, headers, batch, stored(number, files))
                number += len(batch)

    return Destination(name, send)


def stow_dicom(files: Sequence[str | os.PathLike[str]], url: str) -> None:
    """Send DICOM files to the DICOMweb service at `url` by STOW-RS.

    The URL may contain user and password; `MAISI_STOW_TOKEN` may have a bearer token.

    Raises `InvalidRequest` if the service refuses the user or the files, `ServerUnavailable` if it
    does not answer or the connection is lost, and `ServerError` if it fails.
    """
    service(url).send([Path(file) for file in files])


def _credentials(parts: SplitResult) -> dict[str, str]:
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    token = os.environ.get(TOKEN, "").strip()
    if not (token.isascii() and token.isprintable()):
        raise InvalidRequest(f"${TOKEN} has characters other than printable ASCII")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size = 0
    for path in files:
        own = path.stat().st_size
        if batch and size + own > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += own
    if batch:
        yield batch


def _post(
    name: str,
    connection: http.client.HTTPConnection,
    path: str,
    headers: dict[str, str],
    batch: Sequence[Path],
    before: str,
) -> None:
    """Store files by one request; `before` is the end of an error: what was stored before."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + file.read_bytes() + b"\r\n" for file in batch)
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    headers = {**headers, "Content-Type": kind, "Accept": "application/dicom+json"}
    end = f"--{boundary}--\r\n".encode()
    try:
        if connection.sock is None:
            connection.connect()
        try:
            response, content = _answer(connection, path, headers, body + end)
        except ConnectionError:
            # The answer of a server that refuses a request, and closes the connection before it
            # has read all of it, may be lost (RFC 9112, 9.6). A request without files is all read.
            connection.close()
            connection.connect()
            response, content = _answer(connection, path, headers, end)
            if response.status not in _REFUSED:
                raise
    except (OSError, http.client.HTTPException) as error:
        why = printable(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)
        raise ServerUnavailable(f"{name} cannot be reached: {why}; {before}") from error
    if response.status in (401, 403):
        raise InvalidRequest(
            f"{name} refuses the user, with HTTP {response.status}; put user and password into the"
            f" URL, or a token into ${TOKEN}; {before}"
        )
    failed = _failed(content)
    if response.status not in (200, 202) or failed:
        answer = f"HTTP {response.status} {printable(response.reason, 80)}".strip()
        answer += f", {failed} of {counted(len(batch), 'object')} refused" * bool(failed)
        raise _failure(response.status)(f"{name} answers {answer}; before that {before}")


def _answer(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str], body: bytes
) -> tuple[http.client.HTTPResponse, bytes]:
    # A server that refuses a request may answer before it has read all of it.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", path, body, headers)
    response = connection.getresponse()
    content = response.read(_ANSWER)
    if not response.isclosed():  # the next answer would begin with the rest of this one
        connection.close()
    return response, content


def _failure(status: int) -> type[MaisiError]:
    if status in _UNAVAILABLE:
        return ServerUnavailable
    return InvalidRequest if 300 <= status < 500 else ServerError


def _failed(content: bytes) -> int:
    """Return the number of objects that were not stored, from an answer in DICOM's JSON model."""
    try:
        answer = json.loads(content)
        answers = answer if isinstance(answer, list) else [answer]
        return sum(len(one.get(_FAILED, {}).get("Value", [])) for one in answers)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return 0  # the answer has another media type, such as XML
