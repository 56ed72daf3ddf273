"""Euler, Heun and DPM-Solver++(2M) on the probability-flow ODE du/dt = A' u_0 + R' eps, in the process's t."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from denoisezoo.diffusion.denoiser import slope
from denoisezoo.diffusion.noise import Noise
from denoisezoo.diffusion.processes.process import Process
from denoisezoo.diffusion.samplers.first_order import require_scalar
from denoisezoo.diffusion.samplers.sampler import SAMPLERS, Caller, GridSampler, History, transfer


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


LONGEST = 2.0
"""A multistep in lambda does not extrapolate what changed over a step less than half as long: the error, and with noise
that of the step before, would grow with the ratio. Even times end with such a step; without the limit the variance of
Gaussian data is 3 to 8 times as wrong after 10 to 20 steps of VP (tests/diffusion/test_nonuniform_samplers.py)."""


@SAMPLERS.register("dpmpp_2m")
@dataclass(frozen=True)
class DPMSolverPP2M(GridSampler):
    """DPM-Solver++(2M): second-order multistep on the predicted image (arXiv 2211.01095, algorithm 2). NFE = N.

    The first step, the last, which lands on the image itself, and those over `LONGEST` times the one before are of
    first order.
    """

    convergence: ClassVar[int | None] = 2

    def check(self, process: Process) -> None:
        """Scalar processes only."""
        require_scalar(process, self.name)

    def step(self, call: Caller, u: Tensor, t: Tensor, s: Tensor, history: History, generator: Noise) -> Tensor:
        """u_s = sigma_s/sigma_t u_t - alpha_s (e^-h - 1) D with D extrapolated from two predictions of u_0."""
        process = require_scalar(call.process, self.name)
        prediction, last = call(u, t), history.pop() if history else None
        history.append((t, prediction.u_0))
        if last is None:
            return transfer(process, prediction, s)
        t_last, u_0_last = last
        h_last, h = process.log_snr(torch.stack([t_last, t, s])).diff() / 2
        # After a start with no signal, where the step was infinite, there is nothing to extrapolate from either.
        if torch.isinf(h_last) or h > LONGEST * h_last:
            return transfer(process, prediction, s)
        D = prediction.u_0 + (h / (2 * h_last)).to(u.dtype) * (prediction.u_0 - u_0_last)
        decay = (process.sigma(s) / process.sigma(t)).to(u.dtype)
        return decay * u - (process.alpha(s) * torch.expm1(-h)).to(u.dtype) * D
