"""From a plan and a mask to what the networks take."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from .inputs import Array, Variant
from .morphology import grow
from .request import Plan, conditions


def rows(variant: Variant, plan: Plan) -> dict[str, Array]:
    """Return what steers the flow beside a mask, R rows each; which ones, the variant says."""
    wanted = conditions(variant)
    return {name: rows_of(variant, plan) for name, rows_of in _ROWS.items() if name in wanted}


def labels(variant: Variant, plan: Plan, mask: Array | None) -> npt.NDArray[np.uint8]:
    """Return the label ids for the mask encoder, [R, X', Y', Z'], padded with background.

    Row 0 is `mask`; under guidance row 1 is the mask with every lesion replaced by the organ it
    sits in. Without a mask, one small empty row, which nothing reads.
    """
    if mask is None:
        side = variant["size"]["multiple"]
        return np.zeros((1, side, side, side), np.uint8)
    rows = np.zeros((plan.rows, *plan.padded_size), np.uint8)
    x, y, z = plan.size
    rows[0, :x, :y, :z] = mask
    if plan.rows == 2:
        healthy = organs_of_lesions(variant, mask)
        for diseased, cured in zip(rows[0], rows[1], strict=True):
            np.take(healthy, diseased, out=cured)
    return rows


def organs_of_lesions(variant: Variant, mask: Array) -> npt.NDArray[np.uint8]:
    """Return for every label id [256] the organ it sits in where it is a lesion, else itself."""
    healthy = np.arange(256, dtype=np.uint8)
    for lesion, organ in variant["lesions"].items():
        healthy[int(lesion)] = organ
    for lesion, organs in variant.get("lesion_neighbours", {}).items():
        if (mask == int(lesion)).any():
            healthy[int(lesion)] = _most_frequent_around(mask, int(lesion), organs)
    return healthy


def _most_frequent_around(mask: Array, lesion: int, organs: list[int]) -> int:
    """Return which of `organs` holds most of the voxels that touch `lesion`, by a corner even.

    As remove_tumors_majority_vote in scripts/augmentation.py of NV-Generate-CTMR, where all lesions
    vote together and the faces of the volume count as touched. When none touches, the whole volume
    votes; of two equals the smaller id wins.
    """
    sick = mask == lesion
    near = np.zeros(mask.shape, bool)
    box = []
    for axis in range(3):
        near.swapaxes(0, axis)[[0, -1]] = True
        found = np.flatnonzero(sick.any(tuple({0, 1, 2} - {axis})))
        box.append(slice(max(found[0] - 1, 0), found[-1] + 2))
    near[tuple(box)] |= grow(sick[tuple(box)])
    ids = np.sort(np.array(organs))
    around = mask[near & ~sick]
    counts = [np.count_nonzero(around == organ) for organ in ids]
    if not any(counts):
        counts = [np.count_nonzero(mask == organ) for organ in ids]
    return int(ids[np.argmax(counts)])


def noise(
    variant: Variant, plan: Plan, latent: Array | None, attempt: int = 0
) -> npt.NDArray[np.float32]:
    """Return the latent to start from, [1, C, x, y, z]: `latent`, or noise drawn from the seed.

    An `attempt` after the first, which is 0, has noise of its own:
    `Philox(SeedSequence(seed, spawn_key=(2, attempt)))`.
    """
    if latent is not None:
        return np.ascontiguousarray(latent, np.float32)
    key = (2, attempt) if attempt else ()
    return stream(plan.seed, *key).standard_normal(plan.latent_shape(variant), np.float32)


def fresh_noise(
    variant: Variant, plan: Plan, attempt: int = 0
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield a new [1, C, x, y, z] for every step that asks for one.

    It comes from a stream of its own, so that it is the same whether or not the latent to start
    from was given: `Philox(SeedSequence(seed, spawn_key=(1,)))`, or `(1, attempt)` after the first.
    """
    key = (1, attempt) if attempt else (1,)
    yield from _noises(stream(plan.seed, *key), plan.latent_shape(variant))


def mask_noise(plan: Plan, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield noise for a mask to be made: `Philox(SeedSequence(seed, spawn_key=(3,)))`."""
    yield from _noises(stream(plan.seed, 3), shape)


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return random numbers of a request: `Philox(SeedSequence(seed, spawn_key=key))`.

    Streams of different keys are apart; without a key it is `Philox(seed)`.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _noises(
    random: np.random.Generator, shape: tuple[int, ...]
) -> Iterator[npt.NDArray[np.float32]]:
    while True:
        yield random.standard_normal(shape, np.float32)


def class_labels(variant: Variant, plan: Plan) -> npt.NDArray[np.int64]:
    """Return the modality's code [R]; 0 stands for no modality in the unconditional row."""
    return np.array([plan.class_label, 0][: plan.rows], np.int64)


def spacing_mm100(variant: Variant, plan: Plan) -> npt.NDArray[np.float32]:
    """Return the spacing in hundredths of a millimetre, [R, 3]."""
    return np.tile(np.array(plan.spacing, np.float32) * np.float32(100), (plan.rows, 1))


def top_region_index(variant: Variant, plan: Plan) -> npt.NDArray[np.float32]:
    """Return 100 at the region of the volume's top, 0 elsewhere, [R, regions]."""
    return _one_hot(variant, plan, plan.top_region)


def bottom_region_index(variant: Variant, plan: Plan) -> npt.NDArray[np.float32]:
    """Return 100 at the region of the volume's bottom, 0 elsewhere, [R, regions]."""
    return _one_hot(variant, plan, plan.bottom_region)


def _one_hot(variant: Variant, plan: Plan, region: str | None) -> npt.NDArray[np.float32]:
    row = [100.0 * (name == region) for name in variant["regions"]["names"]]
    return np.tile(np.array(row, np.float32), (plan.rows, 1))


_ROWS: dict[str, Callable[[Variant, Plan], Array]] = {
    "class_labels": class_labels,
    "spacing_mm100": spacing_mm100,
    "top_region_index": top_region_index,
    "bottom_region_index": bottom_region_index,
}
