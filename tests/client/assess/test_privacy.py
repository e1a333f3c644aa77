"""Training volumes that were copied with a small warp and noise are named among 100."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from maisi_client._assess import features, sides, verdicts
from maisi_client._assess.alignment import align, residual
from maisi_client._assess.harmonising import coarse, windowed
from maisi_client._assess.privacy import privacy
from maisi_client._assess.sides import Side
from scipy import ndimage

from tests.client.assess.phantoms import Greys, copied, subject
from tests.client.assess.sets import HARMONY

TRAIN, REAL, NEW = range(700, 720), range(800, 820), range(900, 1000)


def light(role: str, images: Sequence[Greys], folder: Path) -> Side:
    """Return a side whose records have a slice of each plane and the coarse volume alone."""
    paths = []
    for number, image in enumerate(images):
        volume = windowed(image, "mr")
        middle = [np.take(volume, n // 2, axis) for axis, n in enumerate(volume.shape)]
        paths.append(folder / f"{role}{number}.npz")
        np.savez(
            paths[-1],
            slices=np.stack([features.describe(one, 0.1)[None] for one in middle]),
            coarse=np.rint(255 * coarse(volume, HARMONY)).astype(np.uint8),
            facts=np.array(json.dumps({})),
            **{f"view{axis}": np.zeros((2, 2), np.uint8) for axis in range(3)},
        )
    names = [f"{role} {number}" for number in range(len(images))]
    project = sides.projection(paths, network=False)
    return sides.gather(role, names, paths, project)


def pictures(seeds: Sequence[int]) -> list[Greys]:
    return [subject.__wrapped__(seed)[0] for seed in seeds]


@pytest.fixture(scope="module")
def images() -> list[Greys]:
    """Return 100 pictures, of which none is a copy."""
    return pictures(NEW)


@pytest.fixture(scope="module")
def real_ones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    base = tmp_path_factory.mktemp("real")
    return light("train", pictures(TRAIN), base), light("real", pictures(REAL), base)


def test_none_of_a_hundred_new_ones_is_suspected(
    images: list[Greys], real_ones: tuple[Side, Side], tmp_path: Path
) -> None:
    found = privacy(light("new", images, tmp_path), *real_ones)
    assert not any(pair.suspicious for pair in found.pairs)
    assert 0.9 < found.picture.ratio < 1.1 and found.picture.p > 0.01
    assert verdicts.of_privacy(found, (100, 20)).level == "good"


def test_copies_among_a_hundred_are_named(
    images: list[Greys], real_ones: tuple[Side, Side], tmp_path: Path
) -> None:
    mixed = list(images)
    for place, patient in ((27, 4), (61, 13)):
        picture = subject.__wrapped__(TRAIN[patient])[0]
        mixed[place] = copied(picture, np.random.default_rng(patient))
    new = light("new", mixed, tmp_path)
    for base in (real_ones[1], None):
        found = privacy(new, real_ones[0], base)
        named = {(pair.name, pair.training) for pair in found.pairs if pair.suspicious}
        assert named == {("new 27", "train 4"), ("new 61", "train 13")}
        assert found.held_out == (base is not None)


def test_a_volume_that_is_in_a_set_twice_hides_no_copy(images: list[Greys], tmp_path: Path) -> None:
    mixed = [*images[:20], copied(subject.__wrapped__(TRAIN[4])[0], np.random.default_rng(4))]
    new, train = light("new", mixed, tmp_path), pictures(TRAIN)
    twice = light("train", [*train, train[5]], tmp_path)
    real = light("real", [*pictures(REAL), train[7]], tmp_path)
    for base in (None, real):
        found = privacy(new, twice, base)
        assert {pair.name for pair in found.pairs if pair.suspicious} == {"new 20"}


def test_a_set_of_copies_is_nearer_as_a_whole(real_ones: tuple[Side, Side], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    copies = [copied(picture, rng) for picture in pictures(TRAIN[:12])]
    found = privacy(light("new", copies, tmp_path), *real_ones)
    assert found.picture.ratio < 0.7 and found.picture.below > 0.9 and found.picture.p < 0.01


def test_an_affine_map_and_other_greys_are_undone() -> None:
    volume = coarse(windowed(pictures([1])[0], "mr"), HARMONY)
    matrix = np.eye(3) + np.random.default_rng(2).normal(0, 0.03, (3, 3))
    offset = (np.eye(3) - matrix) @ np.full(3, 23.5) + [1.5, -1, 0.5]
    moved = 0.8 * ndimage.affine_transform(volume, matrix, offset, order=1) + 0.02
    assert residual(volume, moved) < 0.05
    other = coarse(windowed(pictures([2])[0], "mr"), HARMONY)
    assert residual(volume, other) > 0.15
    assert align(volume, volume) == pytest.approx(volume, abs=1e-3)
