"""Pairs of image and label for PyTorch, made by servers while a network trains.

```python
from maisi_client.torch import SyntheticPairs

pairs = SyntheticPairs(maisi_client.read_plan("plan.csv"), "a:8001,b:8001", endless=True)
for batch in torch.utils.data.DataLoader(pairs, batch_size=2, num_workers=2):
    loss = criterion(network(batch["image"]), batch["label"])
```
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ._client import Client
from ._datasets.fleet import Fleet, Release, insist
from ._datasets.groups import assign_groups
from ._datasets.row import Row
from ._errors import InvalidRequest, MaisiError
from ._mask import label_image
from ._transport.tls import Tls
from ._volume import Volume

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError:
    raise InvalidRequest(
        "maisi_client.torch needs PyTorch, which is not installed:"
        " pip install 'maisi-client[torch]'"
    ) from None

_AHEAD = 2  # pairs that are ready or being made, in multiples of the servers' rows in flight
Rows: TypeAlias = Iterable[Row | Mapping[str, Any]]


class SyntheticPairs(IterableDataset[Any]):
    """An image and its label for every row, in the order of the rows.

    `rows` are those of a plan, or mappings of the arguments of `Client.generate`, each with a
    `mask` or an `anatomy`; or a function that takes the number of an epoch, from 0, and returns any
    number of such rows. Each row yields a dictionary, or what `transform` returns for it:

    - `image` float32 `[1, X, Y, Z]`, Hounsfield units for CT and 0..1000 for MR;
    - `label` uint8 `[1, X, Y, Z]`, the mask that the image follows, on the same grid;
    - `affine` float64 `[4, 4]`, from voxels to mm, RAS+;
    - `name`, `modality`, `seed`, and `faithful`: False if, by the report, the image does not
      follow its mask;
    - `group`: rows of one group show one anatomy, so keep them on one side of a split. It is the
      `group` of the `Row`. A row without one gets a group as in a plan, or, if it is of a function,
      its name.

    One pass is one `epoch`; if `endless`, the next epochs follow. In epoch 0 the seed of a row is
    its own, or its number if it has none; in later epochs it is derived from that and the epoch.
    Rows of a function keep their seeds; a missing one is derived from the row's number and the
    epoch.

    `url` names one server or, with commas, several, as for `Client`. Threads make pairs in advance:
    as many in parallel as the capacity of the servers allows, and at most twice as many are ready
    or being made. With `prefetch`, both numbers are `prefetch`. The workers of a `DataLoader` share
    the rows, and so do the ranks of `torch.distributed` if its group is initialised before the
    dataset.

    While iterating, a refused row raises `InvalidRequest`; a row that fails otherwise is tried
    `attempts` times and then raises the last `MaisiError`. Leaving the loop early cancels running
    requests.
    """

    def __init__(
        self,
        rows: Rows | Callable[[int], Rows],
        url: str | None = None,
        *,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        endless: bool = False,
        epoch: int = 0,
        prefetch: int | None = None,
        attempts: int = 3,
        tls: Tls | None = None,
        timeout: float = 3600.0,
    ) -> None:
        limits = (("epoch", epoch, 0), ("prefetch", prefetch, 1), ("attempts", attempts, 1))
        for name, value, least in limits:
            if value is not None and value < least:
                raise InvalidRequest(f"{name} is {value}; {least} or more is expected")
        self.rows = rows if callable(rows) else _with_groups(rows)
        self.url = url
        self.transform, self.endless, self.epoch = transform, endless, epoch
        self.prefetch, self.attempts, self.tls, self.timeout = prefetch, attempts, tls, timeout
        self.rank, self.ranks = 0, 1
        group = torch.distributed
        if group.is_available() and group.is_initialized():  # not so in a spawned worker
            self.rank, self.ranks = group.get_rank(), group.get_world_size()

    def __iter__(self) -> Iterator[Any]:
        with closing(self._pairs()) as pairs:
            for pair in pairs:
                yield pair if self.transform is None else self.transform(pair)

    def _pairs(self) -> Generator[dict[str, Any], None, None]:
        rows = enumerate(self._share())
        ended: dict[int, dict[str, Any] | BaseException] = {}
        make = partial(_make, attempts=self.attempts)
        with ExitStack() as stack:
            # Open it here, because connections do not survive the fork of a worker.
            client = stack.enter_context(Client(self.url, tls=self.tls, timeout=self.timeout))
            fleet = stack.enter_context(Fleet(client, make, jobs=self.prefetch, in_order=True))
            added = 0
            for number in itertools.count():
                ahead = self.prefetch or _AHEAD * fleet.in_flight
                more = dict(itertools.islice(rows, max(number + ahead - added, 0)))
                fleet.add(more)
                added += len(more)
                if number == added:
                    return
                while number not in ended:
                    finished, pair = fleet.results.get()
                    ended[finished] = pair
                pair = ended.pop(number)
                if isinstance(pair, BaseException):
                    raise pair
                yield pair

    def _share(self) -> Iterator[Row]:
        """Yield the rows of this worker of this rank."""
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # Share the rows of all epochs, so that no share of an endless dataset is empty.
        first, step = self.rank * workers + index, self.ranks * workers
        return itertools.islice(self._all_rows(), first, None, step)

    def _all_rows(self) -> Iterator[Row]:
        for epoch in itertools.count(self.epoch) if self.endless else [self.epoch]:
            number = -1
            for number, row in enumerate(self.rows(epoch) if callable(self.rows) else self.rows):
                row = _row(number, row)
                if not any(row.arguments.get(key) is not None for key in ("mask", "anatomy")):
                    raise InvalidRequest(f"row '{row.name}': a pair needs a mask or an anatomy")
                seed = row.arguments.get("seed")
                if seed is None or (epoch and not callable(self.rows)):
                    seed = _derived_seed(number if seed is None else seed, epoch)
                arguments = {**row.arguments, "seed": seed}
                yield replace(row, arguments=arguments, group=row.group or row.name)
            if number < 0:
                raise InvalidRequest(f"epoch {epoch} has no row; at least one is expected")


def _with_groups(rows: Rows) -> list[Row]:
    """Return the rows with seeds and groups; the default seed is the number of the row."""
    seeded = []
    for number, row in enumerate(rows):
        row = _row(number, row)
        if row.arguments.get("seed") is None:
            row = replace(row, arguments={**row.arguments, "seed": number})
        seeded.append(row)
    return assign_groups(seeded)


def _row(number: int, row: Row | Mapping[str, Any]) -> Row:
    return row if isinstance(row, Row) else Row(f"case_{number:04}", row)


def _derived_seed(seed: int, epoch: int) -> int:
    """Return a 32-bit seed for a seed and an epoch, from numpy's SeedSequence."""
    return int(np.random.SeedSequence([seed % 2**64, epoch]).generate_state(1)[0])


def _make(
    row: Row, client: Client, release: Release, stopped: threading.Event, attempts: int
) -> dict[str, Any]:
    try:
        volume = insist(row, client, attempts, stopped)
        release([volume])
        return _pair(row, volume)
    except MaisiError as error:
        sentence = f"row '{row.name}': {error}"
        raise type(error)(sentence, error.kind, error.retry_after) from error


def _pair(row: Row, volume: Volume) -> dict[str, Any]:
    mask = volume.mask or label_image(row.arguments["mask"])
    return {
        "image": torch.from_numpy(np.array(volume.image.dataobj, np.float32)[None]),
        "label": torch.from_numpy(np.array(mask.dataobj)[None]),
        "affine": torch.from_numpy(np.array(volume.image.affine, np.float64)),
        "name": row.name,
        "group": row.group,
        "modality": volume.report["modality"],
        "seed": volume.report["seed"],
        "faithful": volume.faithful,
    }
