"""Warped heads, their masks and their renders."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from export import variant as variants
from training import anatomy as a
from training import data, heads, synthesis, warps
from training.sources import SHAPE


@pytest.fixture(scope="module")
def head() -> heads.Head:
    """Return skin around skull around fluid around grey around white matter around ventricles.

    Its texture alternates from slice to slice.
    """
    grid = [np.linspace(-1, 1, n) for n in SHAPE]
    x, y, z = np.meshgrid(*grid, indexing="ij", sparse=True)
    radius = np.sqrt(x**2 + y**2 + z**2)
    shells = ((0.9, 168), (0.85, 120), (0.75, 131), (0.68, 22), (0.6, 227), (0.2, 233))
    labels = np.zeros(SHAPE, np.uint8)
    for edge, label in shells:
        labels[radius < edge] = label
    labels[(radius < 0.6) & (radius >= 0.2) & (x < 0)] = 228
    labels[(radius < 0.2) & (x < 0)] = 234
    texture = np.broadcast_to(np.where(np.arange(181) // 4 % 2, 80, -80), labels.shape)
    return heads.make_head(labels, texture.astype(np.int8))


@pytest.fixture(scope="module")
def subject(head: heads.Head) -> synthesis.Subject:
    return synthesis.subject(np.random.default_rng(0), [head] * 3)


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
    head: heads.Head, subject: synthesis.Subject
) -> None:
    vocabulary = {int(label) for label in variants.load("mini").serving["labels"]}
    rendered = set(np.flatnonzero(synthesis.MEANS.any(0)).tolist())
    assert rendered == vocabulary - {0}
    assert variants.load("mini").serving["modalities"] == synthesis.MODALITIES
    other = synthesis.subject(np.random.default_rng(1), [head] * 3)
    for mask in (subject.mask, other.mask):
        assert mask.shape == synthesis.SIZE
        assert set(np.unique(mask).tolist()) <= vocabulary
    assert (subject.mask != other.mask).any()


def test_the_same_seed_gives_the_same_subject(head: heads.Head, subject: synthesis.Subject) -> None:
    second = synthesis.subject(np.random.default_rng(0), [head] * 3)
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


def test_texture_changes_an_image_by_percents_of_its_tissue_and_not_its_mask(
    head: heads.Head, subject: synthesis.Subject
) -> None:
    plain_head = dataclasses.replace(head, texture=np.zeros_like(head.texture))
    plain = synthesis.subject(np.random.default_rng(0), [plain_head] * 3)
    assert (plain.mask == subject.mask).all()
    assert np.abs(subject.texture).max() == pytest.approx(80 / heads.UNIT, rel=0.01)
    white = ndimage.binary_erosion(np.isin(subject.mask, synthesis.WHITE), iterations=3)
    bright = {}
    for name in ("mri_t1", "mri_t2"):
        textured, smooth = (
            synthesis.render(np.random.default_rng(0), s, name) for s in (subject, plain)
        )
        change = (textured / np.maximum(smooth, 0.01))[white] - 1
        assert 0.02 < change.std() < 0.14
        bright[name] = change
    assert np.corrcoef(bright["mri_t1"], bright["mri_t2"])[0, 1] < -0.8


def test_a_render_is_sharper_than_itself_blurred_by_a_voxel(images: NDArray[np.float32]) -> None:
    def energy(image: NDArray[np.float32]) -> float:
        return float(sum((np.diff(image, axis=axis) ** 2).mean() for axis in range(3)))

    for image in images:
        # at the blur of 0.6 voxels 0.40 to 0.45 of the energy would be left
        assert energy(ndimage.gaussian_filter(image, 1)) < 0.36 * energy(image)


def test_no_warp_folds() -> None:
    for seed in (0, 12, 39):  # of the latter two, ventricles grow nearly as much as they can
        position = warps.coordinates(np.random.default_rng(seed), synthesis.SIZE, 2.0, atrophy=1.0)
        assert warps.least_volume(position) > 0.2
    mirrored = position.clone()
    mirrored[0, :20] = mirrored[0, :20].flip(0)  # a part runs backwards
    assert warps.least_volume(mirrored) < 0


def test_little_variation_moves_a_head_less() -> None:
    none, little, full = (
        warps.coordinates(np.random.default_rng(0), synthesis.SIZE, 2.0, 0.0, variation)
        for variation in (0.0, data.LITTLE, 1.0)
    )
    share = float((little - none).abs().mean() / (full - none).abs().mean())
    assert share == pytest.approx(data.LITTLE, rel=0.2)


def test_training_subjects_of_little_variation_have_no_lesions(head: heads.Head) -> None:
    subjects = {seed: data.draw([head] * 3, seed)[1] for seed in range(6)}
    lesions = {seed: np.isin(s.mask, (a.WMH, a.TUMOUR)).any() for seed, s in subjects.items()}
    assert not any(lesions[seed] for seed in (1, 3, 5)) and any(lesions[n] for n in (0, 2, 4))
    for seed, s in subjects.items():
        assert abs(s.spacing - synthesis.SPACING) <= 0.2 * data.variation(seed)


def test_atrophy_enlarges_the_ventricles(head: heads.Head) -> None:
    sizes = []
    for atrophy in (0.0, 1.0):
        position = warps.coordinates(np.random.default_rng(0), synthesis.SIZE, 2.0, atrophy)
        offset = position - (torch.tensor(SHAPE).view(3, 1, 1, 1) - 1) / 2
        sizes.append(int((offset.square().sum(0) < 15**2).sum()))
    assert sizes[1] > 1.2 * sizes[0]


def test_borders_move_the_cortex_share_in_their_direction(head: heads.Head) -> None:
    border = np.stack([head.white_border, head.pial_border]).astype(np.float32) / 10
    right = np.broadcast_to(np.arange(181)[:, None, None] >= 90, SHAPE)

    def count(white_mm: float, pial_mm: float) -> dict[int, int]:
        labels = head.labels.copy()
        synthesis.move_borders(labels, right, border, white_mm, pial_mm)
        moved = labels != head.labels
        touched = np.isin(head.labels, (22, 131, 227, 228))
        assert not (moved & ~touched).any()
        assert not (labels[~right] == 227).any() and not (labels[right] == 228).any()
        return {label: int((labels == label).sum()) for label in (22, 131, 227)}

    still, thin, thick, shrunk = count(0, 0), count(1, 0), count(-1, 0), count(0, -1)
    assert still[22] == (head.labels == 22).sum()
    assert thin[22] < still[22] < thick[22]
    assert thin[227] > still[227] > thick[227]
    assert shrunk[22] < still[22] and shrunk[131] > still[131] and shrunk[227] == still[227]
    assert count(0, 1)[22] > still[22]
