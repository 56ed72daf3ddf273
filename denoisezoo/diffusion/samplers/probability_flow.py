"""Euler and Heun on the probability-flow ODE du/dt = A' u_0 + R' eps, in the process's t."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from denoisezoo.diffusion.denoiser import slope
from denoisezoo.diffusion.noise import Noise
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler, History


@SAMPLERS.register("euler")
@dataclass(frozen=True)
class Euler(GridSampler):
    """Euler's method in the process's own time; the last step is the predicted image. NFE = N."""

    convergence: ClassVar[int | None] = 1

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """u_s = u_t + (s - t) du/dt."""
        return u + (s - t).to(u.dtype) * slope(call.process, call(u, t), t)


@SAMPLERS.register("heun")
@dataclass(frozen=True)
class Heun(GridSampler):
    """Heun's second-order method in the process's own time (EDM, algorithm 1). NFE = 2N - 1."""

    convergence: ClassVar[int | None] = 2

    def nfe(self, steps: int) -> int:
        """Two calls a step, one in the last."""
        return 2 * steps - 1

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """The trapezoidal rule with an Euler step as predictor."""
        h = (s - t).to(u.dtype)
        d = slope(call.process, call(u, t), t)
        d_prime = slope(call.process, call(u + h * d, s), s)
        return u + h * (d + d_prime) / 2
