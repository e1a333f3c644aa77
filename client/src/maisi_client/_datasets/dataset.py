"""A dataset from a plan, row by row: it can be stopped at any moment and continued."""

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

from .._atomic import atomic
from .._client import Client
from .._errors import InvalidRequest, MaisiError
from .._mask import label_image
from .._outputs import identities, refuse_input
from .._provenance import json_arguments
from .._volume import Progress, Volume
from . import layouts
from .layouts import Layout
from .plan import Row

_UNFAITHFUL, _FAILED = Path("unfaithful"), Path("failed")


class NoLongerNeeded(Exception):
    """The volume is no longer needed."""


@dataclass(frozen=True)
class Outcome:
    """The result of a row: `done`, `unfaithful`, `failed` with an error, or `kept` from before."""

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
    """Make every missing row of a plan, `jobs` at a time; yield the outcome of each row.

    A row has an image, labels where it has a mask, and last, when those are whole, a sidecar. A run
    that is stopped, also by kill -9, loses no finished volume, and the next run makes none twice.
    `layout` is that of the files: `plain` (`images/NAME.nii.gz`, `labels/NAME.nii.gz`,
    `reports/NAME.json`), `nnunet`, `msd` or `bids`; the files that describe the dataset as a whole
    are written at the end. A volume that by its report does not follow its mask is written below
    `unfaithful/` instead. A row that fails is tried `attempts` times; then `failed/NAME.json` has
    the error, and the next run tries again.

    `shard` (I, N) makes the rows I, I + N, ...: processes with the other I need no coordinator.
    Raises `InvalidRequest` where another process makes the same shard into the same folder, a mask
    or source would be replaced, or the layout cannot hold a row; `MaisiError` where files
    cannot be locked, as on Windows.
    """
    folder, (index, count) = Path(to), shard
    dataset_layout = layouts.make_layout(layout, folder, rows, client.info)
    own_rows = list(rows[index::count])
    (folder / _FAILED).mkdir(parents=True, exist_ok=True)
    with _locked(folder / f".shard-{index}-of-{count}"):
        missing: list[Row] = []
        finished: list[Row] = []
        for row in own_rows:
            sidecar = dataset_layout.paths(row).sidecar
            is_finished = any((base / sidecar).exists() for base in (folder, folder / _UNFAITHFUL))
            (finished if is_finished else missing).append(row)
        _refuse_inputs(rows, missing, folder, dataset_layout)
        yield from (Outcome(row.name, "kept") for row in finished)
        _remove_drafts(
            folder, [path for row in missing for path in dataset_layout.paths(row).files]
        )
        yield from _work(missing, folder, dataset_layout, client, jobs, attempts)
        with (folder / ".describing").open("a") as lock:  # shards may end at once
            _lock(lock, wait=True)
            dataset_layout.describe()


def _refuse_inputs(
    rows: Sequence[Row], missing: Sequence[Row], folder: Path, layout: Layout
) -> None:
    """Raise `InvalidRequest` where a `missing` row would replace a mask or source of any row."""
    inputs = identities(
        (f"the {name} of row '{row.name}',", row.arguments.get(name))
        for row in rows
        for name in ("mask", "source")
    )
    for row in missing:
        files = layout.paths(row).files
        for path in (*files, *(_UNFAITHFUL / path for path in files), _failure_path(row)):
            refuse_input(inputs, f"a file of row '{row.name}'", folder / path)


def _work(
    rows: Sequence[Row], folder: Path, layout: Layout, client: Client, jobs: int, attempts: int
) -> Iterator[Outcome]:
    stopped = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        running: set[Future[Outcome]] = set()
        waiting = iter(rows)
        try:
            while True:
                # No more than `jobs` are submitted: a plan may have a million rows.
                for row in waiting:
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
    failure = folder / _failure_path(row)
    try:
        volume = insist(row, client, attempts, stopped)
    except NoLongerNeeded:
        return Outcome(row.name, "failed", "stopped")
    except MaisiError as error:
        record: dict[str, Any] = {"name": row.name, "error": str(error)}
        record |= {"type": type(error).__name__, "kind": error.kind}
        record |= {"request": json_arguments(row.arguments)}
        with atomic(failure) as draft:
            draft.write_text(json.dumps(record, indent=2) + "\n")
        return Outcome(row.name, "failed", str(error))
    _save(row, volume, folder if volume.faithful else folder / _UNFAITHFUL, layout)
    failure.unlink(missing_ok=True)
    return Outcome(row.name, "done" if volume.faithful else "unfaithful")


def _failure_path(row: Row) -> Path:
    """Return the path, in a dataset, of the error of a row."""
    return _FAILED / f"{row.name}.json"


def insist(row: Row, client: Client, attempts: int, stopped: threading.Event) -> Volume:
    """Make a row in up to `attempts` attempts; a refused request is not repeated.

    Raises the last `MaisiError`, or `NoLongerNeeded` once `stopped` is set, which cancels the
    request.
    """

    def check_stopped(progress: Progress | None = None) -> None:
        if stopped.is_set():
            raise NoLongerNeeded

    for remaining in reversed(range(attempts)):
        check_stopped()
        try:
            return client.generate(**row.arguments, on_progress=check_stopped)
        except MaisiError as error:
            if isinstance(error, InvalidRequest) or not remaining:
                raise
    raise AssertionError("an attempt ends with a volume or raises")


def _save(row: Row, volume: Volume, folder: Path, layout: Layout) -> None:
    paths, mask = layout.paths(row), row.arguments.get("mask")
    for path in paths.files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    labels = volume.mask or (mask and label_image(mask))
    if labels:
        with atomic(folder / paths.labels) as draft:
            nib.save(_numbered(labels, layout.ids), draft)
    with atomic(folder / paths.image) as draft:
        nib.save(volume.image, draft)
    with atomic(folder / paths.sidecar) as draft:
        license_ = {"plan_license": row.license} if row.license else {}
        record = {"name": row.name, **license_, **volume.report}
        draft.write_text(json.dumps(record, indent=2) + "\n")


def _numbered(mask: Any, ids: Mapping[int, int]) -> Any:
    """Return the mask with a dataset's ids; a label without one becomes background."""
    if not ids:
        return mask
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    return nib.Nifti1Image(table[np.asarray(mask.dataobj)], mask.affine, mask.header)


def _remove_drafts(folder: Path, files: Sequence[Path]) -> None:
    """Remove the drafts of these files that a killed process left behind."""
    names = {path.name for path in files}
    bases = (folder, folder / _UNFAITHFUL)
    for parent in {base / path.parent for base in bases for path in files}:
        for draft in parent.glob(".????????.*"):
            if draft.name[10:] in names:
                draft.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when this process ends, for whatever reason."""
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
