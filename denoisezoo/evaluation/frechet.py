"""The Frechet distance between two Gaussians fitted to features (Dowson and Landau 1982; Heusel 2017, 1706.08500)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from denoisezoo.errors import UserError

DEVICE_FROM = 1024
"""Size of a matrix from which a GPU finds its singular values faster than a CPU; `benchmarks/frechet.py` measures it.
Not measured yet: by count, 8/3 n^3 operations at the bandwidth of the memories, against 6 n launches."""


@dataclass(frozen=True)
class GaussianStats:
    """Moments of a set of features, float64.

    Attributes:
        n: Number of features; 0 where it is not known.
        mean: (D,).
        covariance: S (D, D), the unbiased estimate (divided by n - 1), as in published FIDs.
        factor: L (D, R) with L L^T = S, if one is known.
    """

    n: int
    mean: Tensor
    covariance: Tensor
    factor: Tensor | None = None

    def factorised(self) -> Tensor:
        """Some L (D, R) with L L^T = S: the known one, else Cholesky's, else eigenvectors with variance, scaled."""
        if self.factor is not None:
            return self.factor
        lower, info = torch.linalg.cholesky_ex(self.covariance)
        if not int(info):
            return lower
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        return vectors[:, kept] * values[kept].sqrt()


class StreamingStats:
    """Mean and covariance of features that arrive in batches, in float64.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979), which does not subtract two large sums.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    def update(self, features: Tensor) -> None:
        """Add a batch of features (B, D)."""
        batch = features.double()
        mean = batch.mean(0)
        centred = batch - mean
        self.merge(len(batch), mean, centred.T @ centred)

    def merge(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        """Add `n` features with that mean (D,) and sum of outer products about it (D, D)."""
        if self.mean is None or self.scatter is None:
            self.n, self.mean, self.scatter = n, mean, scatter
            return
        delta, total = mean - self.mean, self.n + n
        self.scatter = self.scatter + scatter + torch.outer(delta, delta) * (self.n * n / total)
        self.mean = self.mean + delta * (n / total)
        self.n = total

    def stats(self) -> GaussianStats:
        """The moments so far.

        Raises:
            UserError: Fewer than two features were given, so that there is no covariance.
        """
        if self.mean is None or self.scatter is None or self.n < 2:
            raise UserError(
                f"a Frechet distance needs at least 2 images on each side, and one has {self.n}", "give more"
            )
        return GaussianStats(self.n, self.mean, self.scatter / (self.n - 1))


def gaussian_stats(features: Tensor, chunk: int = 4096) -> GaussianStats:
    """Moments of features (N, D); see `StreamingStats`."""
    streaming = StreamingStats()
    for part in features.split(chunk):
        streaming.update(part)
    stats = streaming.stats()
    if len(features) >= features.shape[1]:
        return stats
    # The features themselves are the smaller factor, and one that cost no decomposition.
    return replace(stats, factor=(features.double() - stats.mean).T / (stats.n - 1) ** 0.5)


def frechet_distance(a: GaussianStats, b: GaussianStats) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2), in the squared unit of the features.

    The trace of the root is the sum of the singular values of S_b^1/2 S_a^1/2, or of L_b^T L_a for any factors of the
    two. Taken so, directions without variance (images in a subspace, or fewer images than dimensions) add an error of
    the size of the rounding, where the root of an eigenvalue would add the root of it; and nothing becomes complex.

    Raises:
        UserError: The two have different numbers of dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"features of {a.mean.numel()} and of {b.mean.numel()} dimensions cannot be compared",
            "evaluate both sets with the same feature extractor at the same resolution",
        )
    cross = singular_values(b.factorised().T @ a.factorised()).sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(distance))  # rounding can leave -1e-12 for equal sets


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values of a matrix (R, S), on its device; computed on the CPU where that is faster.

    A GPU reduces a matrix to two diagonals by products with vectors, for which a small one does not fill it.
    """
    if matrix.device.type == "cuda" and min(matrix.shape) < DEVICE_FROM:
        return torch.linalg.svdvals(matrix.cpu()).to(matrix.device)
    return torch.linalg.svdvals(matrix)
