"""A dataset from a plan, row by row: it can be stopped at any moment and gone on with."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import nibabel as nib
import numpy as np

from .._client import Client
from .._errors import InvalidRequest, MaisiError
from .._files import atomic
from .._mask import label_image
from .._outputs import identities, refuse_input
from .._provenance import plain
from .._volume import Progress, Volume
from . import layouts
from .layouts import Layout
from .plan import Row

_ASIDE, _FAILED = Path("unfaithful"), Path("failed")


class Stopped(Exception):
    """Nobody waits for the volume any more."""


@dataclass(frozen=True)
class Outcome:
    """What became of a row: `done`, `unfaithful`, `failed` with an error, or `kept` from before."""

    name: str
    state: str
    error: str = ""


def make_dataset(
    rows: Sequence[Row],
    to: str | Path,
    client: Client,
    *,
    layout: str = "plain",
    jobs: int = 2,
    attempts: int = 3,
    shard: tuple[int, int] = (0, 1),
) -> Generator[Outcome, None, None]:
    """Make every row of a plan that is not there yet, `jobs` at a time; yield what became of it.

    A row has an image, labels where it has a mask, and last, when those are whole, a sidecar: who
    stops at any moment, by kill -9 too, loses no volume, and whoever goes on makes no volume twice.
    `layout` says where they lie: `plain` (`images/NAME.nii.gz`, `labels/NAME.nii.gz`,
    `reports/NAME.json`), `nnunet`, `msd` or `bids`; what describes the dataset as a whole is
    written at the end. A volume that does not follow its mask by its report lies below
    `unfaithful/` instead. A row that fails is asked for `attempts` times; then `failed/NAME.json`
    says why, and the next run tries again.

    `shard` (I, N) makes the rows I, I + N, ...: processes with the other I need no coordinator.
    Raises `InvalidRequest` where another process makes the same shard into the same folder, a mask
    or source would be replaced, or the layout has no place for a row; `MaisiError` where files
    cannot be locked, as on Windows.
    """
    folder, (index, count) = Path(to), shard
    chosen = layouts.of(layout, folder, rows, client.info)
    mine = list(rows[index::count])
    (folder / _FAILED).mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".shard-{index}-of-{count}"):
        missing: list[Row] = []
        kept: list[Row] = []
        for row in mine:
            at = chosen.place(row)
            whole = any((place / at.sidecar).exists() for place in (folder, folder / _ASIDE))
            (kept if whole else missing).append(row)
        _refuse_inputs(rows, missing, folder, chosen)
        yield from (Outcome(row.name, "kept") for row in kept)
        _sweep(folder, [path for row in missing for path in chosen.place(row).files])
        yield from _work(missing, folder, chosen, client, jobs, attempts)
        with (folder / ".describing").open("a") as lock:  # shards may end at once
            _lock(lock, wait=True)
            chosen.describe()


def _refuse_inputs(
    rows: Sequence[Row], missing: Sequence[Row], folder: Path, layout: Layout
) -> None:
    """Raise `InvalidRequest` where a `missing` row would replace a mask or source of any row."""
    read = identities(
        (f"the {name} of row '{row.name}',", row.arguments.get(name))
        for row in rows
        for name in ("mask", "source")
    )
    for row in missing:
        files = layout.place(row).files
        for path in (*files, *(_ASIDE / path for path in files), _failure(row)):
            refuse_input(read, f"a file of row '{row.name}'", folder / path)


def _work(
    rows: Sequence[Row], folder: Path, layout: Layout, client: Client, jobs: int, attempts: int
) -> Iterator[Outcome]:
    stopped = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        running: set[Future[Outcome]] = set()
        left = iter(rows)
        try:
            while True:
                # No more than are at work: a plan may have a million rows.
                for row in left:
                    running.add(pool.submit(_make, row, folder, layout, client, attempts, stopped))
                    if len(running) >= jobs:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            stopped.set()


def _make(
    row: Row,
    folder: Path,
    layout: Layout,
    client: Client,
    attempts: int,
    stopped: threading.Event,
) -> Outcome:
    failed = folder / _failure(row)
    try:
        volume = insist(row, client, attempts, stopped)
    except Stopped:
        return Outcome(row.name, "failed", "stopped")
    except MaisiError as error:
        record: dict[str, Any] = {"name": row.name, "error": str(error)}
        record |= {"type": type(error).__name__, "kind": error.kind}
        record |= {"request": plain(row.arguments)}
        with atomic(failed) as draft:
            draft.write_text(json.dumps(record, indent=2) + "\n")
        return Outcome(row.name, "failed", str(error))
    _save(row, volume, folder if volume.faithful else folder / _ASIDE, layout)
    failed.unlink(missing_ok=True)
    return Outcome(row.name, "done" if volume.faithful else "unfaithful")


def _failure(row: Row) -> Path:
    """Return where in a dataset it is told why a row failed."""
    return _FAILED / f"{row.name}.json"


def insist(row: Row, client: Client, attempts: int, stopped: threading.Event) -> Volume:
    """Make a row, asking up to `attempts` times; what is refused is not asked again.

    Raises the last `MaisiError`, or `Stopped` once `stopped` is set, which cancels the request.
    """

    def go_on(progress: Progress | None = None) -> None:
        if stopped.is_set():
            raise Stopped

    for left in reversed(range(attempts)):
        go_on()
        try:
            return client.generate(**row.arguments, on_progress=go_on)
        except MaisiError as error:
            if isinstance(error, InvalidRequest) or not left:  # no server takes it, or no more
                raise
    raise AssertionError("an attempt ends with a volume or raises")


def _save(row: Row, volume: Volume, folder: Path, layout: Layout) -> None:
    at, mask = layout.place(row), row.arguments.get("mask")
    for path in at.files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    labels = volume.mask or (mask and label_image(mask))
    if labels:
        with atomic(folder / at.labels) as draft:
            nib.save(_numbered(labels, layout.ids), draft)
    with atomic(folder / at.image) as draft:
        nib.save(volume.image, draft)
    with atomic(folder / at.sidecar) as draft:
        of_plan = {"plan_license": row.license} if row.license else {}
        record = {"name": row.name, **of_plan, **volume.report}
        draft.write_text(json.dumps(record, indent=2) + "\n")


def _numbered(mask: Any, ids: Mapping[int, int]) -> Any:
    """Return the mask with a dataset's ids; what has none there is background."""
    if not ids:
        return mask
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    return nib.Nifti1Image(table[np.asarray(mask.dataobj)], mask.affine, mask.header)


def _sweep(folder: Path, files: Sequence[Path]) -> None:
    """Remove the drafts that a killed process left of these files."""
    names = {path.name for path in files}
    for place in {place / path.parent for place in (folder, folder / _ASIDE) for path in files}:
        for draft in place.glob(".????????.*"):
            if draft.name[10:] in names:
                draft.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel lifts when this process ends, however."""
    with path.open("a") as lock:
        try:
            _lock(lock, wait=False)
        except BlockingIOError:
            raise InvalidRequest(
                f"another process makes this shard of {path.parent}; give each its own"
            ) from None
        yield


def _lock(file: TextIO, *, wait: bool) -> None:
    """Lock a file; raises `BlockingIOError` where another process has it and `wait` is false."""
    try:
        import fcntl
    except ImportError:
        raise MaisiError(
            "a dataset needs file locks (fcntl), which this system's Python does not have"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise MaisiError(f"'{file.name}' cannot be locked: {error.strerror}") from error
