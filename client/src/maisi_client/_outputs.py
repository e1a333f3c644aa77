"""Outputs that would replace an input, or one another: refused before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ._errors import InvalidRequest

Named: TypeAlias = Iterable[tuple[str, Any]]  # what to call a file, and its path, or what is none
Identity: TypeAlias = tuple[int, int]  # device and inode: the same for all names of a file


def check_outputs(inputs: Named, outputs: Named) -> None:
    """Raise `InvalidRequest` where an output is an input or another output, or cannot be written.

    Both are pairs of a name, such as an option, and a path; what is not a path is passed over.
    Links are followed. An output that exists and is no input will be replaced, so it has to be a
    regular file.
    """
    read = identities(inputs)
    written: dict[str, tuple[str, str]] = {}
    for name, value in outputs:
        if not _is_path(value):
            continue
        path = os.fspath(value)
        folder = os.path.dirname(path) or os.curdir
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidRequest(f"folder '{folder}' does not exist or cannot be written")
        if os.path.exists(path) and not os.path.isfile(path):
            raise InvalidRequest(f"{name} is '{path}'; it exists and is not a regular file")
        refuse_input(read, name, path)
        # Lower case, since names that differ by case alone are one file on some systems.
        key = os.path.realpath(path).casefold()
        if key in written:
            other_name, other_path = written[key]
            raise InvalidRequest(
                f"{name} is '{path}', the same file as {other_name} '{other_path}';"
                " each output needs its own name"
            )
        written[key] = name, path


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Raise `InvalidRequest` unless a folder can be made at `path`, or is there and empty.

    The current folder is refused, too: a program does not find what replaces it.
    """
    name, parent = os.fspath(path), os.path.dirname(os.path.abspath(path))
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise InvalidRequest(f"'{name}' exists already; a new or an empty folder is expected")
    if os.path.exists(path) and os.path.samefile(path, os.curdir):
        raise InvalidRequest(f"'{name}' is the current folder; another one is expected")
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise InvalidRequest(f"folder '{parent}' does not exist or cannot be written")


def identities(inputs: Named) -> dict[Identity, str]:
    """Return the files among `inputs` that exist, each with its name and path for an error."""
    read = {}
    for name, path in inputs:
        if _is_path(path) and (identity := _identity(path)) is not None:
            read[identity] = f"{name} '{os.fspath(path)}'"
    return read


def refuse_input(read: Mapping[Identity, str], name: str, path: str | os.PathLike[str]) -> None:
    """Raise `InvalidRequest` if the output `path`, called `name`, is one of the files `read`."""
    identity = _identity(path) if read else None
    if identity is not None and identity in read:
        raise InvalidRequest(
            f"{name} is '{os.fspath(path)}', the same file as {read[identity]};"
            " an output must not replace an input"
        )


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and bool(os.fspath(value))


def _identity(path: str | os.PathLike[str]) -> Identity | None:
    """Return the identity of a file; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
