"""EDM's stochastic sampler in its general form: any solver, noise levels, schedule and scaling on any scalar network.

arXiv 2206.00364, algorithms 1 and 2 and appendix C. The network is asked for D(x; sigma) of the unscaled image, which
is the denoiser of its own process at u_t = alpha(t) x with t = t_of_sigma(sigma), so that a network trained as DDPM,
VP, VE or rectified flow runs under EDM's choices; noise levels are clamped to what it was trained on and, for discrete
networks, rounded to it. The last step returns D itself, which for sigma(t) = t is what Euler's step to 0 gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from denoisezoo.diffusion.grids import clamped_limits, edm_sigmas
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import Process, ScalarProcess
from denoisezoo.diffusion.samplers.first_order import require_scalar
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, Sampler
from denoisezoo.errors import UserError

Discretization = Literal["edm", "vp", "ve", "iddpm"]

# Limits of each discretization before clamping; VP's are sigma(eps_s) and sigma(1) for beta_d 19.9, beta_min 0.1.
_LIMITS = {"edm": (0.002, 80.0), "vp": (0.0104859928, 152.16697), "ve": (0.02, 100.0), "iddpm": (0.002, 81.0)}
_EPS_S = 1e-3


@dataclass(frozen=True)
class Path:
    """sigma(t) and s(t) of the sampler's own ODE with derivatives (EDM, equation 4); all maps of scalars ()."""

    sigma: Callable[[Tensor], Tensor]
    sigma_dot: Callable[[Tensor], Tensor]
    sigma_inv: Callable[[Tensor], Tensor]
    s: Callable[[Tensor], Tensor]
    s_dot: Callable[[Tensor], Tensor]


def vp_betas(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """beta_d and beta_min of the VP schedule whose limits are sigma_min at t = eps_s and sigma_max at t = 1."""
    low, high = math.log(sigma_min**2 + 1), math.log(sigma_max**2 + 1)
    beta_d = 2 * (low / _EPS_S - high) / (_EPS_S - 1)
    return beta_d, high - 0.5 * beta_d


def make_path(schedule: str, scaling: str, sigma_min: float, sigma_max: float) -> Path:
    """The ODE's time axis for a schedule ("linear", "ve", "vp") and a scaling ("none", "vp")."""
    beta_d, beta_min = vp_betas(sigma_min, sigma_max)

    def vp_sigma(t: Tensor) -> Tensor:
        return torch.expm1(0.5 * beta_d * t**2 + beta_min * t).sqrt()

    schedules: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
        "linear": (lambda t: t, torch.ones_like, lambda sigma: sigma),
        "ve": (torch.sqrt, lambda t: 0.5 / t.sqrt(), torch.square),
        "vp": (
            vp_sigma,
            lambda t: 0.5 * (beta_min + beta_d * t) * (vp_sigma(t) + 1 / vp_sigma(t)),
            lambda sigma: ((beta_min**2 + 2 * beta_d * torch.log1p(sigma**2)).sqrt() - beta_min) / beta_d,
        ),
    }
    sigma, sigma_dot, sigma_inv = schedules[schedule]
    if scaling == "none":
        return Path(sigma, sigma_dot, sigma_inv, torch.ones_like, torch.zeros_like)

    def s(t: Tensor) -> Tensor:
        return 1 / (1 + sigma(t) ** 2).sqrt()

    return Path(sigma, sigma_dot, sigma_inv, s, lambda t: -sigma(t) * sigma_dot(t) * s(t) ** 3)


def iddpm_levels(M: int = 1000, C_1: float = 0.001, C_2: float = 0.008) -> Tensor:
    """Noise levels u_0 ... u_M of improved DDPM, falling, float64, u_M = 0 (EDM, table 1)."""

    def alpha_bar(j: int) -> float:
        return math.sin(math.pi / 2 * j / (M * (C_2 + 1))) ** 2

    u = [0.0] * (M + 1)
    for j in range(M, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(alpha_bar(j - 1) / alpha_bar(j), C_1) - 1)
    return torch.tensor(u, dtype=torch.float64)


