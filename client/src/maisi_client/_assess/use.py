"""What a small network learns from synthetic volumes, from real ones, and from both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import InvalidRequest, MaisiError
from .harmonising import Greys, Harmony, coarse, coarse_labels, load, load_labels
from .reading import Dataset, Item

_MOST = 48  # volumes of a set: what is held in memory
_CLASSES = 8  # labels, the largest that both sets have
_LEAST = 4  # labelled volumes of a set
_STEPS, _BATCH, _RATE = 100, 2, 2e-2
_BOOTSTRAPS = 1000

Pairs = list[tuple[Greys, NDArray[np.uint8]]]


@dataclass(frozen=True)
class Trained:
    """The Dice on held-out real volumes: mean over labels and volumes, 95 % interval by bootstrap.

    `labels` are means of each label; `volumes` is how many it was trained on.
    """

    mean: float
    low: float
    high: float
    volumes: int
    labels: Mapping[str, float]


@dataclass(frozen=True)
class Use:
    """Networks of one form and number of steps, trained on each set, tested on the same volumes."""

    synthetic: Trained
    real: Trained
    both: Trained
    tested: int


def use(
    synthetic: Dataset,
    real: Dataset,
    harmony: Harmony,
    seed: int,
    on_step: Callable[[float], None],
) -> Use | None:
    """Train a small UNet on each set, and test on the other half of the real volumes.

    Volumes are `[48, 48, 48]`, the labels the largest that both sets have by name. The number of
    steps is fixed, so the time is bounded; the seed is, too. None if too few volumes have labels
    in common. Raises `MaisiError` without PyTorch and MONAI.
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
    both = [pair for two in zip(own, base, strict=False) for pair in two]
    results = []
    for number, pairs in enumerate((own, base, both)):
        network = _train(pairs, len(names), seed, partial(_third, on_step, number))
        results.append(_test(network, test, names, len(pairs), seed))
    return Use(results[0], results[1], results[2], len(test))


def _third(on_step: Callable[[float], None], number: int, done: float) -> None:
    on_step((number + done) / 3)


def _labelled(dataset: Dataset) -> list[Item]:
    return [item for item in dataset.items if item.labels is not None][: 2 * _MOST]


def _volumes(items: Sequence[Item], dataset: Dataset) -> dict[str, float]:
    """Return the mean number of voxels of each label in the first volumes, by its name."""
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
    """Return coarse volumes and their classes, 1 for the first of `names`; unreadable ones not."""
    table = np.zeros(65536, np.uint8)
    for id_, name in dataset.label_names.items():
        if name in names:
            table[id_] = names.index(name) + 1
    pairs: Pairs = []
    for item in items[:_MOST]:
        assert item.labels is not None
        try:
            volume, _, _ = load(item.image, harmony)
            labels, spacing = load_labels(item.labels)
        except InvalidRequest:
            continue
        classes = table[coarse_labels(labels, spacing, volume, harmony)]
        pairs.append((coarse(volume, harmony), classes))
    return pairs


def _train(pairs: Pairs, classes: int, seed: int, on_step: Callable[[float], None]) -> Any:
    """Return a UNet after `_STEPS` steps on volumes with changed contrast and noise."""
    try:
        import torch
        from monai.losses import DiceCELoss
        from monai.networks.nets import UNet
    except ImportError as error:
        raise MaisiError(
            f"--train needs {error.name}, which is not installed: pip install torch monai"
        ) from None
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(3, 1, classes + 1, (8, 16, 32, 64), (2, 2, 2), num_res_units=1, norm="BATCH")
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for step in range(_STEPS):
        chosen = [pairs[index] for index in rng.integers(len(pairs), size=_BATCH)]
        greys = np.stack([_changed(grey, rng) for grey, _ in chosen])
        labels = np.stack([label for _, label in chosen])
        scores = network(torch.from_numpy(greys)[:, None])
        loss = criterion(scores, torch.from_numpy(labels)[:, None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
        on_step((step + 1) / _STEPS)
    return network.eval()


def _changed(grey: Greys, rng: np.random.Generator) -> Greys:
    gamma = np.exp(rng.normal(0, 0.2))
    noise = rng.normal(0, 0.02, grey.shape)
    return np.asarray(np.clip(grey, 0, 1) ** gamma + noise, np.float32)


def _test(network: Any, pairs: Pairs, names: Sequence[str], volumes: int, seed: int) -> Trained:
    import torch

    dice = np.full((len(pairs), len(names)), np.nan)
    for row, (grey, truth) in enumerate(pairs):
        with torch.inference_mode():
            found = network(torch.from_numpy(grey)[None, None]).argmax(1)[0].numpy()
        for column in range(len(names)):
            mask, own = found == column + 1, truth == column + 1
            if own.any():
                dice[row, column] = 2 * (mask & own).sum() / (mask.sum() + own.sum())
    each = np.nanmean(dice, axis=1)
    rng = np.random.default_rng(seed)
    means = [rng.choice(each, len(each)).mean() for _ in range(_BOOTSTRAPS)]
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    labels = dict(zip(names, np.nanmean(dice, axis=0).tolist(), strict=True))
    return Trained(float(each.mean()), low, high, volumes, labels)
