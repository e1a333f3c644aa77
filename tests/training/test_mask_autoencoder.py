"""The loss of the autoencoder of masks, and the labels that it decodes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training import mask_autoencoder
from training.anatomy import GREY, PAIRS, TUMOUR
from training.masks import LABELS, classes


class Fixed:
    """Decodes every latent to the labels of `mask` `[X, Y, Z]`, or of every second voxel."""

    def __init__(self, mask: NDArray[np.uint8]) -> None:
        self.index = torch.from_numpy(classes(mask)).long()

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent = torch.nn.functional.avg_pool3d(x[:, :4], 4)
        return torch.zeros_like(latent), torch.ones_like(latent)  # a divergence of 0

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        step = self.index.shape[0] // (4 * latent.shape[2])
        index = self.index[::step, ::step, ::step]
        return (
            40 * torch.nn.functional.one_hot(index, len(LABELS)).permute(3, 0, 1, 2)[None].float()
        )


def blocks(*labels: int) -> NDArray[np.uint8]:
    """Return a mask `[16, 16, 16]` of equal slabs of labels."""
    return np.repeat(np.array(labels, np.uint8), 16 // len(labels))[:, None, None] + np.zeros(
        (16, 16, 16), np.uint8
    )


def test_the_loss_is_zero_for_the_labels_of_the_mask() -> None:
    mask = blocks(0, GREY, TUMOUR, 240)
    error = mask_autoencoder.loss(Fixed(mask), torch.from_numpy(mask)[None])
    assert float(error) == pytest.approx(0, abs=1e-6)


def test_a_wrong_voxel_costs_more_in_a_lesion() -> None:
    healthy = blocks(GREY, GREY)
    lesion, other = blocks(GREY, TUMOUR), blocks(GREY, PAIRS["putamen"][0])
    network = Fixed(healthy)
    losses = [
        float(mask_autoencoder.loss(network, torch.from_numpy(mask)[None]))
        for mask in (lesion, other)
    ]
    # half the voxels are wrong by 40 nats, at full resolution and, with 0.3, at half of it
    share = mask_autoencoder.LESION / (1 + mask_autoencoder.LESION)
    assert losses == pytest.approx([1.3 * 40 * share, 1.3 * 40 / 2], rel=1e-4)


def test_decoded_classes_are_labels() -> None:
    mask = blocks(0, GREY, TUMOUR, 240)
    assert (mask_autoencoder.decode(Fixed(mask), torch.zeros(1, 4, 4, 4, 4)) == mask).all()


def test_a_crop_is_a_part_of_the_mask_or_of_its_mirror_image() -> None:
    random.seed(0)
    right, left = PAIRS["white"]
    mask = blocks(right, left)
    firsts = set()
    for _ in range(20):
        crop = mask_autoencoder.draw([mask], 16)
        assert crop.shape == (16, 16, 16)
        assert crop[0, 0, 0] == right and crop[-1, 0, 0] == left  # in the mirror image, too
        firsts.add(mask_autoencoder.draw([mask], 8)[0, 0, 0])
        assert mask_autoencoder.draw([mask], 0).shape == mask.shape
    assert firsts == {right, left}
