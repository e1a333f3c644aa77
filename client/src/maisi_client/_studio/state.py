"""The state that all request handlers of `maisi studio` share."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.requests import Request

from .backend import Backend, Target
from .events import Events
from .generation import make
from .jobs import Jobs
from .pictures import Pictures


@dataclass(frozen=True)
class Studio:
    """The session: its folder, pictures, jobs, and server.

    A handler holds the lock `reading` while it reads or writes a whole picture, so that only one
    picture is in memory at a time.
    """

    folder: Path
    events: Events
    backend: Backend
    pictures: Pictures
    jobs: Jobs
    reading: asyncio.Lock


def studio_of(request: Request) -> Studio:
    """Return the session that a request belongs to."""
    studio: Studio = request.app.state.studio
    return studio


@asynccontextmanager
async def open_studio(target: Target, folder: Path, events: Events) -> AsyncIterator[Studio]:
    """Yield a session with its files in `folder`; cancel its jobs at the end."""
    for name in ("pictures", "uploads", "downloads"):
        (folder / name).mkdir()
    backend = Backend(target, events)
    pictures = Pictures(folder / "pictures", events)
    jobs = Jobs(partial(make, backend, pictures), folder, events)
    watch = asyncio.create_task(backend.watch())
    try:
        yield Studio(folder, events, backend, pictures, jobs, asyncio.Lock())
    finally:
        await jobs.close()
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        await backend.close()


def new_folder() -> Path:
    """Return a new folder that only this user can read."""
    return Path(tempfile.mkdtemp(prefix="maisi-studio-")).resolve()


def remove_folder(folder: Path) -> None:
    """Remove the session's folder and its contents."""
    shutil.rmtree(folder, ignore_errors=True)
