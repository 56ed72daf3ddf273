"""Oracles: denoisers whose answer is exact, because the data are known. They need no training.

With u_t = A u_0 + R eps the posterior mean of Gaussian data N(mu, S) is mu + S A^T (A S A^T + R R^T)^-1 (u_t - A mu); a
mixture weighs that of its components by their likelihood. The matrices are formed outright, so any process of the
package is served, with the marginal of what is left where coefficients have left the state; keep the images tiny.
`PointsOracle` needs no matrices and takes real data sets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion.coefficients import apply_blocks
from denoisezoo.diffusion.denoiser import Denoiser, Prediction
from denoisezoo.diffusion.processes.process import Process, ScalarProcess
from denoisezoo.errors import UserError
from denoisezoo.nn.given import NOTHING, Given
from denoisezoo.nn.transfer import to_device


class MixtureOracle(Denoiser):
    """Exact denoiser of a mixture of Gaussians in state space.

    Args:
        process: The process.
        means: Means (K, C, H, W) of the clean states.
        covariances: Covariances (K, D, D) with D = C H W; zero for single points.
        weights: Probabilities (K,); equal unless given.
    """

    def __init__(self, process: Process, means: Tensor, covariances: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        self.process = process
        self.shape = means.shape[1:]
        self.register_buffer("means", means.double().flatten(1))
        self.register_buffer("covariances", covariances.double())
        weights = torch.full((len(means),), 1 / len(means)) if weights is None else weights
        self.register_buffer("log_weights", weights.double().log())
        self.means: Tensor
        self.covariances: Tensor
        self.log_weights: Tensor

    def _matrix(self, blocks: Tensor, shape: torch.Size) -> Tensor:
        """Blocks at one time as a matrix (D, D) for states of a shape (C, H, W)."""
        D = math.prod(shape)
        unit = torch.eye(D, dtype=torch.float64, device=self.means.device).reshape(D, *shape)
        return apply_blocks(blocks, unit).reshape(D, D).T

    def _left(self, shape: torch.Size) -> Tensor:
        """Indices of the coefficients that a state of a shape (C, H, W) has."""
        every = torch.arange(math.prod(self.shape), device=self.means.device).reshape(self.shape)
        return every[..., : shape[-2], : shape[-1]].flatten()

    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """Posterior mean and the noise that belongs to it; all of the batch at one time or each at its own."""
        u_0, eps, t = torch.empty_like(u_t), torch.empty_like(u_t), to_device(t, u_t.device)
        for time in t.unique():
            chosen = t == time
            found = self._at(u_t[chosen].double(), time.reshape(1).double())
            u_0[chosen], eps[chosen] = (part.reshape(u_t[chosen].shape).to(u_t.dtype) for part in found)
        return Prediction(u_0, eps)

    def _at(self, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """E[u_0 | u] and E[eps | u], (n, D), for states u (n, C, H, W) at one time (1,)."""
        A, R = (self._matrix(blocks, u.shape[1:]) for blocks in (self.process.signal(t), self.process.noise(t)))
        left = self._left(u.shape[1:])
        means, covariances = self.means[:, left], self.covariances[:, left][..., left]
        gaps = u.flatten(1) - (means @ A.T)[:, None]  # (K, n, D)
        total = A @ covariances @ A.T + R @ R.T  # (K, D, D)
        factor = torch.linalg.cholesky(total)
        solved = gaps @ torch.cholesky_inverse(factor)  # (K, n, D)
        log_density = -0.5 * (gaps * solved).sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
        share = torch.softmax(self.log_weights[:, None] + log_density, dim=0)[..., None]
        u_0 = means[:, None] + solved @ (A @ covariances)
        # E[eps | u] = R^T total^-1 (u - A mu), which unlike R^-1 (u - A u_0) loses no digits where R is small.
        return (share * u_0).sum(0), (share * (solved @ R)).sum(0)


class GaussianOracle(MixtureOracle):
    """Exact denoiser of Gaussian data.

    Args:
        process: The process.
        mean: Mean (C, H, W).
        covariance: Covariance (D, D).
    """

    def __init__(self, process: Process, mean: Tensor, covariance: Tensor) -> None:
        super().__init__(process, mean[None], covariance[None])


class PointsOracle(Denoiser):
    """Exact denoiser of a finite set of points under a scalar process: a softmax over the points.

    Sampling with it returns the points themselves: what a network that has memorised its training set would do.

    Args:
        process: A scalar process.
        points: Clean images (N, C, H, W).
    """

    def __init__(self, process: Process, points: Tensor) -> None:
        super().__init__()
        if not isinstance(process, ScalarProcess):
            raise UserError("a points oracle needs one noise level for all coefficients", "use MixtureOracle")
        self.process = process
        self.register_buffer("points", points.double().flatten(1))
        self.points: Tensor

    def forward(self, u_t: Tensor, t: Tensor, given: Given = NOTHING, effort: Effort | None = None) -> Prediction:
        """E[u_0 | u_t] = sum of points weighed by N(u_t; alpha point, sigma^2)."""
        assert isinstance(self.process, ScalarProcess)
        t = to_device(t, u_t.device)
        alpha, sigma = self.process.alpha(t.double())[:, None], self.process.sigma(t.double())[:, None]
        u = u_t.double().flatten(1)
        # |u - alpha p|^2 without the |u|^2 that all points share.
        distance = alpha**2 * self.points.square().sum(1) - 2 * alpha * (u @ self.points.T)
        u_0 = torch.softmax(-distance / (2 * sigma**2), dim=1) @ self.points
        eps = (u - alpha * u_0) / sigma
        return Prediction(u_0.reshape(u_t.shape).to(u_t.dtype), eps.reshape(u_t.shape).to(u_t.dtype))
