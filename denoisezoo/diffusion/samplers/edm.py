"""EDM's stochastic sampler in its general form: any solver, noise levels, schedule and scaling on any scalar network.

arXiv 2206.00364, algorithms 1 and 2 and appendix C. The network is asked for D(x; sigma) of the unscaled image, which
is the denoiser of its own process at u_t = alpha(t) x with t = t_of_sigma(sigma), so that a network trained as DDPM,
VP, VE or rectified flow runs under EDM's choices; noise levels are clamped to what it was trained on and, for discrete
networks, rounded to it. The last step is Euler's to 0 in the ODE's own time, which for sigma(t) = t and no scaling
is D itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import nearest_time
from denoisezoo.diffusion.grids import clamped_limits, edm_sigmas, within
from denoisezoo.diffusion.noise import Noise, normal_like
from denoisezoo.diffusion.processes.process import Process, ScalarProcess
from denoisezoo.diffusion.samplers.first_order import require_scalar
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, Sampler
from denoisezoo.errors import UserError

Discretization = Literal["edm", "vp", "ve", "iddpm"]

_EPS_S = 1e-3


def _vp_level(t: float, beta_d: float = 19.9, beta_min: float = 0.1) -> float:
    """sigma(t) of score SDE's VP."""
    return math.sqrt(math.expm1(0.5 * beta_d * t**2 + beta_min * t))


_LIMITS = {
    "edm": (0.002, 80.0),
    "vp": (_vp_level(_EPS_S), _vp_level(1.0)),
    "ve": (0.02, 100.0),
    "iddpm": (0.002, 81.0),
}
"""Limits of each discretization before clamping."""


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
    u = u[within(u, sigma_min, sigma_max)]
    if not len(u):
        raise UserError(
            f"no level of iddpm lies from sigma_min {sigma_min:g} to sigma_max {sigma_max:g}", "move them further apart"
        )
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
        last: The last step: "euler" in the ODE's own time, as EDM's code has it, or "denoised", D itself. By the first
            a schedule "ve" lands half way, at (x + D) / 2, and one of "vp" near D.
    """

    convergence: ClassVar[int | None] = 2
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
    last: Literal["euler", "denoised"] = "euler"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1 or self.S_churn < 0 or self.rho <= 0:
            raise UserError(
                f"alpha {self.alpha}, S_churn {self.S_churn} or rho {self.rho} is out of range",
                "give 0 < alpha <= 1, S_churn >= 0 and rho > 0",
            )
        if not 0 <= self.S_min <= self.S_max or self.S_noise < 0:
            raise UserError(
                f"S_min {self.S_min}, S_max {self.S_max} or S_noise {self.S_noise} is out of range",
                "give 0 <= S_min <= S_max and S_noise >= 0",
            )
        low, high = self._asked
        if not 0 < low < high:
            raise UserError(
                f"sigma_min {low:g} and sigma_max {high:g} are not in order", "give 0 < sigma_min < sigma_max"
            )

    def check(self, process: Process) -> None:
        """Scalar processes only."""
        require_scalar(process, self.name)

    def nfe(self, steps: int) -> int:
        """2N - 1 for heun, N for euler."""
        return steps if self.solver == "euler" else 2 * steps - 1

    def limits(self, process: ScalarProcess) -> tuple[float, float]:
        """Noise levels (smallest, largest) that this sampler uses on a process."""
        return clamped_limits(process, *self._asked)

    @property
    def _asked(self) -> tuple[float, float]:
        """The same before they are clamped."""
        low, high = _LIMITS[self.discretization]
        return low if self.sigma_min is None else self.sigma_min, high if self.sigma_max is None else self.sigma_max

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
                return self._ended(call, process, path, x, t_hat)
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
        if not self.S_churn or not bool(within(sigma, self.S_min, self.S_max)):
            return t, x
        gamma = min(self.S_churn / steps, math.sqrt(2) - 1)
        # At the first level this goes above t_max, as in EDM's code: continuous processes are defined there too.
        t_hat = path.sigma_inv(process.round_sigma(sigma * (1 + gamma)))
        s_hat = path.s(t_hat)
        std = (path.sigma(t_hat) ** 2 - sigma**2).clamp(min=0).sqrt() * s_hat * self.S_noise
        x_hat = (s_hat / path.s(t)).to(x.dtype) * x + std.to(x.dtype) * normal_like(x, generator)
        return t_hat, x_hat

    def _denoised(self, call: Caller, process: ScalarProcess, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """D(x / s; sigma), by way of the network's own process."""
        time = nearest_time(process, process.t_of_sigma(path.sigma(t)))
        scale = process.alpha(time) / path.s(t)
        return call(scale.to(x.dtype) * x, time).u_0

    def _ended(self, call: Caller, process: ScalarProcess, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """The image, from the last level."""
        if self.last == "denoised" or (self.schedule == "linear" and self.scaling == "none"):
            return self._denoised(call, process, path, x, t)
        return x - t.to(x.dtype) * self._slope(call, process, path, x, t)  # s(0) = 1

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
