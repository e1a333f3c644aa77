"""The measures agree with the libraries that others use, on the same features and volumes."""

from __future__ import annotations

import numpy as np
import prdc
import pytest
import torch
from maisi_client._assess.distances import frechet, gaussian_sums, kernel_sums, moments
from maisi_client._assess.neighbours import nearest, overlap
from maisi_client._assess.structure import ms_ssim
from monai.metrics import MultiScaleSSIMMetric
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import rbf_kernel
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, maximum_mean_discrepancy

WIDTH = 12


class Same(torch.nn.Module):
    """The network of a metric that is given features in place of pictures."""

    num_features = WIDTH

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.flatten(1)


@pytest.fixture(params=[0.0, 0.4])
def features(request: pytest.FixtureRequest) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return features of 40 real and 30 synthetic volumes, 3 slices each: `[V, 3, F]`."""
    rng = np.random.default_rng(3)
    mix = rng.normal(size=(WIDTH, WIDTH))
    real = rng.normal(size=(40, 3, WIDTH)) @ mix
    return real, rng.normal(request.param, 1 + request.param, (30, 3, WIDTH)) @ mix


def updated(metric: torch.nn.Module, *sides: NDArray[np.float64]) -> torch.nn.Module:
    for side, real in zip(sides, (True, False), strict=True):
        metric.update(torch.from_numpy(side.reshape(-1, WIDTH)), real=real)  # type: ignore[operator]
    return metric


def test_fid(features: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    metric = FrechetInceptionDistance(Same(), input_img_size=(1, 1, WIDTH)).set_dtype(torch.float64)
    expected = float(updated(metric, *features).compute())  # type: ignore[operator]
    real, synthetic = (moments(side.reshape(-1, WIDTH)) for side in features)
    assert frechet(real, synthetic) == pytest.approx(expected, rel=1e-6)
    assert frechet(real, real) == pytest.approx(0, abs=1e-9)


def test_kid(features: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    real, synthetic = features
    # Subsets of all slices leave the metric nothing to draw.
    both = (real[:30], synthetic)
    metric = KernelInceptionDistance(Same(), subsets=1, subset_size=90)
    expected, _ = updated(metric, *both).compute()  # type: ignore[operator]
    sums = kernel_sums(np.concatenate(both))
    value = sums.mmd(np.arange(30), np.arange(30, 60))
    assert value == pytest.approx(float(expected), rel=1e-5)


def test_mmd(features: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    both = [side[:30].mean(1) for side in features]  # torchmetrics takes sets of one size
    pooled = np.concatenate(both)
    gamma = 1 / (2 * np.median(pdist(pooled)) ** 2)
    (xx, xy), (_, yy) = [
        [torch.from_numpy(rbf_kernel(one, other, gamma)) for other in both] for one in both
    ]
    value = gaussian_sums(pooled).mmd(np.arange(30), np.arange(30, 60))
    assert value == pytest.approx(float(maximum_mean_discrepancy(xx, xy, yy)), rel=1e-9)


@pytest.mark.parametrize("neighbours", [3, 5])
def test_precision_recall_density_and_coverage(
    features: tuple[NDArray[np.float64], NDArray[np.float64]], neighbours: int
) -> None:
    real, synthetic = (side.reshape(len(side), -1) for side in features)
    expected = prdc.compute_prdc(real, synthetic, neighbours)
    assert vars(overlap(real, synthetic, neighbours)) == pytest.approx(expected)


@pytest.mark.parametrize(("side", "scales"), [(48, 3), (31, 3)])
def test_ms_ssim(side: int, scales: int) -> None:
    rng = np.random.default_rng(0)
    one, noise = rng.random((2, side, side, side), np.float32)
    other = 0.7 * one + 0.3 * noise
    weights = np.array([0.0448, 0.2856, 0.3001][:scales])
    metric = MultiScaleSSIMMetric(
        spatial_dims=3,
        data_range=1.0,
        kernel_size=7,
        kernel_sigma=1.5,
        weights=(weights / weights.sum()).tolist(),
    )
    tensors = (torch.from_numpy(volume)[None, None] for volume in (one, other))
    assert ms_ssim(one, other) == pytest.approx(float(metric(*tensors)), abs=1e-4)
    assert ms_ssim(one, one) == pytest.approx(1)


def test_nearest_neighbours_in_blocks_are_those_of_all_distances() -> None:
    rng = np.random.default_rng(1)
    rows, among = rng.normal(size=(700, 4)), rng.normal(size=(600, 4))
    every = np.linalg.norm(rows[:, None] - among[None], axis=2)
    distances, indices = nearest(rows, among)
    np.testing.assert_allclose(distances, np.sort(every, 1)[:, :2])
    np.testing.assert_array_equal(indices[:, 0], every.argmin(1))
    own, others = nearest(rows, rows, count=1, own=True)
    assert own.min() > 0 and (others[:, 0] != np.arange(700)).all()
