"""Warped heads, their masks and their renders."""

from __future__ import annotations

import numpy as np
import pytest

from export import variant
from training import anatomy, synthesis


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
    assert (t1[who.mask == 0] == 0).all()


def test_a_skull_stripped_render_is_dark_outside_the_brain(head: anatomy.Labels) -> None:
    rng = np.random.default_rng(0)
    who = synthesis.subject(rng, [head, head])
    whole = synthesis.render(rng, who, "mri_t1")
    stripped = synthesis.render(rng, who, "mri_t1_skull_stripped")
    skin = who.mask == 168
    assert whole[skin].mean() > 0.3
    assert stripped[skin].mean() < 0.05
