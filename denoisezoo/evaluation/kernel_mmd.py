"""The kernel distance of two sets of features, from all pairs, with its standard error."""

from __future__ import annotations

import torch
from torch import Tensor

from denoisezoo.errors import UserError

BLOCK = 2048
"""Rows at a time."""


def kernel_distance_with_error(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Unbiased squared MMD with KID's kernel (x.y / D + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401, section 4).

    Other than KID as published, it takes all pairs instead of the mean of random subsets; both estimate one figure.

    Args:
        a: Features (N, D), N >= 3.
        b: Features (M, D), M >= 3.

    Returns:
        The estimate, which may be slightly negative, and its standard error by the two-sample jackknife (Arvesen 1969):
        the spread when one image is left out, which for equal sets is too large rather than too small.

    Raises:
        UserError: Too few features.
    """
    N, M = len(a), len(b)
    if min(N, M) < 3:
        raise UserError(f"the kernel distance needs 3 images on each side, and one has {min(N, M)}", "give more")
    a, b = a.double(), b.double()
    own_a, own_b = (_row_sums(x, x) - _kernel_of_equal(x) for x in (a, b))  # sums over j != i
    cross_a, cross_b = _row_sums(a, b), _row_sums(b, a)
    within_a, within_b = own_a.sum() / (N * (N - 1)), own_b.sum() / (M * (M - 1))
    estimate = within_a + within_b - 2 * cross_a.sum() / (N * M)
    variance = _jackknife(own_a, cross_a, M) + _jackknife(own_b, cross_b, N)
    return float(estimate), float(variance.sqrt())


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """Sums (N,) over y (M, D) of the kernel with each of x (N, D)."""
    return torch.cat([(block @ y.T / x.shape[1] + 1).pow(3).sum(1) for block in x.split(BLOCK)])


def _kernel_of_equal(x: Tensor) -> Tensor:
    """k(x, x), (N,)."""
    return (x.square().sum(1) / x.shape[1] + 1).pow(3)


def _jackknife(own: Tensor, cross: Tensor, others: int) -> Tensor:
    """Variance of the estimate over one set, from its sums of the kernel within it and with the other set.

    What the other set adds on its own does not change when a point of this one is left out.
    """
    n = len(own)
    left_out = (own.sum() - 2 * own) / ((n - 1) * (n - 2)) - 2 * (cross.sum() - cross) / ((n - 1) * others)
    return (n - 1) / n * (left_out - left_out.mean()).square().sum()
