"""Scalar processes in continuous time: variance preserving, variance exploding, EDM, rectified flow.

Sources: improved DDPM, arXiv 2102.09672 (cosine); score SDE, arXiv 2011.13456 (VP, VE); EDM, arXiv 2206.00364, table 1
and appendix C; rectified flow, arXiv 2209.03003. Coefficients are computed in the dtype of t; pass float64 where
precision matters, as all callers in this package do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoisezoo.diffusion.grids import edm_sigmas
from denoisezoo.diffusion.processes.process import PROCESSES, ScalarProcess, check_finite
from denoisezoo.errors import UserError

DEFAULT_PROCESS = "vp"
"""The process under which an untrained backbone is priced."""


@PROCESSES.register("vp")
class VP(ScalarProcess):
    """Continuous variance-preserving process, beta(t) = beta_min + beta_d t: alpha^2 = exp(-beta_d t^2/2 - beta_min t).

    Args:
        beta_min: Noise rate at t = 0.
        beta_max: Noise rate at t = 1; beta_d = beta_max - beta_min.
        t_min: Smallest time of sampling (EDM's eps_s).
        t_train_min: Smallest time of training (EDM's eps_t).
    """

    default_preconditioning = "eps"

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_train_min: float = 1e-5
    ) -> None:
        check_finite(beta_max=beta_max)
        if not 0 < beta_min < beta_max:
            raise UserError(
                f"beta_min {beta_min} and beta_max {beta_max} do not increase", "give 0 < beta_min < beta_max"
            )
        if not 0 < t_min < 1 or not 0 <= t_train_min < 1:
            raise UserError(
                f"t_min {t_min} or t_train_min {t_train_min} is out of range", "give times from 0 to below 1"
            )
        self.beta_min, self.beta_d = beta_min, beta_max - beta_min
        self.t_min, self.t_max, self.t_train_min = t_min, 1.0, t_train_min

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_d / 2 * t + self.beta_min)

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-B/2) with B the integral of beta."""
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha^2), without cancellation at small t."""
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha' = -beta alpha / 2; sigma' = beta alpha^2 / (2 sigma)."""
        beta, alpha = self.beta_min + self.beta_d * t, self.alpha(t)
        return -beta * alpha / 2, beta * alpha**2 / (2 * self.sigma(t))

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """(sqrt(beta_min^2 + 2 beta_d ln(1 + sigma^2)) - beta_min) / beta_d."""
        return ((self.beta_min**2 + 2 * self.beta_d * torch.log1p(sigma**2)).sqrt() - self.beta_min) / self.beta_d

    def time_label(self, t: Tensor) -> Tensor:
        """(M - 1) t with M = 1000."""
        return 999 * t

    def sample_times(self, uniform: Tensor) -> Tensor:
        """Uniform over [t_train_min, t_max]."""
        return self.t_train_min + (self.t_max - self.t_train_min) * uniform

    def grid(self, steps: int) -> Tensor:
        """Uniform in t."""
        return uniform_grid(self.t_max, self.t_min, steps)


@PROCESSES.register("vp_cosine")
class VPCosine(ScalarProcess):
    """Continuous cosine process: alpha(t) = cos(phi(t)) / cos(phi(0)), phi(t) = pi/2 (t + s) / (1 + s).

    Args:
        s: Offset that keeps the first noise levels from vanishing.
        t_min: Smallest time.
        t_max: Time of the prior; below 1, where the signal is exactly zero.
    """

    default_preconditioning = "v"

    def __init__(self, s: float = 0.008, t_min: float = 1e-3, t_max: float = 0.9946) -> None:
        if not 0 < t_min < t_max < 1:
            raise UserError(f"t_min {t_min} and t_max {t_max} are not in order", "give 0 < t_min < t_max < 1")
        self.s, self.t_min, self.t_max = s, t_min, t_max

    def _phi(self, t: Tensor) -> Tensor:
        return math.pi / 2 * (t + self.s) / (1 + self.s)

    @property
    def _phi_0(self) -> float:
        return math.pi / 2 * self.s / (1 + self.s)

    def alpha(self, t: Tensor) -> Tensor:
        """cos(phi) / cos(phi_0)."""
        return torch.cos(self._phi(t)) / math.cos(self._phi_0)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha^2) = sqrt(sin(phi - phi_0) sin(phi + phi_0)) / cos(phi_0), without cancellation."""
        phi, phi_0 = self._phi(t), self._phi_0
        return (torch.sin(phi - phi_0) * torch.sin(phi + phi_0)).sqrt() / math.cos(phi_0)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha' from the cosine; sigma' = -alpha alpha' / sigma."""
        rate = math.pi / 2 / (1 + self.s)
        alpha_dot = -rate * torch.sin(self._phi(t)) / math.cos(self._phi_0)
        return alpha_dot, -self.alpha(t) * alpha_dot / self.sigma(t)

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """From cos(phi) = cos(phi_0) / sqrt(1 + sigma^2)."""
        phi = torch.arccos(math.cos(self._phi_0) / (1 + sigma**2).sqrt())
        return phi * 2 / math.pi * (1 + self.s) - self.s

    def time_label(self, t: Tensor) -> Tensor:
        """(M - 1) t with M = 1000."""
        return 999 * t

    def grid(self, steps: int) -> Tensor:
        """Uniform in t."""
        return uniform_grid(self.t_max, self.t_min, steps)


