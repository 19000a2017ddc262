"""The Frechet distance of two clouds of features, from running sums: memory does not grow with the number of features.

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with m the means and C the covariances: the squared 2-Wasserstein distance of the
two normal distributions (Dowson and Landau 1982; Heusel et al. 2017 for FID, Unterthiner et al. 2018 for FVD).
"""

from __future__ import annotations

import numpy as np


class Gaussian:
    """Mean and covariance of features that arrive in pieces, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: np.ndarray | None = None
        self._scatter: np.ndarray | None = None

    def add(self, features: np.ndarray) -> None:
        """More features, (N, D)."""
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or not np.isfinite(x).all():
            raise ValueError(f"features are finite numbers (N, D), not {x.shape}")
        if not len(x):
            return
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        mean = x.mean(axis=0)
        centred = x - mean
        shift = mean - self._mean
        total = self.count + len(x)
        # Chan, Golub and LeVeque 1983: sums of squares about the mean, so that nothing cancels
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(x) / total)
        self._mean = self._mean + shift * (len(x) / total)
        self.count = total

    @property
    def mean(self) -> np.ndarray:
        """(D,); needs a feature."""
        assert self._mean is not None
        return self._mean

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased; needs two features."""
        assert self._scatter is not None
        return self._scatter / (self.count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> float | None:
    """The distance, 0 where the two are equal; None with fewer than two features on a side."""
    if min(a.count, b.count) < 2:
        return None
    return frechet(a.mean, a.covariance, b.mean, b.covariance)


def frechet(mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray) -> float:
    """The distance of two normal distributions, means (D,) and covariances (D, D).

    The trace of (C1 C2)^(1/2) is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric, so that eigenvalues do, and
    covariances of fewer samples than dimensions are no trouble.
    """
    shift = float(((mean1 - mean2) ** 2).sum())
    if np.array_equal(covariance1, covariance2):
        return shift
    values, vectors = np.linalg.eigh(covariance1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    inner = root @ covariance2 @ root
    crossed = np.sqrt(np.linalg.eigvalsh((inner + inner.T) / 2).clip(min=0)).sum()
    return max(0.0, shift + float(np.trace(covariance1) + np.trace(covariance2) - 2 * crossed))
