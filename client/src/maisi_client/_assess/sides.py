"""The described volumes of a dataset, gathered for the measures; large arrays stay on disk."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidRequest
from . import record
from .blocks import block_means
from .distances import Moments
from .harmonising import COARSE, Greys
from .record import Record, Task

Floats = NDArray[np.float32]

_PICTURE = 12  # blocks of a side: what is left of the coarse volume to search for neighbours
_COMPONENTS = 64  # of a network's features: more than a few hundred slices can tell apart


@dataclass(frozen=True)
class Side:
    """A dataset as the measures see it, a row a volume, in the order of `names`.

    `features` `[V, 3, S, F]` are those of S slices of three planes; `pictures` `[V, 1728]` means of
    12 x 12 x 12 blocks of the volume, grey levels 0 to 1. `notes` are the facts of each record as
    JSON, which takes a fraction of the memory of objects. The `records` on disk have the rest.
    """

    role: str
    names: Sequence[str]
    records: Sequence[Path]
    features: Floats
    pictures: Floats
    notes: Sequence[bytes]

    def __len__(self) -> int:
        """Return the number of volumes."""
        return len(self.names)

    @property
    def facts(self) -> Iterator[Mapping[str, Any]]:
        """The facts of each record, one after the other."""
        return map(json.loads, self.notes)

    @property
    def means(self) -> Floats:
        """The features of each volume: means over the slices of each plane, `[V, 3 F]`."""
        return np.asarray(self.features.mean(2).reshape(len(self), -1))

    def take(self, rows: Sequence[int]) -> Side:
        """Return the side of these rows alone."""
        index = np.array(rows, np.intp)
        return Side(
            self.role,
            [self.names[row] for row in rows],
            [self.records[row] for row in rows],
            self.features[index],
            self.pictures[index],
            [self.notes[row] for row in rows],
        )

    def coarse(self, index: int) -> Greys:
        """Return the coarse volume `[48, 48, 48]` of a row, grey levels 0 to 1."""
        return self.record(index).coarse.astype(np.float32) / 255

    def record(self, index: int) -> Record:
        """Read the record of a row."""
        return record.read(self.records[index], self.names[index])


def describe_all(
    tasks: Sequence[Task], processes: int, on_done: Callable[[], None]
) -> Iterator[tuple[int, Path | None, str]]:
    """Describe volumes, several at a time; yield the index, the record or None, and the reason.

    Volumes that cannot be read are yielded with the reason, the others are kept on disk whatever
    happens to the rest.
    """
    if processes == 1:
        for index, task in enumerate(tasks):
            outcome = _describe(task)
            on_done()
            yield index, *outcome
        return
    # Forked workers would inherit the locks of other threads.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        futures: dict[Future[tuple[Path | None, str]], int] = {
            pool.submit(_describe, task): index for index, task in enumerate(tasks)
        }
        try:
            for future in as_completed(futures):
                on_done()
                yield futures[future], *future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when its parent is killed: it would wait for work forever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _describe(task: Task) -> tuple[Path | None, str]:
    try:
        return record.describe(task), ""
    except InvalidRequest as error:
        return None, str(error)
    except MemoryError:
        return None, f"volume '{task.item.image}' does not fit into memory"


def gather(
    role: str, names: Sequence[str], paths: Sequence[Path], project: Callable[[Record], Floats]
) -> Side:
    """Read the records of a dataset one by one; `project` returns the features `[3, S, F]` used."""
    features = np.empty((len(paths), 0, 0, 0), np.float32)
    pictures = np.empty((len(paths), _PICTURE**3), np.float32)
    notes = []
    for row, (name, path) in enumerate(zip(names, paths, strict=True)):
        one = record.read(path, name)
        own = project(one)
        if row == 0:
            features = np.empty((len(paths), *own.shape), np.float32)
        features[row] = own
        pictures[row] = block_means(one.coarse, COARSE // _PICTURE).ravel() / 255
        notes.append(json.dumps(one.facts).encode())
    return Side(role, names, paths, features, pictures, notes)


def projection(paths: Sequence[Path], network: bool) -> Callable[[Record], Floats]:
    """Return the function to the features that are compared, from the reference's records.

    The built-in features are divided by their standard deviations in the reference. Those of a
    network become their first principal components there (64 at most), each on its own scale.
    """
    seen: Moments | None = None
    for path in paths:
        rows = _rows(record.read(path, path.name), network)
        flat = rows.reshape(-1, rows.shape[-1])
        seen = seen or Moments.empty(flat.shape[1])
        seen.add(flat)
    assert seen is not None
    mean, covariance = seen.mean, seen.covariance
    if network:
        values, vectors = np.linalg.eigh(covariance)
        kept = vectors[:, ::-1][:, : min(_COMPONENTS, len(values))]
    else:
        kept = np.diag(1 / np.maximum(np.sqrt(np.diag(covariance)), 1e-6))

    def project(one: Record) -> Floats:
        return np.asarray((_rows(one, network) - mean) @ kept, np.float32)

    return project


def _rows(one: Record, network: bool) -> Floats:
    if not network:
        return one.slices
    if one.network is None:
        raise InvalidRequest(f"the record of '{one.name}' has no features of a network")
    return one.network