@PROCESSES.register("ve")
class VE(ScalarProcess):
    """Variance-exploding process in EDM's reading of it: sigma(t) = sqrt(t), alpha = 1.

    Args:
        sigma_min: Smallest noise level.
        sigma_max: Noise level of the prior.
    """

    default_preconditioning = "eps"

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        check_sigmas(sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.t_min, self.t_max = sigma_min**2, sigma_max**2

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(t)."""
        return t.sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """0 and 1 / (2 sqrt(t))."""
        return torch.zeros_like(t), 0.5 / t.sqrt()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """sigma^2."""
        return sigma**2

    def time_label(self, t: Tensor) -> Tensor:
        """ln(sigma / 2)."""
        return (t.sqrt() / 2).log()

    def sample_times(self, uniform: Tensor) -> Tensor:
        """ln sigma uniform over [ln sigma_min, ln sigma_max]."""
        return self.t_min * (self.t_max / self.t_min) ** uniform

    def grid(self, steps: int) -> Tensor:
        """Geometric in sigma."""
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        return with_zero(self.t_max * (self.t_min / self.t_max) ** ramp)


@PROCESSES.register("edm")
class EDM(ScalarProcess):
    """EDM's process: sigma(t) = t, alpha = 1.

    Args:
        sigma_min: Smallest noise level of sampling.
        sigma_max: Noise level of the prior.
        rho: Exponent of the time grid; larger puts more steps near the image.
    """

    default_preconditioning = "edm"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        check_sigmas(sigma_min, sigma_max)
        self.t_min, self.t_max, self.rho = sigma_min, sigma_max, rho

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """0 and 1."""
        return torch.zeros_like(t), torch.ones_like(t)

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """sigma."""
        return sigma

    def time_label(self, t: Tensor) -> Tensor:
        """ln(sigma) / 4."""
        return t.log() / 4

    def sample_times(self, uniform: Tensor) -> Tensor:
        """ln sigma uniform; training by EDM's own objective draws it log-normal instead."""
        return self.t_min * (self.t_max / self.t_min) ** uniform

    def grid(self, steps: int) -> Tensor:
        """EDM, equation 5."""
        return with_zero(edm_sigmas(steps, self.t_min, self.t_max, self.rho))


@PROCESSES.register("flow")
class RectifiedFlow(ScalarProcess):
    """Straight lines between image and noise: alpha = 1 - t, sigma = noise_scale t.

    Args:
        t_min: Smallest time that a network is trained at.
        shift: Moves the sampling grid towards noise (above 1) as large images need; t -> shift t / (1 + (shift - 1) t)
            (arXiv 2403.03206, equation 23).
        noise_scale: Standard deviation of the noise at t = 1; 2 is JiT's for images of 512 pixels (arXiv 2511.13720).
    """

    default_preconditioning = "velocity"

    def __init__(self, t_min: float = 1e-3, shift: float = 1.0, noise_scale: float = 1.0) -> None:
        check_finite(shift=shift, noise_scale=noise_scale)
        if not 0 < t_min < 1 or shift <= 0:
            raise UserError(
                f"t_min {t_min} or shift {shift} is out of range", "give 0 < t_min < 1 and a positive shift"
            )
        if noise_scale <= 0:
            raise UserError(f"noise_scale is {noise_scale}", "give the positive standard deviation of the noise")
        self.t_min, self.t_max, self.shift, self.noise_scale = t_min, 1.0, shift, noise_scale

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """noise_scale t."""
        return self.noise_scale * t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """-1 and noise_scale."""
        return -torch.ones_like(t), torch.full_like(t, self.noise_scale)

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """sigma / (noise_scale + sigma)."""
        return sigma / (self.noise_scale + sigma)

    def time_label(self, t: Tensor) -> Tensor:
        """999 t, the range that sinusoidal embeddings are made for."""
        return 999 * t

    def grid(self, steps: int) -> Tensor:
        """Uniform in t from 1 to 0, shifted."""
        t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return self.shift * t / (1 + (self.shift - 1) * t)


def uniform_grid(t_max: float, t_min: float, steps: int) -> Tensor:
    """`steps` times evenly spaced from t_max to t_min, then 0; (steps + 1,), float64."""
    return with_zero(torch.linspace(t_max, t_min if steps > 1 else t_max, steps, dtype=torch.float64))


def with_zero(times: Tensor) -> Tensor:
    """`times` with a final 0."""
    return torch.cat([times, times.new_zeros(1)])


def check_sigmas(sigma_min: float, sigma_max: float) -> None:
    """Refuse noise levels that are not positive or not in order.

    Raises:
        UserError: Naming both.
    """
    check_finite(sigma_max=sigma_max)
    if not 0 < sigma_min < sigma_max:
        raise UserError(
            f"sigma_min {sigma_min} and sigma_max {sigma_max} are not in order", "give 0 < sigma_min < sigma_max"
        )
