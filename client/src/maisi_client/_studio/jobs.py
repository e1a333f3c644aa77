"""The queue of a session: jobs run in order, two at a time."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from .._cli.progress_bar import seconds_left
from .._errors import MaisiError
from .._volume import Progress
from .errors import Refused, error_json, not_found, without_folder
from .events import Events
from .timestamp import timestamp

_RUNNING = 2  # most jobs that run at the same time
_WAITING = 64
_log = logging.getLogger("maisi_client")


@dataclass(frozen=True)
class Job:
    """A request for a volume or a mask.

    `kind` is `volume` or `mask`. `state` is waiting, running, done, failed or cancelled. `fraction`
    is the progress, 0 to 1. `mask` and `source` are ids of pictures, and so is `picture` when the
    job is done.
    """

    id: str
    kind: str
    arguments: Mapping[str, Any]
    mask: str | None
    source: str | None
    created: str
    state: str = "waiting"
    stage: str = ""
    fraction: float = 0.0
    seconds_left: float | None = None
    error: Mapping[str, str] | None = None
    picture: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state not in ("waiting", "running")


Make: TypeAlias = Callable[[Job, Callable[[Progress], None]], Awaitable[str]]


class Jobs:
    """The jobs of a session; `make` runs one and returns the id of its picture."""

    def __init__(self, make: Make, folder: Path, events: Events) -> None:
        self._make, self._folder, self._events = make, folder, events
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_RUNNING)

    def __iter__(self) -> Any:
        return iter(list(self._jobs.values()))

    def submit(
        self, kind: str, mask: str | None, source: str | None, arguments: Mapping[str, Any]
    ) -> Job:
        """Queue a job; raises `Refused` if too many wait."""
        if sum(job.state == "waiting" for job in self) >= _WAITING:
            raise Refused(429, "too_many", f"{_WAITING} jobs are waiting; wait until one ends")
        created = timestamp()
        job = Job(secrets.token_hex(16), kind, arguments, mask, source, created)
        self._jobs[job.id] = job
        self._change(job.id)
        self._tasks[job.id] = asyncio.create_task(self._run(job))
        return job

    async def end(self, id_: str) -> Job | None:
        """Cancel a job and return it when it has ended; remove a job that has ended before."""
        if id_ not in self._jobs:
            raise not_found("job")
        if self._jobs[id_].ended:
            del self._jobs[id_]
            self._events.publish("removed", {"id": id_})
            return None
        task = self._tasks[id_]
        task.cancel()
        await asyncio.wait([task])
        self._tasks.pop(id_, None)
        if id_ in self._jobs and not self._jobs[id_].ended:  # cancelled before its first step
            self._change(id_, state="cancelled")
        return self._jobs.get(id_)  # another browser may have removed it

    async def close(self) -> None:
        """Cancel all jobs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: Job) -> None:
        try:
            async with self._slots:
                self._change(job.id, state="running")
                picture = await self._make(job, self._watch(job.id))
            self._change(
                job.id, state="done", stage="done", fraction=1.0, seconds_left=None, picture=picture
            )
        except asyncio.CancelledError:
            self._change(job.id, state="cancelled", seconds_left=None)
        except Refused as error:
            self._fail(job.id, error.kind, str(error))
        except MaisiError as error:
            self._fail(job.id, error.kind, str(error))
        except OSError as error:
            why = error.strerror or "the reason is unknown"
            self._fail(job.id, "unsupported", f"the files cannot be written: {why}")
        except Exception:
            _log.exception("a job of maisi studio failed")
            self._fail(job.id, "internal", "maisi studio failed; its terminal shows the reason")
        finally:
            self._tasks.pop(job.id, None)

    def _fail(self, id_: str, kind: str, message: str) -> None:
        error = error_json(kind, without_folder(message, self._folder))
        self._change(id_, state="failed", seconds_left=None, error=error)

    def _watch(self, id_: str) -> Callable[[Progress], None]:
        start: tuple[float, float] | None = None  # seconds and fraction at the first progress

        def note(progress: Progress) -> None:
            nonlocal start
            now = time.monotonic()
            if start is None or progress.fraction <= start[1]:
                start = now, progress.fraction
            done, seconds = progress.fraction - start[1], now - start[0]
            left = seconds_left(done, 1 - progress.fraction, seconds)
            self._change(id_, stage=progress.stage, fraction=progress.fraction, seconds_left=left)

        return note

    def _change(self, id_: str, **parts: Any) -> None:
        self._jobs[id_] = job = replace(self._jobs[id_], **parts)
        self._events.publish("job", vars(job))
