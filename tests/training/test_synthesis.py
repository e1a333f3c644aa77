"""Warped heads, their masks and their renders."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from export import variant as variants
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


@pytest.fixture(scope="module")
def subject(head: anatomy.Labels) -> synthesis.Subject:
    return synthesis.subject(np.random.default_rng(0), [head, head])


@pytest.fixture(scope="module")
def images(subject: synthesis.Subject) -> NDArray[np.float32]:
    """Return the subject's renders `[4, X, Y, Z]` in the order of `CONTRASTS`."""
    rng = np.random.default_rng(0)
    return np.stack([synthesis.render(rng, subject, name) for name in synthesis.CONTRASTS])


def test_flipping_twice_is_nothing_and_once_swaps_sides() -> None:
    assert (synthesis.FLIP[synthesis.FLIP] == np.arange(256)).all()
    assert synthesis.FLIP[227] == 228
    assert synthesis.FLIP[22] == 22


def test_every_label_is_in_the_vocabulary_that_mini_serves(
    head: anatomy.Labels, subject: synthesis.Subject
) -> None:
    vocabulary = {int(label) for label in variants.load("mini").serving["labels"]}
    rendered = set(np.flatnonzero(synthesis.MEANS.any(0)).tolist())
    assert rendered == vocabulary - {0}
    assert variants.load("mini").serving["modalities"] == synthesis.MODALITIES
    other = synthesis.subject(np.random.default_rng(1), [head, head])
    for mask in (subject.mask, other.mask):
        assert mask.shape == synthesis.SIZE
        assert set(np.unique(mask).tolist()) <= vocabulary
    assert (subject.mask != other.mask).any()


def test_the_same_seed_gives_the_same_subject(
    head: anatomy.Labels, subject: synthesis.Subject
) -> None:
    second = synthesis.subject(np.random.default_rng(0), [head, head])
    assert (second.mask == subject.mask).all()
    assert second.spacing == subject.spacing


def test_a_render_orders_tissues_as_its_contrast_does(
    subject: synthesis.Subject, images: NDArray[np.float32]
) -> None:
    t1, t2 = images[:2]
    white = np.isin(subject.mask, (227, 228))
    fluid = np.isin(subject.mask, (233, 234))
    assert t1[white].mean() > t1[fluid].mean() + 0.3
    assert t2[white].mean() < t2[fluid].mean() - 0.3
    background = ndimage.binary_erosion(subject.mask == 0, iterations=4)
    assert (t1[background] == 0).all()


def test_a_skull_stripped_image_fades_at_the_border_of_the_brain(
    subject: synthesis.Subject, images: NDArray[np.float32]
) -> None:
    t1, mask = images[0], subject.mask
    stripped = data.image(mask, images.astype(np.float16), "mri_t1_skull_stripped")
    outside = np.isin(mask, (0, *synthesis.OUTSIDE))
    assert t1[mask == 168].mean() > 0.3
    assert stripped[ndimage.binary_erosion(outside, iterations=3)].max() < 0.001
    inside = ndimage.binary_erosion(~outside, iterations=3)
    assert np.abs(stripped[inside] - t1[inside]).max() < 0.01
