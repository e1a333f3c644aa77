"""The fidelity of a volume to its labels, on shapes whose edges are known."""

from __future__ import annotations

import numpy as np
import pytest
from maisi_client._assess.obedience import (
    FAITHFUL,
    ORGANS,
    borders,
    each_label,
    organ_medians,
)
from numpy.typing import NDArray
from scipy import ndimage

from export import variant
from tests.client.assess.phantoms import subject


def ball(radius: float, centre: float = 20.0) -> NDArray[np.bool_]:
    grid = np.indices((40, 40, 40)) - centre
    return np.asarray((grid**2).sum(0) < radius**2)


def body(radius: float) -> NDArray[np.int32]:
    """Return a ball of label 2 in a body of label 1."""
    return np.where(ball(radius), 2, 1).astype(np.int32)


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("spacing", [1.0, 2.5])
def test_the_shift_of_an_edge_is_found_in_mm(shift: int, spacing: float) -> None:
    image = ndimage.gaussian_filter(ball(10 + shift).astype(np.float32), 0.7)
    found = each_label(image, body(10), (spacing,) * 3)[2]
    assert found.shift_mm == pytest.approx(shift * spacing, abs=0.3 * spacing)
    assert found.contrast > 1.4 and found.voxels == ball(10).sum()


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_planes_that_are_far_apart_give_the_same_shift(shift: int) -> None:
    image = ndimage.gaussian_filter(ball(10 + shift).astype(np.float32), 0.7)
    every, third = (
        each_label(image[::step], body(10)[::step], (1.0,) * 3, apart=True)[2] for step in (1, 3)
    )
    assert third.shift_mm == pytest.approx(every.shift_mm, abs=0.15)
    assert third.shift_mm == pytest.approx(shift, abs=0.5)


def test_a_label_that_does_not_show_has_no_edge() -> None:
    noise = np.random.default_rng(0).normal(0.5, 0.1, (40, 40, 40)).astype(np.float32)
    found = each_label(noise, body(10), (1.0, 1.0, 1.0))[2]
    assert found.contrast < 0.2 and found.shift_mm is None


def test_borders_tell_own_labels_from_others() -> None:
    (image, own), (_, other) = subject(1), subject(2)
    follows = borders(image, own.astype(np.int32))
    ignores = borders(image, other.astype(np.int32))
    assert follows is not None and ignores is not None
    assert follows > FAITHFUL > ignores


def test_labels_that_do_not_meet_are_not_measured() -> None:
    labels = np.where(ball(8), 5, 0).astype(np.int32)
    image = labels.astype(np.float32)
    assert borders(image, labels) is None
    assert each_label(image, np.zeros_like(labels), (1.0, 1.0, 1.0)) == {}


def test_organs_are_found_by_their_names() -> None:
    labels = np.zeros((6, 6, 6), np.int32)
    labels[:3], labels[3:] = 1, 2
    hounsfield = np.where(labels == 1, 60, -700).astype(np.float32)
    names = {1: "liver", 2: "left lung upper lobe"}
    assert organ_medians(hounsfield, labels, names) == {"liver": 60, "lung": -700}
    assert organ_medians(hounsfield, labels, {1: "nobody's"}) == {}


def test_the_ranges_of_organs_are_those_that_the_server_reports_with() -> None:
    reference = variant.load("rflow-ct").serving["reference"]
    assert dict(ORGANS) == {
        name: (tuple(organ["labels"]), *organ["range"]) for name, organ in reference.items()
    }
