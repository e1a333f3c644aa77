"""Compute the networks' conditioning and noise from a plan and a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from .inputs import Array, Variant
from .morphology import grow
from .request import Plan, condition_names


def condition_rows(variant: Variant, plan: Plan) -> dict[str, Array]:
    """Return the flow's conditions except the mask, by name, with R rows each."""
    names = condition_names(variant)
    return {name: rows_of(variant, plan) for name, rows_of in _ROWS.items() if name in names}


def label_rows(variant: Variant, plan: Plan, mask: Array | None) -> npt.NDArray[np.uint8]:
    """Return the label ids for the mask encoder, [R, X', Y', Z'], padded with background.

    Row 0 is `mask`. With guidance, row 1 is the mask with every lesion replaced by the organ around
    it. Without a mask, there is one small empty row, which is not read.
    """
    if mask is None:
        side = variant["size"]["multiple"]
        return np.zeros((1, side, side, side), np.uint8)
    rows = np.zeros((plan.rows, *plan.padded_size), np.uint8)
    x, y, z = plan.size
    rows[0, :x, :y, :z] = mask
    if plan.rows == 2:
        healthy = organs_of_lesions(variant, mask)
        for plane, healthy_plane in zip(rows[0], rows[1], strict=True):
            np.take(healthy, plane, out=healthy_plane)
    return rows


def organs_of_lesions(variant: Variant, mask: Array) -> npt.NDArray[np.uint8]:
    """Return, for every label id [256], the organ around it if it is a lesion, else the id."""
    healthy = np.arange(256, dtype=np.uint8)
    for lesion, organ in variant["lesions"].items():
        healthy[int(lesion)] = organ
    for lesion, organs in variant.get("lesion_neighbours", {}).items():
        if (mask == int(lesion)).any():
            healthy[int(lesion)] = _most_frequent_around(mask, int(lesion), organs)
    return healthy


def _most_frequent_around(mask: Array, lesion: int, organs: list[int]) -> int:
    """Return which of `organs` has the most voxels that share a face, edge or corner with `lesion`.

    The method is that of remove_tumors_majority_vote in scripts/augmentation.py of
    NV-Generate-CTMR, except that there all lesions count together and the faces of the volume count
    as neighbours. If the lesion has no such neighbour, the voxels of the whole volume count. If two
    organs are equal, the smaller id is returned.
    """
    part = mask == lesion
    near = np.zeros(mask.shape, bool)
    box = []
    for axis in range(3):
        near.swapaxes(0, axis)[[0, -1]] = True
        planes = np.flatnonzero(part.any(tuple({0, 1, 2} - {axis})))
        box.append(slice(max(planes[0] - 1, 0), planes[-1] + 2))
    near[tuple(box)] |= grow(part[tuple(box)])
    ids = np.sort(np.array(organs))
    around = mask[near & ~part]
    counts = [np.count_nonzero(around == organ) for organ in ids]
    if not any(counts):
        counts = [np.count_nonzero(mask == organ) for organ in ids]
    return int(ids[np.argmax(counts)])


def noise(
    variant: Variant, plan: Plan, latent: Array | None, attempt: int = 0
) -> npt.NDArray[np.float32]:
    """Return the initial latent [1, C, x, y, z]: `latent`, or noise from the seed.

    Each `attempt` after the first, which is 0, has other noise:
    `Philox(SeedSequence(seed, spawn_key=(2, attempt)))`.
    """
    if latent is not None:
        return np.ascontiguousarray(latent, np.float32)
    key = (2, attempt) if attempt else ()
    return random_stream(plan.seed, *key).standard_normal(plan.latent_shape(variant), np.float32)


def fresh_noise(
    variant: Variant, plan: Plan, attempt: int = 0
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield new noise [1, C, x, y, z] for every step with `fresh`.

    The random numbers do not depend on whether the request has a latent:
    `Philox(SeedSequence(seed, spawn_key=(1,)))`, or `(1, attempt)` after the first attempt.
    """
    key = (1, attempt) if attempt else (1,)
    yield from _noises(random_stream(plan.seed, *key), plan.latent_shape(variant))


def mask_noise(plan: Plan, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield noise for the generation of a mask: `Philox(SeedSequence(seed, spawn_key=(3,)))`."""
    yield from _noises(random_stream(plan.seed, 3), shape)


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """Return a random generator of a request: `Philox(SeedSequence(seed, spawn_key=key))`.

    Generators with different keys are independent. Without a key, it is `Philox(seed)`.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _noises(
    random: np.random.Generator, shape: tuple[int, ...]
) -> Iterator[npt.NDArray[np.float32]]:
    while True:
        yield random.standard_normal(shape, np.float32)


def class_labels(variant: Variant, plan: Plan) -> npt.NDArray[np.int64]:
    """Return the modality's code [R]; the unconditional row has 0, which means no modality."""
    return np.array([plan.class_label, 0][: plan.rows], np.int64)


def spacing_mm100(variant: Variant, plan: Plan) -> npt.NDArray[np.float32]:
    """Return the spacing in hundredths of a millimetre, [R, 3]."""
    return np.tile(np.array(plan.spacing, np.float32) * np.float32(100), (plan.rows, 1))


def top_region_index(variant: Variant, plan: Plan) -> npt.NDArray[np.float32]:
    """Return 100 at the top region of the volume and 0 elsewhere, [R, regions]."""
    return _one_hot(variant, plan, plan.top_region)


def bottom_region_index(variant: Variant, plan: Plan) -> npt.NDArray[np.float32]:
    """Return 100 at the bottom region of the volume and 0 elsewhere, [R, regions]."""
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
