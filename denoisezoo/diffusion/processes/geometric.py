"""The variance-exploding SDE by its own clock."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoisezoo.diffusion.processes.process import PROCESSES, ScalarProcess
from denoisezoo.diffusion.processes.scalar import check_sigmas, uniform_grid
from denoisezoo.errors import UserError


@PROCESSES.register("ve_geometric")
class GeometricVE(ScalarProcess):
    """The variance-exploding SDE by its own clock: sigma(t) = sigma_min (sigma_max/sigma_min)^t up to t = 1, alpha = 1.

    Song et al. 2021, arXiv 2011.13456, as in arXiv 2111.13606; `VE` has the same levels with t = sigma^2. Times of
    training are uniform, so that the likelihood weighting is 2 ln(sigma_max/sigma_min) at all of them.

    Args:
        sigma_min: Noise at t = 0, where networks are trained; the image itself has none.
        sigma_max: Noise of the prior; the code takes sqrt(pixels) for images in [0, 1].
        t_min: Smallest time.
    """

    default_preconditioning = "edm"

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 100.0, t_min: float = 1e-5) -> None:
        check_sigmas(sigma_min, sigma_max)
        if not 0 < t_min < 1:
            raise UserError(f"t_min is {t_min}", "give a time above 0 and below 1")
        self.sigma_min, self.log_range = sigma_min, math.log(sigma_max / sigma_min)
        self.t_min, self.t_max = t_min, 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """sigma_min (sigma_max/sigma_min)^t, and 0 at the image."""
        return torch.where(t > 0, self.sigma_min * torch.exp(self.log_range * t), 0.0)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """0 and sigma ln(sigma_max/sigma_min)."""
        return torch.zeros_like(t), self.log_range * self.sigma(t)

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """ln(sigma/sigma_min) / ln(sigma_max/sigma_min)."""
        return (sigma / self.sigma_min).log() / self.log_range

    def time_label(self, t: Tensor) -> Tensor:
        """999 t."""
        return 999 * t

    def grid(self, steps: int) -> Tensor:
        """Uniform in t."""
        return uniform_grid(self.t_max, self.t_min, steps)
