"""Train small networks on synthetic volumes, on real volumes and on both, and compare them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import MaisiError
from .harmonising import Greys, Harmony, coarse, coarse_labels, load, load_labels
from .reading import Dataset, Item

_MOST = 48  # most volumes of a set; they are all in memory
_CLASSES = 8  # most labels: the largest labels that both sets have
_LEAST = 4  # least labelled volumes of a set
_STEPS, _BATCH, _RATE = 200, 2, 2e-2
_SECONDS = 300.0  # time limit for the training of all three networks
_BOOTSTRAPS = 1000

Pairs = list[tuple[Greys, NDArray[np.uint8]]]


@dataclass(frozen=True)
class Trained:
    """The Dice coefficient of a network on held-out real volumes.

    `mean` is the mean over labels and volumes, from `low` to `high` its 95 % interval by bootstrap.
    `labels` has the mean of each label. `volumes` is the number of volumes in the training.
    """

    mean: float
    low: float
    high: float
    volumes: int
    labels: Mapping[str, float]


@dataclass(frozen=True)
class Use:
    """Equal networks that were each trained on one set by `steps` steps.

    `tested` is the number of volumes in the test. `planned` is the number of steps without the time
    limit.
    """

    synthetic: Trained
    real: Trained
    both: Trained
    tested: int
    steps: int
    planned: int


def check_libraries() -> None:
    """Raise `MaisiError` if PyTorch or MONAI is missing."""
    try:
        import monai  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MaisiError(
            f"--train needs {error.name}, which is not installed: pip install torch monai"
        ) from None


def use(
    synthetic: Dataset,
    real: Dataset,
    harmony: Harmony,
    seed: int,
    on_step: Callable[[float], None],
) -> Use | None:
    """Return the results of a small UNet for each set; None if too few volumes have common labels.

    One half of the real volumes is for training, the other half for the test. Volumes are
    `[48, 48, 48]`. The labels are the largest that both sets have, by name. If `_SECONDS` are over
    before `_STEPS` steps, all networks have the same smaller number of steps. `on_step` is called
    with the fraction that is done. All files of the datasets must be readable.
    """
    sides = [_labelled(dataset) for dataset in (synthetic, real)]
    if len(sides[0]) < _LEAST or len(sides[1]) < 2 * _LEAST:
        return None
    held_out, others = sides[1][1::2], sides[1][0::2]
    tables = [
        _volumes(items, dataset) for items, dataset in ((sides[0], synthetic), (others, real))
    ]
    common = sorted(tables[0].keys() & tables[1].keys(), key=lambda name: -tables[1][name])
    names = common[:_CLASSES]
    if not names:
        return None
    own = _pairs(sides[0], synthetic, names, harmony)
    base, test = (_pairs(items, real, names, harmony) for items in (others, held_out))
    test = [(volume, classes) for volume, classes in test if classes.any()]
    if not test:
        return None
    both = [pair for two in zip(own, base, strict=False) for pair in two]
    with _one_thread():
        sets = (own, base, both)
        networks, steps = _train(sets, len(names), seed, on_step)
        results = [
            _test(network, test, names, len(pairs), seed)
            for network, pairs in zip(networks, sets, strict=True)
        ]
    return Use(results[0], results[1], results[2], len(test), steps, _STEPS)


def _labelled(dataset: Dataset) -> list[Item]:
    return [item for item in dataset.items if item.labels is not None][: 2 * _MOST]


def _volumes(items: Sequence[Item], dataset: Dataset) -> dict[str, float]:
    """Return the mean number of voxels of each label, by name, in the first volumes."""
    counts: dict[str, float] = {}
    for item in items[:8]:
        assert item.labels is not None
        ids, voxels = np.unique(load_labels(item.labels)[0], return_counts=True)
        for id_, number in zip(ids.tolist(), voxels.tolist(), strict=True):
            if id_:
                name = dataset.label_names.get(id_, f"label {id_}")
                counts[name] = counts.get(name, 0.0) + number
    return counts


def _pairs(
    items: Sequence[Item], dataset: Dataset, names: Sequence[str], harmony: Harmony
) -> Pairs:
    """Return coarse volumes and their classes; class 1 is the first of `names`."""
    table = np.zeros(65536, np.uint8)
    for id_, name in dataset.label_names.items():
        if name in names:
            table[id_] = names.index(name) + 1
    pairs: Pairs = []
    for item in items[:_MOST]:
        assert item.labels is not None
        volume, _, _ = load(item.image, harmony)
        labels, spacing = load_labels(item.labels)
        classes = table[coarse_labels(labels, spacing, volume, harmony)]
        pairs.append((coarse(volume, harmony), classes))
    return pairs


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, because several threads are slower for such a small network."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(
    sets: Sequence[Pairs], classes: int, seed: int, on_step: Callable[[float], None]
) -> tuple[list[Any], int]:
    """Return a UNet for each set, and the number of training steps of each.

    The networks are trained in turn, one step at a time, so that all have the same number of steps
    when the time is over. The learning rate falls to 0 at the end, whether the steps or the time
    end the training.
    """
    learners = [_Learner(pairs, classes, seed) for pairs in sets]
    started, steps, done = time.monotonic(), 0, 0.0
    while done < 1:
        for learner in learners:
            learner.step(_RATE * (1 + np.cos(np.pi * done)) / 2)
        steps += 1
        done = max(steps / _STEPS, (time.monotonic() - started) / _SECONDS)
        on_step(min(done, 1.0))
    return [learner.network.eval() for learner in learners], steps


class _Learner:
    """A UNet in training on volumes with changed contrast and noise."""

    def __init__(self, pairs: Pairs, classes: int, seed: int) -> None:
        import torch
        from monai.losses import DiceCELoss
        from monai.networks.nets import UNet

        self._pairs = pairs
        self._rng = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = UNet(3, 1, classes + 1, (8, 16, 32, 64), (2, 2, 2), norm="BATCH")
        self._criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
        self._optimizer = torch.optim.AdamW(self.network.parameters())

    def step(self, rate: float) -> None:
        """Train on a few volumes with a learning rate."""
        import torch

        rows = self._rng.integers(len(self._pairs), size=_BATCH)
        greys = np.stack([_changed(self._pairs[row][0], self._rng) for row in rows])
        labels = np.stack([self._pairs[row][1] for row in rows])
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        scores = self.network(torch.from_numpy(greys)[:, None])
        loss = self._criterion(scores, torch.from_numpy(labels)[:, None])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def _changed(grey: Greys, rng: np.random.Generator) -> Greys:
    gamma = np.exp(rng.normal(0, 0.2))
    noise = rng.normal(0, 0.02, grey.shape)
    return np.asarray(np.clip(grey, 0, 1) ** gamma + noise, np.float32)


def _test(network: Any, pairs: Pairs, names: Sequence[str], volumes: int, seed: int) -> Trained:
    import torch

    dice = np.full((len(pairs), len(names)), np.nan)
    for row, (grey, truth) in enumerate(pairs):
        with torch.inference_mode():
            predicted = network(torch.from_numpy(grey)[None, None]).argmax(1)[0].numpy()
        for column in range(len(names)):
            mask, own = predicted == column + 1, truth == column + 1
            if own.any():
                dice[row, column] = 2 * (mask & own).sum() / (mask.sum() + own.sum())
    each = np.nanmean(dice, axis=1)
    rng = np.random.default_rng(seed)
    means = [rng.choice(each, len(each)).mean() for _ in range(_BOOTSTRAPS)]
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    labels = {
        name: float(np.nanmean(column))
        for name, column in zip(names, dice.T, strict=True)
        if not np.isnan(column).all()  # a label that is in no volume has no mean
    }
    return Trained(float(each.mean()), low, high, volumes, labels)
