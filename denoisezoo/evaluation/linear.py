"""The best linear estimate of an image from a noisy one, and what it is made of: mean and covariance of the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of images, in float64.

    Attributes:
        mean: (D,), D = C H W.
        variances: Eigenvalues of the covariance (D,), the largest first, not below 0.
        basis: Its eigenvectors, the columns of (D, D): the basis of the Karhunen-Loeve transform.
        power: Mean square of a pixel.
    """

    mean: Tensor
    variances: Tensor
    basis: Tensor
    power: float

    @classmethod
    def of(cls, images: Tensor) -> Moments:
        """Those of images (N, C, H, W)."""
        x = images.flatten(1).double()
        mean = x.mean(0)
        gap = x - mean
        variances, basis = torch.linalg.eigh(gap.T @ gap / len(x))
        return cls(mean, variances.flip(0).clamp(min=0), basis.flip(1), float(x.square().mean()))

    @property
    def covariance(self) -> Tensor:
        """(D, D)."""
        return (self.basis * self.variances) @ self.basis.T


def linear_mmse(moments: Moments, y: Tensor, sigma: Tensor) -> Tensor:
    """The affine estimate of least mean squared error, mean + C (C + S)^-1 (y - mean), from y = x + noise.

    Args:
        moments: Of x.
        y: Noisy images (N, C, H, W).
        sigma: Standard deviation of their noise, white or not, which broadcasts over `y`.

    Returns:
        (N, C, H, W), float64.
    """
    gap = y.flatten(1).double() - moments.mean
    variance = sigma.double().square().expand_as(y).flatten(1)
    if bool((variance == variance[:, :1]).all()):
        share = moments.variances / (moments.variances + variance[:, :1])
        found = gap @ moments.basis * share @ moments.basis.T
    else:
        C = moments.covariance
        found = torch.stack([C @ torch.linalg.solve(C + s.diag(), g) for s, g in zip(variance, gap, strict=True)])
    return (moments.mean + found).reshape(y.shape)


def pixelwise_mmse(power: float, y: Tensor, sigma: Tensor) -> Tensor:
    """a y with a = power / (power + sigma^2): the best that knows the power of a pixel, and nothing of images."""
    return power / (power + sigma.double().square()) * y.double()


def memory(points: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """The posterior mean were every image one of `points`, all alike: their softmax by the likelihood of y.

    Args:
        points: Training images (M, C, H, W).
        y: Noisy images (N, C, H, W).
        sigma: Standard deviation of their noise, which broadcasts over `y`.
    """
    p, precision = points.flatten(1).double(), 1 / sigma.double().square().expand_as(y).flatten(1)
    # |y - p|^2 / sigma^2 without the |y|^2 that all points share.
    distance = precision @ p.square().T - 2 * (precision * y.flatten(1).double()) @ p.T
    return (torch.softmax(-distance / 2, dim=1) @ p).reshape(y.shape)
