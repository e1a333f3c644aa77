"""A dataset from a plan, row by row: it can be stopped at any moment and gone on with."""

from __future__ import annotations

import fcntl
import json
import shutil
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

from ._client import Client
from ._errors import InvalidRequest, MaisiError
from ._files import atomic
from ._mask import open_mask
from ._plan import Row
from ._volume import Progress, Volume

_FOLDERS = ("images", "labels", "reports")
_ASIDE, _FAILED = "unfaithful", "failed"


class _Stopped(Exception):
    """Nobody waits for the dataset any more."""


@dataclass(frozen=True)
class Outcome:
    """What became of a row: `done`, `unfaithful`, `failed` with an error, or `kept` from before."""

    name: str
    state: str
    error: str = ""


def make_dataset(
    rows: Sequence[Row],
    to: str | Path,
    clients: Sequence[Client],
    *,
    jobs: int = 2,
    attempts: int = 3,
    shard: tuple[int, int] = (0, 1),
) -> Generator[Outcome, None, None]:
    """Make every row of a plan that is not there yet, `jobs` at a time; yield what became of it.

    A row has `images/NAME.nii.gz`, `labels/NAME.nii.gz` where it has a mask, and last, when those
    are whole, `reports/NAME.json`: who stops at any moment, by kill -9 too, loses no volume, and
    whoever goes on makes no volume twice. A volume that does not follow its mask by its report lies
    below `unfaithful/` instead. A row that fails is tried `attempts` times, each time at the next
    of the `clients`; then `failed/NAME.json` says why, and the next run tries again.

    `shard` (I, N) makes the rows I, I + N, ...: processes with the other I need no coordinator.
    Raises `InvalidRequest` where another process makes the same shard into the same folder.
    """
    folder, (index, count) = Path(to), shard
    mine = list(rows[index::count])
    for place in (folder, folder / _ASIDE):
        for name in _FOLDERS:
            (place / name).mkdir(parents=True, exist_ok=True)
    (folder / _FAILED).mkdir(exist_ok=True)
    with _alone(folder / f".shard-{index}-of-{count}"):
        _sweep(folder, mine)
        missing = []
        for row in mine:
            if _report(folder, row).exists() or _report(folder / _ASIDE, row).exists():
                yield Outcome(row.name, "kept")
            else:
                missing.append(row)
        yield from _work(missing, folder, clients, jobs, attempts)


def _work(
    rows: Sequence[Row], folder: Path, clients: Sequence[Client], jobs: int, attempts: int
) -> Iterator[Outcome]:
    stopped = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        running: set[Future[Outcome]] = set()
        left = iter(enumerate(rows))
        try:
            while True:
                # No more than are at work: a plan may have a million rows.
                for number, row in left:
                    turns = [clients[(number + n) % len(clients)] for n in range(attempts)]
                    running.add(pool.submit(_make, row, folder, turns, stopped))
                    if len(running) >= jobs:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            stopped.set()


def _make(row: Row, folder: Path, clients: Sequence[Client], stopped: threading.Event) -> Outcome:
    def go_on(progress: Progress) -> None:
        if stopped.is_set():
            raise _Stopped

    failed = folder / _FAILED / f"{row.name}.json"
    error: MaisiError | None = None
    for client in clients:
        try:
            volume = client.generate(**row.arguments, on_progress=go_on)
        except _Stopped:
            return Outcome(row.name, "failed", "stopped")
        except MaisiError as problem:
            error = problem
            if isinstance(problem, InvalidRequest):  # which no server takes
                break
        else:
            faithful = volume.report.get("fidelity", {}).get("faithful") is not False
            _save(row, volume, folder if faithful else folder / _ASIDE)
            failed.unlink(missing_ok=True)
            return Outcome(row.name, "done" if faithful else "unfaithful")
    told = {"name": row.name, "error": str(error), "type": type(error).__name__}
    with atomic(failed) as draft:
        draft.write_text(json.dumps(told | {"row": _plain(row)}, indent=2) + "\n")
    return Outcome(row.name, "failed", str(error))


def _save(row: Row, volume: Volume, folder: Path) -> None:
    labels, given = folder / "labels" / f"{row.name}.nii.gz", row.arguments.get("mask")
    if volume.mask is not None:
        with atomic(labels) as draft:
            nib.save(volume.mask, draft)
    elif given is not None:
        with atomic(labels) as draft:
            if str(given).endswith(".nii.gz"):
                shutil.copyfile(given, draft)
            else:
                nib.save(open_mask(given)[1], draft)
    with atomic(folder / "images" / f"{row.name}.nii.gz") as draft:
        nib.save(volume.image, draft)
    with atomic(_report(folder, row)) as draft:
        told = {"name": row.name, "row": _plain(row), **volume.report}
        draft.write_text(json.dumps(told, indent=2) + "\n")


def _plain(row: Row) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in row.arguments.items()
    }


def _report(folder: Path, row: Row) -> Path:
    return folder / "reports" / f"{row.name}.json"


def _sweep(folder: Path, rows: Sequence[Row]) -> None:
    """Remove the drafts that a killed process left of these rows."""
    names = {row.name for row in rows}
    places = [folder / name for name in (*_FOLDERS, _FAILED)]
    places += [folder / _ASIDE / name for name in _FOLDERS]
    for place in places:
        for draft in place.glob(".????????.*"):
            name = draft.name[10:].removesuffix(".json").removesuffix(".nii.gz")
            if name in names:
                draft.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel lifts when this process ends, however."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(
                f"another process makes this shard of {path.parent}; give each its own"
            ) from None
        yield
