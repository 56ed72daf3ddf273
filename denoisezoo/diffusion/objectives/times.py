"""Distributions of training times."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import nearest_time, stages_of, unconditioned
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.processes.process import Process, ScalarProcess
from denoisezoo.errors import UserError
from denoisezoo.recorded import Recorded
from denoisezoo.registry import Registry

TIMES: Registry[type[Times]] = Registry("time distribution")


class Times(Recorded, ABC):
    """A distribution of training times.

    Args:
        stratified: Spread the batch evenly over the distribution, u_i = (u + i/B) mod 1, which lowers the variance of
            the gradient (variational diffusion models, arXiv 2107.00630, appendix I.1).
    """

    def __init__(self, stratified: bool = False) -> None:
        self.stratified = stratified

    def uniform(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Uniform numbers (n,) in [0, 1), float64."""
        if not self.stratified:
            return torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        start = torch.rand(1, generator=generator, device=device, dtype=torch.float64)
        return (start + torch.arange(n, device=device, dtype=torch.float64) / n) % 1.0

    def advance(self, step: int) -> None:
        """Become what the distribution is after so many optimiser steps; most never change."""
        return

    @abstractmethod
    def __call__(self, process: Process, uniform: Tensor) -> Tensor:
        """Uniform numbers (n,) to times (n,)."""


@TIMES.register("uniform")
class UniformTimes(Times):
    """As the process itself spreads them: uniform in t, or in ln sigma for VE."""

    def __call__(self, process: Process, uniform: Tensor) -> Tensor:
        """Times (n,)."""
        return process.sample_times(uniform)


@TIMES.register("one_stage")
class OneStage(Times):
    """All of a batch in one stage: a process with stages trains one network per step, in its own time.

    With uniform times, stratified, every batch holds all stages in equal parts instead.

    Args:
        in_turn: Step b trains stage b mod K, the least noisy one first, as the code of multi-scale diffusion does
            (arXiv 2207.09786), on all processes alike. Else the stage is drawn at random for each part of a step.
        stratified: See `Times`.
    """

    def __init__(self, in_turn: bool = True, stratified: bool = False) -> None:
        super().__init__(stratified)
        self.in_turn, self.step = in_turn, 0

    def advance(self, step: int) -> None:
        """The step decides whose turn it is."""
        self.step = step

    def uniform(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Uniform numbers (n,); drawn at random (n + 1,), of which the last chooses the stage."""
        return super().uniform(n if self.in_turn else n + 1, generator, device)

    def __call__(self, process: Process, uniform: Tensor) -> Tensor:
        """Times (n,)."""
        stages = len(stages_of(process))  # each has an equal share of [0, 1)
        if self.in_turn:
            return process.sample_times((uniform + self.step % stages) / stages)
        return process.sample_times((uniform[:-1] + (uniform[-1] * stages).floor()) / stages)


@TIMES.register("few")
class FewTimes(Times):
    """Only the times of a sampler's grid, all alike (Fast-DDPM: Jiang et al. 2024, arXiv 2405.14802).

    Give the sampler the same grid and steps, e.g. `ddim:time_grid=fast_uniform` with 11 steps.

    Args:
        steps: Times of the grid.
        time_grid: A name in `GRIDS`.
        antithetic: Pair the i-th time with the i-th from the end, as the paper's code does.
    """

    def __init__(self, steps: int = 11, time_grid: str = "fast_uniform", antithetic: bool = True) -> None:
        super().__init__()
        if steps < 1:
            raise UserError(f"steps is {steps}", "give a whole number of at least 1")
        GRIDS[time_grid]  # an unknown name ends here
        self.steps, self.time_grid, self.antithetic = steps, time_grid, antithetic

    def uniform(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Uniform numbers (n,), the second half mirrored from the first."""
        half = super().uniform((n + 1) // 2 if self.antithetic else n, generator, device)
        return torch.cat([half, 1 - half])[:n] if self.antithetic else half

    def __call__(self, process: Process, uniform: Tensor) -> Tensor:
        """Times (n,)."""
        times = GRIDS[self.time_grid](unconditioned(process), self.steps)[:-1].to(uniform)
        return times[(uniform * len(times)).long().clamp(max=len(times) - 1)]


@TIMES.register("log_normal")
class LogNormalSigma(Times):
    """ln sigma ~ N(P_mean, P_std^2) (EDM, table 1), cut to the range of the process.

    Args:
        P_mean: Mean of ln sigma.
        P_std: Standard deviation of ln sigma.
        stratified: See `Times`.
    """

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2, stratified: bool = False) -> None:
        super().__init__(stratified)
        if P_std <= 0:
            raise UserError(f"P_std is {P_std}", "give a positive number")
        self.P_mean, self.P_std = P_mean, P_std

    def __call__(self, process: Process, uniform: Tensor) -> Tensor:
        """Times (n,)."""
        if not isinstance(process, ScalarProcess):
            raise UserError("log-normal times need one noise level for all coefficients", "use UniformTimes")
        sigma = torch.exp(self.P_mean + self.P_std * torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)))
        return nearest_time(process, process.t_of_sigma(sigma).clamp(process.t_min, process.t_max))


@TIMES.register("logit_normal")
class LogitNormalTimes(Times):
    """logit t ~ N(mean, std^2), the usual choice for rectified flow (arXiv 2403.03206, section 3.1).

    Args:
        mean: Mean of logit t.
        std: Standard deviation of logit t.
        stratified: See `Times`.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> None:
        super().__init__(stratified)
        if std <= 0:
            raise UserError(f"std is {std}", "give a positive number")
        self.mean, self.std = mean, std

    def __call__(self, process: Process, uniform: Tensor) -> Tensor:
        """Times (n,)."""
        normal = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))
        share = torch.sigmoid(self.mean + self.std * normal)
        return nearest_time(process, process.t_min + (process.t_max - process.t_min) * share)
