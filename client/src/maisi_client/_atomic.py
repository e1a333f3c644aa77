"""Write files and folders atomically."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a new path beside `path` for a file; on success it is renamed to `path`, else removed.

    The temporary name ends like `path`, because the ending decides the format. An `OSError` without
    a file name gets the name of `path`.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        with naming(path):
            yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an `OSError` without a file name, for example of a full disk, the name of `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; on success it is renamed to `path`, else removed.

    Raises `OSError` if `path` exists and is not an empty folder.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    draft.mkdir()
    try:
        yield draft
        os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
