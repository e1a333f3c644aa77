"""The terms of the autoencoder's loss."""

from __future__ import annotations

import math

import pytest
import torch

from training.autoencoder import divergence, psnr, sharpness


def test_sharpness_is_one_for_the_image_and_less_for_a_blurred_one() -> None:
    image = torch.rand(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    assert sharpness(image, image) == 1
    assert sharpness(torch.nn.functional.avg_pool3d(image, 3, 1, 1), image) < 0.3
    assert sharpness(2 * image, image) == pytest.approx(4)


def test_divergence_is_that_of_a_normal_distribution() -> None:
    mean, sigma = torch.full((1, 4, 2, 2, 2), 3.0), torch.full((1, 4, 2, 2, 2), 0.5)
    expected = 0.5 * (9 + 0.25 - 2 * math.log(0.5) - 1)
    assert float(divergence(mean, sigma)) == pytest.approx(expected)
    assert float(divergence(torch.zeros(8), torch.ones(8))) == 0


def test_psnr_is_20_db_for_an_error_of_a_tenth() -> None:
    assert psnr(torch.full((8,), 0.1), torch.zeros(8)) == pytest.approx(20)
