"""Stream uploads of the type multipart/form-data to files with generated names."""

from __future__ import annotations

from collections.abc import AsyncIterable
from pathlib import Path
from typing import IO, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .._errors import printable
from .._image_file import SUFFIXES
from .errors import Refused

MAX_BYTES = 2 << 30  # most bytes of an upload
MAX_FILES = 10_000
_LONGEST_NAME = 200  # characters


class Upload(NamedTuple):
    """An uploaded file: its name and its folder's name in the browser, and its path here."""

    name: str
    folder: str
    path: Path


class _Files:
    """The files of a request; the methods `on_...` are callbacks of `MultipartParser`."""

    def __init__(self, folder: Path) -> None:
        self.uploads: list[Upload] = []
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._field, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self.complete = False

    def on_part_begin(self) -> None:
        self._headers.clear()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if (sent_name := options.get(b"filename")) is None:
            return  # a form field, which uploads do not need
        if len(self.uploads) >= MAX_FILES:
            raise Refused(413, "too_large", f"more than {MAX_FILES} files were sent")
        text = sent_name.decode("utf-8", "replace").replace("\\", "/")
        *parents, name = [printable(part, _LONGEST_NAME) for part in text.split("/")]
        name, parent = name or "file", parents[-1] if parents else ""
        suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
        path = self._folder / f"{len(self.uploads)}{suffix}"
        self.uploads.append(Upload(name, parent, path))
        self._file = path.open("wb")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def on_part_end(self) -> None:
        self.close()

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


async def receive_files(
    content_type: str, length: str | None, body: AsyncIterable[bytes], folder: Path
) -> list[Upload]:
    """Write the files of a request's body into `folder`, at most `MAX_BYTES` in total.

    Raises `Refused` for another content type, an incomplete or too long body, and a body without
    files.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Refused(400, "invalid_request", "files are expected, as multipart/form-data")
    too_large = Refused(413, "too_large", f"more than {MAX_BYTES >> 30} GiB were sent")
    if length is not None and length.isdecimal() and int(length) > MAX_BYTES:
        raise too_large
    files, size = _Files(folder), 0
    callbacks = {name: getattr(files, name) for name in vars(_Files) if name.startswith("on_")}
    try:
        parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        async for chunk in body:
            size += len(chunk)
            if size > MAX_BYTES:
                raise too_large
            parser.write(chunk)
        parser.finalize()
    except FormParserError:
        files.complete = False
    finally:
        files.close()
    if not files.complete or not files.uploads:
        raise Refused(400, "invalid_request", "no complete file arrived; send it again")
    return files.uploads
