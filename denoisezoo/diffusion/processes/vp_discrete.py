"""DDPM's chain of discrete steps.

Sources: DDPM, arXiv 2006.11239 (linear schedule); improved DDPM, arXiv 2102.09672 (cosine); latent diffusion, arXiv
2112.10752 (its code's "linear", which diffusers calls scaled_linear).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import Discrete
from denoisezoo.diffusion.processes.lookup import Table
from denoisezoo.diffusion.processes.process import PROCESSES, ScalarProcess, check_finite
from denoisezoo.diffusion.processes.scalar import uniform_grid
from denoisezoo.errors import UserError


@PROCESSES.register("vp_discrete")
class VPDiscrete(Discrete, ScalarProcess):
    """DDPM's chain of T steps. Time is the number of steps taken, 1 ... T; 0 is the image.

    Between whole times ln(alpha_bar) is interpolated linearly (piecewise constant beta), so that solvers in continuous
    time may look between them. Networks are asked at whole times, but for `rk45`, which chooses its times, on the grid
    `linspace_fractional`, and where `between` says otherwise.

    Args:
        schedule: "linear" (DDPM), "scaled_linear" (roots of beta are evenly spaced: latent diffusion), "cosine"
            (improved DDPM) or "sigmoid" (as The Missing U uses it).
        T: Steps of the chain.
        beta_start: First beta of the linear schedules; that of latent diffusion is 0.00085.
        beta_end: Last beta of the linear schedules; that of latent diffusion is 0.012.
        between: Whether networks are asked at noise levels between whole times ("never", they are rounded), and what
            of the index they are told then: the "fraction" by ln(sigma), the "nearest" whole one, or the one "below".
            diffusers' samplers do each of these on grids of noise levels.
    """

    default_preconditioning = "eps"

    def __init__(
        self,
        schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid"] = "linear",
        T: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        between: Literal["never", "fraction", "nearest", "below"] = "never",
    ) -> None:
        check_finite(beta_start=beta_start, beta_end=beta_end)
        if T < 1:
            raise UserError(f"T is {T}", "give a whole number of at least 1")
        if not 0 < beta_start <= beta_end < 1:
            raise UserError(
                f"beta_start {beta_start} and beta_end {beta_end} are not in order",
                "give 0 < beta_start <= beta_end < 1",
            )
        if schedule == "linear":
            betas = torch.linspace(beta_start, beta_end, T, dtype=torch.float64, device="cpu")
        elif schedule == "scaled_linear":
            roots = math.sqrt(beta_start), math.sqrt(beta_end)
            betas = torch.linspace(*roots, T, dtype=torch.float64, device="cpu") ** 2
        else:
            share = torch.linspace(0, 1, T + 1, dtype=torch.float64, device="cpu")
            betas = _betas_of(_ALPHA_BARS[schedule](share))
        self.schedule, self.T, self.between = schedule, T, between
        self.t_min, self.t_max = 1.0, float(T)
        self.betas = betas
        self.log_alpha_bar = Table(torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)]))

    @property
    def chain_length(self) -> int:
        """T."""
        return self.T

    def _log_alpha_bar(self, t: Tensor) -> Tensor:
        table = self.log_alpha_bar.like(t, torch.float64)
        low = t.floor().clamp(0, self.T - 1)
        index = low.long()
        return torch.lerp(table[index], table[index + 1], (t - low).to(table.dtype)).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(alpha_bar)."""
        return self.alpha_sigma(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar)."""
        return self.alpha_sigma(t)[1]

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one interpolation."""
        log_alpha_bar = self._log_alpha_bar(t)
        return torch.exp(log_alpha_bar / 2), torch.sqrt(-torch.expm1(log_alpha_bar))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Of the interpolation; at whole times the mean of the slopes on either side."""
        h = 0.5
        slope = (self._log_alpha_bar((t + h).clamp(max=self.T)) - self._log_alpha_bar((t - h).clamp(min=0))) / (
            (t + h).clamp(max=self.T) - (t - h).clamp(min=0)
        )
        alpha = self.alpha(t)
        alpha_dot = slope / 2 * alpha
        return alpha_dot, -alpha * alpha_dot / self.sigma(t)

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """Inverse of the interpolated `edm_sigma`; levels outside the chain give 0 or T."""
        rising = -self.log_alpha_bar.like(sigma, torch.float64)
        wanted = torch.log1p(sigma.double() ** 2)
        high = torch.searchsorted(rising, wanted.contiguous()).clamp(1, self.T)
        below, above = rising[high - 1], rising[high]
        t = high - 1 + (wanted - below) / (above - below)
        return t.clamp(0, self.T).to(sigma.dtype)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The level of the chain nearest to `sigma` (any shape); EDM, appendix C.3.4."""
        if self.between != "never":
            return sigma
        levels = self.edm_sigma(torch.arange(1, self.T + 1, dtype=sigma.dtype, device=sigma.device))
        return levels[(sigma.reshape(-1, 1) - levels).abs().argmin(1)].reshape(sigma.shape)

    def nearest_time(self, t: Tensor) -> Tensor:
        """Rounded to whole steps, unless networks are asked between them, within 1 ... T."""
        return (t.round() if self.between == "never" else t).clamp(1, self.T)

    def time_label(self, t: Tensor) -> Tensor:
        """The index 0 ... T - 1 that DDPM networks are given; between whole times a fraction, or as `between` says."""
        t = t.clamp(1, self.T)
        if self.between == "never":
            return t - 1
        low = (t + 1e-9 * self.T).floor().clamp(max=self.T - 1)  # what was to be whole may be so but for rounding
        below, here, above = (self.edm_sigma(time).log() for time in (low, t, low + 1))
        share = ((here - below) / (above - below)).clamp(0, 1)
        told = {"fraction": share, "nearest": share.round(), "below": (share + 1e-9).floor()}
        return low - 1 + told[self.between]

    def sample_times(self, uniform: Tensor) -> Tensor:
        """Uniform over 1 ... T."""
        return (uniform * self.T).floor().clamp(max=self.T - 1) + 1

    def grid(self, steps: int) -> Tensor:
        """Evenly spaced whole times from T to 1, then 0.

        Raises:
            UserError: More steps than the chain has.
        """
        if steps > self.T:
            raise UserError(f"{steps} steps on a chain of {self.T}", f"give at most {self.T} steps")
        return uniform_grid(self.t_max, self.t_min, steps).round()


def _cosine_alpha_bar(u: Tensor) -> Tensor:
    return torch.cos(math.pi / 2 * (u + 0.008) / 1.008) ** 2


def _sigmoid_alpha_bar(u: Tensor) -> Tensor:
    # Sigmoid schedule with start -3, end 3 and tau 1; papers/missing_u: abar(u) = (ve - sigmoid(6u - 3)) / (ve - vs).
    return torch.sigmoid(u.new_tensor(3.0)) - torch.sigmoid(6 * u - 3)


_ALPHA_BARS = {"cosine": _cosine_alpha_bar, "sigmoid": _sigmoid_alpha_bar}


def _betas_of(alpha_bar: Tensor) -> Tensor:
    """Betas (T,) of alpha_bar at 0 ... T, clipped to at most 0.999 (improved DDPM, section 3.2)."""
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(0, 0.999)