def noise_levels(kind: str, steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """The noise levels (steps,) of a discretization, float64, falling, without the final zero."""
    ramp = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    if kind == "edm":
        return edm_sigmas(steps, sigma_min, sigma_max, rho)
    if kind == "ve":
        return sigma_max * (sigma_min / sigma_max) ** ramp
    if kind == "vp":
        return make_path("vp", "none", sigma_min, sigma_max).sigma(1 + ramp * (_EPS_S - 1))
    u = iddpm_levels()
    u = u[(u >= sigma_min) & (u <= sigma_max)]
    # The paper's floor formula skips the first j_0 levels; its code picks among those within the limits, as here.
    return u[((len(u) - 1) * ramp).round().long()]


@SAMPLERS.register("edm")
@dataclass(frozen=True)
class EDMSampler(Sampler):
    """EDM's sampler. S_churn = 0 is deterministic; heun makes 2N - 1 calls, euler N.

    Attributes:
        solver: "heun" (the second-order family) or "euler".
        discretization: Where the noise levels lie.
        schedule: sigma(t) of the ODE that is solved.
        scaling: s(t) of that ODE.
        alpha: Member of the second-order family: 1 Heun, 1/2 midpoint, 2/3 Ralston. Discrete networks need 1.
        rho: Exponent of the "edm" noise levels.
        sigma_min: Smallest noise level; None is the discretization's, and both are clamped to the network's.
        sigma_max: Largest noise level.
        S_churn: Amount of noise added anew over all steps.
        S_min: Noise is added only at levels from here ...
        S_max: ... to here.
        S_noise: Standard deviation of added noise.
    """

    name: ClassVar[str] = "edm"
    order: ClassVar[int | None] = 2
    solver: Literal["heun", "euler"] = "heun"
    discretization: Discretization = "edm"
    schedule: Literal["linear", "ve", "vp"] = "linear"
    scaling: Literal["none", "vp"] = "none"
    alpha: float = 1.0
    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None
    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1 or self.S_churn < 0 or self.rho <= 0:
            raise UserError(
                f"alpha {self.alpha}, S_churn {self.S_churn} or rho {self.rho} is out of range",
                "give 0 < alpha <= 1, S_churn >= 0 and rho > 0",
            )

    def check(self, process: Process) -> None:
        """Scalar processes only."""
        require_scalar(process, self.name)

    def nfe(self, steps: int) -> int:
        """2N - 1 for heun, N for euler."""
        return steps if self.solver == "euler" else 2 * steps - 1

    def limits(self, process: ScalarProcess) -> tuple[float, float]:
        """Noise levels (smallest, largest) that this sampler uses on a process."""
        low, high = _LIMITS[self.discretization]
        return clamped_limits(process, self.sigma_min or low, self.sigma_max or high)

    def sigmas(self, process: ScalarProcess, steps: int) -> Tensor:
        """Noise levels (steps,), rounded to those the network knows."""
        return process.round_sigma(noise_levels(self.discretization, steps, *self.limits(process), self.rho))

    def grid(self, process: Process, steps: int) -> Tensor:
        """The levels as times of the process, for the record; the ODE is solved in its own time."""
        scalar = require_scalar(process, self.name)
        times = scalar.t_of_sigma(self.sigmas(scalar, steps))
        return torch.cat([times, times.new_zeros(1)])

    def walk(self, call: Caller, u: Tensor, grid: Tensor, generator: Noise) -> Tensor:
        """EDM, algorithm 2, with general sigma(t) and s(t)."""
        process = require_scalar(call.process, self.name)
        steps = len(grid) - 1
        path = make_path(self.schedule, self.scaling, *self.limits(process))
        times = path.sigma_inv(self.sigmas(process, steps))
        # u = alpha (y + sigma n) of the process becomes x = s (y + sigma n) of this ODE.
        x = u * (path.s(times[0]) / process.alpha(grid[0])).to(u.dtype)
        for i, t in enumerate(times):
            t_hat, x = self._churn(process, path, x, t, steps, generator)
            if i == steps - 1:
                return self._denoised(call, process, path, x, t_hat)
            x = self._advance(call, process, path, x, t_hat, times[i + 1])
        return x

    def _churn(
        self,
        process: ScalarProcess,
        path: Path,
        x: Tensor,
        t: Tensor,
        steps: int,
        generator: Noise,
    ) -> tuple[Tensor, Tensor]:
        """Raise the noise level a little by adding fresh noise; returns the new time and state."""
        sigma = path.sigma(t)
        if not self.S_churn or not self.S_min <= float(sigma) <= self.S_max:
            return t, x
        gamma = min(self.S_churn / steps, math.sqrt(2) - 1)
        ceiling = process.edm_sigma(torch.tensor(process.t_max, dtype=torch.float64))
        t_hat = path.sigma_inv(process.round_sigma(torch.minimum(sigma * (1 + gamma), ceiling)))
        s_hat = path.s(t_hat)
        std = (path.sigma(t_hat) ** 2 - sigma**2).clamp(min=0).sqrt() * s_hat * self.S_noise
        x_hat = (s_hat / path.s(t)).to(x.dtype) * x + std.to(x.dtype) * normal_like(x, generator)
        return t_hat, x_hat

    def _denoised(self, call: Caller, process: ScalarProcess, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """D(x / s; sigma), by way of the network's own process."""
        time = process.nearest_time(process.t_of_sigma(path.sigma(t)))
        scale = process.alpha(time) / path.s(t)
        return call(scale.to(x.dtype) * x, time).u_0

    def _slope(self, call: Caller, process: ScalarProcess, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt = (sigma'/sigma + s'/s) x - sigma' s/sigma D(x/s; sigma) (EDM, equation 81)."""
        D = self._denoised(call, process, path, x, t)
        rate = path.sigma_dot(t) / path.sigma(t)
        of_x, of_D = rate + path.s_dot(t) / path.s(t), rate * path.s(t)
        return of_x.to(x.dtype) * x - of_D.to(x.dtype) * D

    def _advance(self, call: Caller, process: ScalarProcess, path: Path, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """One step from t to s of the second-order family (EDM, algorithm 3), or of Euler's method."""
        h = (s - t).to(x.dtype)
        d = self._slope(call, process, path, x, t)
        if self.solver == "euler":
            return x + h * d
        d_prime = self._slope(call, process, path, x + self.alpha * h * d, t + self.alpha * (s - t))
        weight = 1 / (2 * self.alpha)
        return x + h * ((1 - weight) * d + weight * d_prime)
