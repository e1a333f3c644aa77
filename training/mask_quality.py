"""Measures of whether generated masks follow the requested sizes and differ from training masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .anatomy import TUMOUR, WMH
from .masks import ABSENT, LABELS, SIZES, classes, sizes

Labels = NDArray[np.uint8]
# Takes the sizes `[4]` in the order of SIZES and a seed; returns a mask `[X, Y, Z]`.
Draw = Callable[[NDArray[np.float32], int], Labels]

LOWEST, HIGHEST = 0.05, 0.95  # of the requested sizes; at 0 and 1 sizes are clipped
_LESIONS = [index for index, size in enumerate(SIZES) if size.labels[0] in (WMH, TUMOUR)]
_STRIDE = 2  # of the voxels compared


def follow(
    draw: Draw, typical: NDArray[np.float32], draws: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return how the drawn masks follow each size: its name -> measures over `draws` masks.

    The size is drawn uniformly from 0.05..0.95; the others are a random row of `typical` `[N, 4]`,
    without lesions. `correlation` and mean absolute `error` compare requested and obtained sizes;
    an absent structure has the size 0. `absent`: share of masks without the structure; `unasked`:
    share of masks with a lesion that was not requested.
    """
    rng = np.random.default_rng(seed)
    table = {}
    for index, size in enumerate(SIZES):
        asked = rng.uniform(LOWEST, HIGHEST, draws)
        others = [lesion for lesion in _LESIONS if lesion != index]
        obtained = np.zeros((draws, len(SIZES)))
        for number, value in enumerate(asked):
            request = typical[rng.integers(len(typical))].astype(np.float32)
            request[_LESIONS] = ABSENT
            request[index] = value
            obtained[number] = sizes(draw(request, seed + index * draws + number))
        got = np.maximum(obtained[:, index], 0)
        constant = float(got.std()) == 0
        table[size.name] = {
            "correlation": 0.0 if constant else float(np.corrcoef(asked, got)[0, 1]),
            "error": float(np.abs(asked - got).mean()),
            "absent": float((obtained[:, index] == ABSENT).mean()),
            "unasked": float((obtained[:, others] != ABSENT).any(1).mean()),
        }
    return table


def nearest_dice(mask: Labels, others: Sequence[Labels]) -> float:
    """Return the Dice of `mask` with the most similar of `others`, all `[X, Y, Z]`.

    It is the mean over labels that are in both; every second voxel of each axis is compared.
    """
    compared = _compared(mask)
    return max(mean_dice(compared, _compared(other)) for other in others)


def _compared(mask: Labels) -> Labels:
    return classes(mask[::_STRIDE, ::_STRIDE, ::_STRIDE])


def mean_dice(first: Labels, second: Labels) -> float:
    """Return the mean Dice of the classes from 1 on that are in both; 0 without any.

    `first` and `second` are results of `classes`, of one shape.
    """
    count = len(LABELS)
    pairs = first.ravel().astype(np.int64) * count + second.ravel()
    both = np.bincount(pairs, minlength=count**2).reshape(count, count)
    in_first, in_second = both.sum(1)[1:], both.sum(0)[1:]
    common = (in_first > 0) & (in_second > 0)
    if not common.any():
        return 0.0
    dice = 2 * both.diagonal()[1:][common] / (in_first + in_second)[common]
    return float(dice.mean())


def measure(
    draw: Draw,
    training: Sequence[Labels],
    held_out: Sequence[Labels],
    draws: int = 40,
    new: int = 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Return `follow`, the result of that function, and `nearest`: name -> list of `nearest_dice`.

    `nearest` compares with the training masks `new` masks that are drawn with the sizes of random
    training masks, and, for reference, the held-out masks.
    """
    typical = np.stack([sizes(mask) for mask in training])
    rows = np.random.default_rng(seed).integers(len(typical), size=new)
    first = seed + len(SIZES) * draws  # seeds that `follow` has not used
    drawn = [draw(typical[row], first + number) for number, row in enumerate(rows)]
    return {
        "follow": follow(draw, typical, draws, seed),
        "nearest": {
            "drawn": [nearest_dice(mask, training) for mask in drawn],
            "held out": [nearest_dice(mask, training) for mask in held_out],
        },
    }


def markdown(quality: dict[str, Any]) -> str:
    """Return the result of `measure` as two Markdown tables."""
    lines = [
        "| size | range, ml | correlation | error | absent | unasked lesion |",
        "|---" * 6 + "|",
    ]
    for size in SIZES:
        row = quality["follow"][size.name]
        lines.append(
            f"| {size.name} | {size.low:g} to {size.high:g} | {row['correlation']:.2f} "
            f"| {row['error']:.2f} | {row['absent']:.0%} | {row['unasked']:.0%} |"
        )
    lines += ["", "| masks | number | nearest training mask, Dice | highest |", "|---" * 4 + "|"]
    for name, dices in quality["nearest"].items():
        mean, highest = np.mean(dices), np.max(dices)
        lines.append(f"| {name} | {len(dices)} | {mean:.2f} | {highest:.2f} |")
    return "\n".join(lines)
