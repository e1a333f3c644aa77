"""Warped heads, their masks and their renders."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from export import variant
from training import anatomy, data, synthesis


@pytest.fixture(scope="module")
def head() -> anatomy.Labels:
    """Skin around skull around fluid around grey around white matter around ventricles."""
    grid = [np.linspace(-1, 1, n) for n in anatomy.SHAPE]
    x, y, z = np.meshgrid(*grid, indexing="ij", sparse=True)
    radius = np.sqrt(x**2 + y**2 + z**2)
    shells = ((0.9, 168), (0.85, 120), (0.75, 131), (0.72, 22), (0.6, 227), (0.2, 233))
    labels = np.zeros(anatomy.SHAPE, np.uint8)
    for edge, label in shells:
        labels[radius < edge] = label
    labels[(radius < 0.6) & (radius >= 0.2) & (x < 0)] = 228
    labels[(radius < 0.2) & (x < 0)] = 234
    return labels


def test_flipping_twice_is_nothing_and_once_swaps_sides() -> None:
    assert (synthesis.FLIP[synthesis.FLIP] == np.arange(256)).all()
    assert synthesis.FLIP[227] == 228
    assert synthesis.FLIP[22] == 22


def test_every_label_is_in_the_vocabulary_that_mini_serves(head: anatomy.Labels) -> None:
    known = {int(label) for label in variant.load("mini").serving["labels"]}
    painted = set(np.flatnonzero(synthesis.MEANS.any(0)).tolist())
    assert painted == known - {0}
    assert variant.load("mini").serving["modalities"] == synthesis.MODALITIES
    for seed in range(2):
        who = synthesis.subject(np.random.default_rng(seed), [head, head])
        assert who.mask.shape == synthesis.SIZE
        assert set(np.unique(who.mask).tolist()) <= known


def test_the_same_seed_makes_the_same_subject(head: anatomy.Labels) -> None:
    one, two = (synthesis.subject(np.random.default_rng(3), [head, head]) for _ in range(2))
    assert (one.mask == two.mask).all()
    assert one.spacing == two.spacing


def test_a_render_orders_tissues_as_its_contrast_does(head: anatomy.Labels) -> None:
    rng = np.random.default_rng(0)
    who = synthesis.subject(rng, [head, head])
    t1, t2 = (synthesis.render(rng, who, name) for name in ("mri_t1", "mri_t2"))
    white = np.isin(who.mask, (227, 228))
    fluid = np.isin(who.mask, (233, 234))
    assert t1[white].mean() > t1[fluid].mean() + 0.3
    assert t2[white].mean() < t2[fluid].mean() - 0.3
    far = ndimage.binary_erosion(who.mask == 0, iterations=4)
    assert (t1[far] == 0).all()


def test_a_skull_stripped_image_fades_at_the_border_of_the_brain(head: anatomy.Labels) -> None:
    rng = np.random.default_rng(0)
    who = synthesis.subject(rng, [head, head])
    whole = np.stack([synthesis.render(rng, who, name) for name in synthesis.CONTRASTS])
    stripped = data.image(who.mask, whole.astype(np.float16), "mri_t1_skull_stripped")
    outside = np.isin(who.mask, (0, *synthesis.OUTSIDE))
    assert whole[0][who.mask == 168].mean() > 0.3
    assert stripped[ndimage.binary_erosion(outside, iterations=3)].max() < 0.001
    inside = ndimage.binary_erosion(~outside, iterations=3)
    assert np.abs(stripped[inside] - whole[0][inside]).max() < 0.01
