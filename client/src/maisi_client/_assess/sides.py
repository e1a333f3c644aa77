"""Gather the records of a dataset for the measures; large arrays stay on disk."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidRequest, MaisiError
from . import record
from .blocks import block_means
from .distances import Moments
from .harmonising import COARSE, Greys
from .record import Record, Task

Floats = NDArray[np.float32]

_PICTURE = 12  # blocks along each side of a picture, in which nearest neighbours are searched
_COMPONENTS = 64  # most principal components of a network's features


@dataclass(frozen=True)
class Side:
    """The data of a dataset that the measures use, one row per volume, in the order of `names`.

    `features` `[V, 3, S, F]` float32 are the features of S slices of each plane. `pictures`
    `[V, 1728]` float32 are the means of 12 x 12 x 12 blocks of the volume, grey levels 0 to 1.
    `notes` are the facts of each record as JSON, which needs a fraction of the memory of objects.
    `records` are the paths of the records, which have the other data.
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
        """The facts of each record, one after another."""
        return map(json.loads, self.notes)

    @property
    def means(self) -> Floats:
        """The features of each volume, as means over the slices of each plane, `[V, 3 F]`."""
        return np.asarray(self.features.mean(2).reshape(len(self), -1))

    def take(self, rows: Sequence[int]) -> Side:
        """Return a side with only these rows."""
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
        """Return the record of a row, read from disk."""
        return record.read(self.records[index], self.names[index])


def describe_all(
    tasks: Sequence[Task], processes: int, on_done: Callable[[], None]
) -> Iterator[tuple[int, Path | None, str]]:
    """Describe volumes in several processes; yield the index, the record's path, and the reason.

    For a volume that cannot be read, the path is None and the reason is not empty. Each record is
    written to disk as soon as it is complete.
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
        except BrokenProcessPool as error:
            raise MaisiError(
                "a process that read volumes was killed, perhaps for want of memory; start again"
                " with fewer --processes, which continues"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait for work forever."""
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
    """Return a side from the records of a dataset; `project` returns features `[3, S, F]`.

    Records are read one at a time.
    """
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
    """Return the function that maps a record to the features that are compared.

    `paths` are the records of the reference set. Built-in features are divided by their standard
    deviations in this set. Features of a network are projected to their first principal components
    in this set (64 at most), which are not rescaled.
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
