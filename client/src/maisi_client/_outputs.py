"""Check before any work that no output replaces an input or another output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ._errors import InvalidRequest

NamedPaths: TypeAlias = Iterable[tuple[str, Any]]  # the name of a file in errors, and its path
Identity: TypeAlias = tuple[int, int]  # device and inode: the same for all names of a file


def check_outputs(inputs: NamedPaths, outputs: NamedPaths) -> None:
    """Raise `InvalidRequest` if an output is an input or another output, or cannot be written.

    `inputs` and `outputs` are pairs of a name, such as an option, and a path. Values that are not
    paths are skipped. Links are followed. An existing output will be replaced, so it must be a
    regular file.
    """
    input_files = identities(inputs)
    outputs_by_path: dict[str, tuple[str, str]] = {}
    for name, value in outputs:
        if not _is_path(value):
            continue
        path = os.fspath(value)
        folder = os.path.dirname(path) or os.curdir
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidRequest(f"folder '{folder}' does not exist or cannot be written")
        if os.path.exists(path) and not os.path.isfile(path):
            raise InvalidRequest(f"{name} is '{path}'; it exists and is not a regular file")
        refuse_input(input_files, name, path)
        # Some file systems ignore the case of names.
        key = os.path.realpath(path).casefold()
        if key in outputs_by_path:
            other_name, other_path = outputs_by_path[key]
            raise InvalidRequest(
                f"{name} is '{path}', the same file as {other_name} '{other_path}';"
                " each output needs its own name"
            )
        outputs_by_path[key] = name, path


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Raise `InvalidRequest` unless a folder can be made at `path`, or an empty one exists.

    The current folder is refused, too: its replacement would not be the current folder.
    """
    name, parent = os.fspath(path), os.path.dirname(os.path.abspath(path))
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise InvalidRequest(f"'{name}' exists already; a new or an empty folder is expected")
    if os.path.exists(path) and os.path.samefile(path, os.curdir):
        raise InvalidRequest(f"'{name}' is the current folder; another one is expected")
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise InvalidRequest(f"folder '{parent}' does not exist or cannot be written")


def identities(inputs: NamedPaths) -> dict[Identity, str]:
    """Return the files among `inputs` that exist, each with its name and path for an error."""
    files = {}
    for name, path in inputs:
        if _is_path(path) and (identity := _identity(path)) is not None:
            files[identity] = f"{name} '{os.fspath(path)}'"
    return files


def refuse_input(inputs: Mapping[Identity, str], name: str, path: str | os.PathLike[str]) -> None:
    """Raise `InvalidRequest` if the output `path`, called `name`, is one of the `inputs`."""
    identity = _identity(path) if inputs else None
    if identity is not None and identity in inputs:
        raise InvalidRequest(
            f"{name} is '{os.fspath(path)}', the same file as {inputs[identity]};"
            " an output must not replace an input"
        )


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and bool(os.fspath(value))


def _identity(path: str | os.PathLike[str]) -> Identity | None:
    """Return the identity of a file; None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
