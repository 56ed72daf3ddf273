"""Diffusion by down-sampling: every step halves the image and adds noise, every step back doubles it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from denoisezoo.diffusion.basis import HaarBasis
from denoisezoo.diffusion.capabilities import Discrete, Halving
from denoisezoo.diffusion.processes.diagonal import slope_of
from denoisezoo.diffusion.processes.lookup import Table
from denoisezoo.diffusion.processes.process import PROCESSES, DiagonalProcess, Process, check_finite
from denoisezoo.diffusion.transforms import check_levels
from denoisezoo.errors import UserError

ALPHAS, SIGMAS = [0.5, 0.2, 0.001], [0.1, 0.2, 0.3]
"""Schedule of all three data sets of UDPM's code, the finest level first."""


@PROCESSES.register("downsampling")
class DownSampling(Halving, Discrete, DiagonalProcess):
    """UDPM (Abu-Hussein and Giryes 2024, arXiv 2305.16269): x_l = alpha_l H x_(l-1) + sigma_l eps for l = 1 ... L.

    H filters with a 2x2 box of unit norm and keeps every second pixel: H H^T = I, and H^T H is the projection onto
    block means. That is the approximation of the orthonormal Haar transform, so that in the mosaic H is the crop to the
    top left quarter (`down`), H^T is padding with zeros (`up`), and

        q(x_l | x_0) = N(abar_l H^l x_0, s_l^2 I), abar_l = alpha_1...alpha_l, s_l^2 = alpha_l^2 s_(l-1)^2 + sigma_l^2.

    Time is the level l, at whole numbers; between them the signal is interpolated for plots and plans alone. Unlike the
    bands of `MultiScale`, what leaves the state is not noise yet: the network must return it, at twice the size
    (`NextScale`), and only the sampler `udpm` walks back.

    Args:
        resolution: Height and width of the images, divisible by 2^L.
        alphas: alpha_l, the finest level first; as many as levels.
        sigmas: sigma_l.
        posterior: Covariance of x_(l-1) given x_l and x_0: "exact", or "scalar", which puts I for H^T H, as the
            published code does.
    """

    default_preconditioning = "next_scale"
    sampler = "udpm"

    def __init__(
        self,
        resolution: int = 32,
        alphas: list[float] = [0.5, 0.2, 0.001],  # noqa: B006 (read only; the type is the recipe's)
        sigmas: list[float] = [0.1, 0.2, 0.3],  # noqa: B006
        posterior: Literal["exact", "scalar"] = "exact",
    ) -> None:
        check_schedule(alphas, sigmas)
        check_levels(resolution, resolution, len(alphas))
        self.resolution, self.posterior_form = resolution, posterior
        self.basis = HaarBasis(len(alphas), resolution)
        self.alphas, self.sigmas, self.levels = tuple(alphas), tuple(sigmas), len(alphas)
        self.t_min, self.t_max = 1.0, float(self.levels)
        self.abar, self.std = marginals(alphas, sigmas)
        self._log_abar = Table([math.log(abar) for abar in self.abar])
        self._relative = Table([(s / abar) ** 2 for s, abar in zip(self.std, self.abar, strict=True)])

    @classmethod
    def for_images(cls, resolution: int, stages: int = 1) -> Process:
        """The published schedule, cut to as many levels as the size can be halved."""
        levels = max(2, min(len(ALPHAS), (resolution & -resolution).bit_length() - 1))
        return cls(resolution=resolution, alphas=ALPHAS[:levels], sigmas=SIGMAS[:levels])

    @property
    def has_maps(self) -> bool:
        """No: all that is left has one signal and one noise level."""
        return False

    def alpha(self, t: Tensor) -> Tensor:
        """abar at whole times; between them its logarithm is linear."""
        left, share = self._place(t)
        known = self._log_abar.like(t)
        return torch.exp(known[left] + (known[left + 1] - known[left]) * share)

    def sigma(self, t: Tensor) -> Tensor:
        """s at whole times; between them (s / abar)^2, which only grows, is linear."""
        left, share = self._place(t)
        relative = self._relative.like(t)
        return self.alpha(t) * (relative[left] + (relative[left + 1] - relative[left]) * share).sqrt()

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The level below t and how far t is from it to the next."""
        left = t.detach().floor().clamp(0, self.levels - 1).long()
        return left, t - left

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes of the interpolation."""
        return slope_of(self.alpha, t), slope_of(self.sigma, t)

    @property
    def stages(self) -> tuple[tuple[float, float], ...]:
        """One for each level, the noisiest first; each is a single time."""
        return tuple((float(level), float(level)) for level in range(self.levels, 0, -1))

    def dropped(self, t: float) -> int:
        """The level."""
        return math.ceil(t)

    @property
    def chain_length(self) -> int:
        """L."""
        return self.levels

    def down(self, u: Tensor, times: int = 1) -> Tensor:
        """H^times: states (B, C, H, W) to (B, C, H / 2^times, W / 2^times)."""
        return u[..., : u.shape[-2] >> times, : u.shape[-1] >> times]

    def up(self, u: Tensor) -> Tensor:
        """H^T: states (B, C, H, W) to (B, C, 2H, 2W)."""
        return F.pad(u, (0, u.shape[-1], 0, u.shape[-2]))

    def posterior(self, u: Tensor, u_0: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """q(x_(l-1) | x_l, x_0), Gaussian with independent coefficients.

        With q = alpha_l^2 / sigma_l^2 and p = 1 / s_(l-1)^2: Sigma^-1 = q H^T H + p I and
        mu = Sigma ((alpha_l / sigma_l^2) H^T x_l + abar_(l-1) p H^(l-1) x_0) (UDPM, section 3.2).

        Args:
            u: x_l, (B, C, H, W).
            u_0: H^(l-1) x_0, (B, C, 2H, 2W).
            level: l, from 2; x_0 itself has no noise.

        Returns:
            The mean (B, C, 2H, 2W), and the standard deviation, which broadcasts over it.
        """
        alpha, sigma = self.alphas[level - 1], self.sigmas[level - 1]
        q, p = alpha**2 / sigma**2, 1 / self.std[level - 1] ** 2
        seen = torch.ones_like(u_0[:1, :1]) if self.posterior_form == "scalar" else self.up(torch.ones_like(u[:1, :1]))
        variance = 1 / (q * seen + p)
        mean = variance * (alpha / sigma**2 * self.up(u) + self.abar[level - 1] * p * u_0)
        return mean, variance.sqrt()

    def time_label(self, t: Tensor) -> Tensor:
        """(l - 1/2) / L (UDPM's code)."""
        return (t - 0.5) / self.levels

    def sample_times(self, uniform: Tensor) -> Tensor:
        """Levels, all equally likely."""
        return 1 + (uniform * self.levels).floor().clamp(max=self.levels - 1)

    def nearest_time(self, t: Tensor) -> Tensor:
        """The nearest level."""
        return t.round().clamp(1, self.levels)

    def grid(self, steps: int) -> Tensor:
        """The levels, and 0.

        Raises:
            UserError: Not as many steps as levels.
        """
        if steps != self.levels:
            raise UserError(
                f"{steps} steps for a process of {self.levels} levels, each of which is one step",
                f"give {self.levels} steps",
            )
        return torch.arange(self.levels, -1, -1, dtype=torch.float64)


def check_schedule(alphas: Sequence[float], sigmas: Sequence[float]) -> None:
    """Refuse schedules that are not one positive alpha and sigma for each of at least two levels.

    Raises:
        UserError: Saying which.
    """
    if len(alphas) != len(sigmas) or len(alphas) < 2:
        raise UserError(
            f"{len(alphas)} alphas and {len(sigmas)} sigmas", "give one of each for every level, at least 2 levels"
        )
    check_finite(alphas=alphas, sigmas=sigmas)
    if min(*alphas, *sigmas) <= 0 or max(alphas) > 1:
        raise UserError(
            f"alphas {list(alphas)} or sigmas {list(sigmas)} are out of range", "give 0 < alpha <= 1 and sigma > 0"
        )


def marginals(alphas: Sequence[float], sigmas: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """abar_l and s_l for l = 0 ... L: s_l^2 = alpha_l^2 s_(l-1)^2 + sigma_l^2, since H keeps white noise white."""
    abar = itertools.accumulate(alphas, lambda a, b: a * b, initial=1.0)
    variances = [0.0]
    for alpha, sigma in zip(alphas, sigmas, strict=True):
        variances.append(alpha**2 * variances[-1] + sigma**2)
    return tuple(abar), tuple(map(math.sqrt, variances))
