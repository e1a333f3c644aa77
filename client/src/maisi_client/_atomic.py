"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a new path beside `path` to write to; on success it becomes `path`, else it is removed.

    The temporary name ends like `path`, because writers choose their format by it. An `OSError`
    without a file name, such as that of a full disk, gets that of `path`.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield draft
        os.replace(draft, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; on success it becomes `path`, else it is removed.

    Raises `OSError` if `path` exists and is not an empty folder.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    draft.mkdir()
    try:
        yield draft
        os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
