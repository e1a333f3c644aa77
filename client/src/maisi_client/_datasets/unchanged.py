"""Check that a finished row still has the arguments that its volume was made with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._arguments import tensors
from .._errors import InvalidRequest
from .._grid import parse_spacing
from .._provenance import json_arguments, picture_digest
from .._validation import excerpt
from .row import Row

_PICTURES = ("mask", "source")
_ANY = ("traceparent",)  # does not change the volume
_EFFECTIVE = ("variant", "modality")  # the report has the value that the server used
_REPORTED = {"augment": "augmented"}  # the other arguments have their own names in a report


class Unchanged:
    """Compares rows with the reports of their volumes.

    Only the arguments that the row names are compared: a row without a seed keeps the seed of its
    report. An argument that the request did not have is compared with the value that the server
    reports, so a row may name a default. A `traceparent` is not compared.

    The mask and the source are compared by their digests. A file is not read if it has the path
    that the report has, and neither its content nor its name was changed after the report was
    written. Each other file is read once, so a dataset can be moved with its masks or without
    them. A file that is no longer at the path of the report is not compared.
    """

    def __init__(self) -> None:
        self._digests: dict[tuple[str, str, str | None], str] = {}

    def check(self, row: Row, path: Path, report: Mapping[str, Any]) -> None:
        """Raise `InvalidRequest` if an argument differs from the `report` in the file `path`."""
        arguments = json_arguments(row.arguments)
        for name, value in arguments.items():
            if name in _PICTURES or name in _ANY:
                continue
            made_with = _made_with(name, report)
            if not _same(name, value, made_with):
                given = row.arguments[name]
                new = excerpt(given.item() if isinstance(given, np.generic) else given)
                old = None if made_with is None else excerpt(made_with)
                raise _changed(row, name, new, old, path)
        for name in _PICTURES:
            if name in arguments:
                self._check_picture(row, name, arguments[name], path, report)

    def _check_picture(
        self, row: Row, name: str, file: Any, path: Path, report: Mapping[str, Any]
    ) -> None:
        """Check the mask or the source, whose argument for JSON is `file`."""
        picture, request = row.arguments[name], report["request"]
        made_of = request.get(name)
        expected = report["sha256"].get(name)
        in_place = isinstance(picture, (str, os.PathLike)) and file == made_of
        if expected is not None and in_place and not _changed_after(file, path):
            return
        try:
            sha256 = self._digest(name, picture, request.get("vocabulary"))
        except InvalidRequest as error:
            raise InvalidRequest(f"row '{row.name}': {error}") from error
        if sha256 != expected:
            old = None if expected is None else _described(made_of, expected)
            raise _changed(row, name, _described(file, sha256), old, path)

    def _digest(self, name: str, picture: Any, vocabulary: str | None) -> str:
        if not isinstance(picture, (str, os.PathLike)):
            return picture_digest(name, picture, vocabulary)
        key = name, os.path.abspath(picture), vocabulary
        if key not in self._digests:
            self._digests[key] = picture_digest(name, picture, vocabulary)
        return self._digests[key]


def _changed(row: Row, name: str, new: str, old: str | None, path: Path) -> InvalidRequest:
    made = "without it" if old is None else f"with {old}"
    return InvalidRequest(
        f"row '{row.name}': {name} is {new}, but its volume was made {made}; the same value or"
        f" another name of the row is expected, and without '{path}' the row is made again"
    )


def _described(file: str | None, sha256: str) -> str:
    return f"{'an image' if file is None else repr(file)} with SHA-256 {sha256}"


def _changed_after(file: str, report: Path) -> bool:
    """Return whether a file was changed or renamed after a report was written; False if missing."""
    try:
        status = os.stat(file)
    except OSError:
        return False
    return max(status.st_mtime_ns, status.st_ctime_ns) > report.stat().st_mtime_ns


def _made_with(name: str, report: Mapping[str, Any]) -> Any:
    request = report["request"]
    if name in request and name not in _EFFECTIVE:
        return request[name]
    return report.get(_REPORTED.get(name, name))


def _same(name: str, value: Any, made_with: Any) -> bool:
    """Return whether two values of an argument make the same tensor."""
    if value == made_with:
        return True
    form = _FORMS.get(name, _tensor)
    try:
        return bool(form(name, value) == form(name, made_with))
    except (InvalidRequest, KeyError, TypeError, ValueError):
        return False


def _tensor(name: str, value: Any) -> Any:
    return tensors({name: value})[name].tolist()


def _lengths(name: str, value: Any) -> Any:
    return np.array(parse_spacing(value), np.float32).tolist()


def _items(name: str, value: Any) -> Any:
    """Return the items of a text such as `liver, spleen` or `liver=0.5, spleen=1`, in any order."""
    items = set()
    for item in _tensor(name, value)[0].decode().split(","):
        word, _, size = item.partition("=")
        items.add((word.strip(), float(size) if size.strip() else None))
    return items


_FORMS: Mapping[str, Callable[[str, Any], Any]] = {
    "spacing": _lengths,
    "organs": _items,
    "anatomy": _items,
}
