"""FID, KID and MMD: distances between two sets of features, computed from streamed sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

Matrix = NDArray[np.float64]


@dataclass
class Moments:
    """The number, sum and sum of outer products of features seen so far, `[F]` and `[F, F]`."""

    count: int
    total: Matrix
    outer: Matrix

    @classmethod
    def empty(cls, features: int) -> Moments:
        """Return the moments of no features."""
        return cls(0, np.zeros(features), np.zeros((features, features)))

    def add(self, rows: NDArray[np.floating[Any]]) -> None:
        """Add features `[N, F]`."""
        wide = rows.astype(np.float64)
        self.count += len(wide)
        self.total += wide.sum(0)
        self.outer += wide.T @ wide

    @property
    def mean(self) -> Matrix:
        """The mean `[F]`."""
        return self.total / self.count

    @property
    def covariance(self) -> Matrix:
        """The unbiased covariance `[F, F]`."""
        mean = self.mean
        return (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)


def frechet(one: Moments, other: Moments) -> float:
    """Return the squared Fréchet distance of two Gaussians with these moments (FID).

    The formula is |m - n|^2 + tr(C + D - 2 (C D)^(1/2)), equation 6 of Heusel et al., NeurIPS 2017.
    The trace of (C D)^(1/2) is the sum of the square roots of the eigenvalues of
    C^(1/2) D C^(1/2).
    """
    c, d = one.covariance, other.covariance
    values, vectors = np.linalg.eigh(c)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ d @ root), 0)).sum()
    distance = np.sum((one.mean - other.mean) ** 2) + np.trace(c) + np.trace(d) - 2 * cross
    return float(max(distance, 0.0))


def moments(rows: NDArray[np.floating[Any]]) -> Moments:
    """Return the moments of features `[N, F]`."""
    result = Moments.empty(rows.shape[1])
    result.add(rows)
    return result


@dataclass(frozen=True)
class KernelSums:
    """Sums of kernel values, from which the distance of any two groups of volumes follows.

    `sums` `[V, V]` are sums over all pairs of slices of two volumes. `own` `[V]` are sums over the
    pairs of each slice with itself. `count` is the number of slices in each volume, or 1 if a
    volume has one row of features.
    """

    sums: Matrix
    own: Matrix
    count: int

    def mmd(self, one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
        """Return the unbiased squared maximum mean discrepancy of two groups of volumes.

        This is equation 3 of Gretton et al., JMLR 2012. With the cubic kernel it is KID.
        """
        m, n = self.count * len(one), self.count * len(other)
        within = (self.sums[np.ix_(one, one)].sum() - self.own[one].sum()) / (m * (m - 1))
        across = self.sums[np.ix_(one, other)].sum() / (m * n)
        there = (self.sums[np.ix_(other, other)].sum() - self.own[other].sum()) / (n * (n - 1))
        return float(within + there - 2 * across)


def kernel_sums(features: NDArray[np.floating[Any]]) -> KernelSums:
    """Return the sums of the kernel (x.y / F + 1)^3 over features `[V, S, F]`.

    This is the kernel of KID (Binkowski et al., ICLR 2018). The kernel values are computed for one
    volume at a time, as `[S, V S]`.
    """
    volumes, slices, width = features.shape
    flat = features.reshape(-1, width).astype(np.float64)
    sums = np.empty((volumes, volumes))
    own = np.empty(volumes)
    for index in range(volumes):
        rows = flat[index * slices : (index + 1) * slices]
        kernel = (rows @ flat.T / width + 1) ** 3
        sums[index] = kernel.reshape(slices, volumes, slices).sum((0, 2))
        own[index] = np.sum((np.sum(rows**2, 1) / width + 1) ** 3)
    return KernelSums(sums, own, slices)


def gaussian_sums(features: NDArray[np.floating[Any]]) -> KernelSums:
    """Return the values of the kernel exp(-|x - y|^2 / 2 s^2) over features `[V, F]`.

    s is the median distance of two rows (section 8 of Gretton et al., JMLR 2012).
    """
    distances = pdist(features)
    width = max(float(np.median(distances)), 1e-9)
    kernel = np.exp(-((squareform(distances) / width) ** 2) / 2)
    return KernelSums(kernel, np.ones(len(features)), 1)
