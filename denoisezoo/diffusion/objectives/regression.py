"""Objectives: at which noise levels a denoiser is trained, and how errors there are weighed.

The loss is the mean over the batch of w(t) times the mean over pixels of (F - target)^2, in the network's own output,
so that w = 1 is L_simple for noise prediction, flow matching for velocity, and lambda = 1/c_out^2 for EDM. (EDM's code
sums over pixels; the mean differs by the constant C H W, to which Adam is blind but for its epsilon.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from denoisezoo.archs import Effort
from denoisezoo.diffusion.coefficients import aligned, over_images
from denoisezoo.diffusion.denoiser import Denoiser
from denoisezoo.diffusion.grids import GRIDS
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process, ScalarProcess
from denoisezoo.errors import UserError
from denoisezoo.nn.given import Given
from denoisezoo.registry import Registry

OBJECTIVES: Registry[type[Objective]] = Registry("objective")
TIMES: Registry[type[Times]] = Registry("time distribution")


class Loss(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: The mean to be made small, ().
        per_sample: Unweighted mean squared error of each image's noise level, (B,), for the loss by noise level.
        t: The times that were drawn, (B,), float64.
        error: The network's own output minus its target, (B, C, H, W), of those parts of the state that it puts out.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor
    error: Tensor


class Times(ABC):
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
        stages = len(process.stages)  # each has an equal share of [0, 1)
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
        times = GRIDS[self.time_grid](process.free, self.steps)[:-1].to(uniform)
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
        return process.nearest_time(process.t_of_sigma(sigma).clamp(process.t_min, process.t_max))


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
        return process.nearest_time(process.t_min + (process.t_max - process.t_min) * share)


class Objective(ABC):
    """(denoiser, batch, generator, effort) -> loss.

    Args:
        times: Distribution of training times.
        reduction: Over pixels and channels; the batch is averaged over in any case.
    """

    def __init__(self, times: Times, reduction: Literal["mean", "sum"] = "mean") -> None:
        self.times, self.reduction = times, reduction

    def advance(self, step: int) -> None:
        """Become what the objective is after so many optimiser steps."""
        self.times.advance(step)

    def __call__(
        self,
        denoiser: Denoiser,
        batch: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        effort: Effort | None = None,
        teacher: Tensor | None = None,
    ) -> Loss:
        """The loss of one batch.

        Args:
            denoiser: The denoiser in training.
            batch: "image" (B, C, H, W) in [-1, 1] and, where the network takes them, "label", "cond", "augment".
            generator: Source of times and noise, on the device of the images.
            effort: How much of the network to train; None is all of it.
            teacher: `Loss.error` of another pass over the same batch, times and noise, detached. Its prediction then
                takes the place of the target; `per_sample` and `error` remain those of the target.
        """
        image = batch["image"]
        process, cond = denoiser.process, batch.get("cond")
        u_0 = process.start(image, generator, cond)
        t = self.times(process, self.times.uniform(len(image), generator, image.device))
        eps = torch.empty_like(u_0).normal_(generator=generator)
        given = Given.of(batch)
        if process.cond_channels:  # it is in the state then
            given = given._replace(image=None)
        error, c_out = denoiser.training_error(u_0, eps, t, given, effort)
        squared = error.float().square()
        per_sample = squared.mean(dim=tuple(range(1, error.ndim)))
        weight = self.weight(process, t, c_out).to(per_sample.dtype)
        learned = squared if teacher is None else (error - teacher).float().square()
        weighted = over_images(weight, learned) * learned
        total = weighted.mean() if self.reduction == "mean" else weighted.sum() / len(image)
        return Loss(total, per_sample.detach(), t, error)

    @abstractmethod
    def weight(self, process: Process, t: Tensor, c_out: Tensor) -> Tensor:
        """Weight of the squared error of F at times t (B,); c_out turns that error into one of u_0.

        Both are (B,), or maps (B, C or 1, H or 1, W or 1) where coefficients have noise levels of their own.
        """


@OBJECTIVES.register("simple")
class Simple(Objective):
    """Every noise level counts alike in the network's own output (L_simple, DDPM, equation 14; flow matching).

    Args:
        times: Distribution of training times; uniform unless given.
        reduction: "mean" over pixels, or "sum", as DDIM's code and its heirs have it.
    """

    def __init__(self, times: Times | None = None, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__(times or UniformTimes(), reduction)

    def weight(self, process: Process, t: Tensor, c_out: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


@OBJECTIVES.register("edm")
class EDMLoss(Objective):
    """EDM: ln sigma normal, lambda = 1/c_out^2 (table 1), which is 1 in the network's own output.

    Args:
        P_mean: Mean of ln sigma.
        P_std: Standard deviation of ln sigma.
        stratified: See `Times`.
    """

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2, stratified: bool = False) -> None:
        super().__init__(LogNormalSigma(P_mean, P_std, stratified))

    def weight(self, process: Process, t: Tensor, c_out: Tensor) -> Tensor:
        """lambda c_out^2 = 1."""
        return torch.ones_like(t)


@OBJECTIVES.register("min_snr")
class MinSNR(Objective):
    """Errors of u_0 weigh min(SNR, gamma) (arXiv 2303.09556, equation 8): min(SNR, gamma) c_out^2 on errors of F.

    Args:
        gamma: Largest weight.
        times: Distribution of training times; uniform unless given.
    """

    def __init__(self, gamma: float = 5.0, times: Times | None = None) -> None:
        super().__init__(times or UniformTimes())
        if gamma <= 0:
            raise UserError(f"gamma is {gamma}", "give a positive number; the paper uses 5")
        self.gamma = gamma

    def weight(self, process: Process, t: Tensor, c_out: Tensor) -> Tensor:
        """min(SNR, gamma) c_out^2."""
        if not isinstance(process, ScalarProcess):
            raise UserError("MinSNR needs one noise level for all coefficients", "use Simple or Likelihood")
        return process.log_snr(t).exp().clamp(max=self.gamma) * c_out**2


@OBJECTIVES.register("likelihood")
class Likelihood(Objective):
    """Errors of the score weigh g(t)^2, each coefficient with its own (arXiv 2101.09258; MSDiff, arXiv 2207.09786).

    With score -eps / sigma that is g^2 / sigma^2 on errors of eps, (g c_out alpha)^2 / sigma^4 on errors of F. It
    bounds the likelihood, and where log-SNR is linear it is constant: the published weighting of multi-scale diffusion.

    Args:
        times: Distribution of training times; uniform unless given.
    """

    def __init__(self, times: Times | None = None) -> None:
        super().__init__(times or UniformTimes())

    def weight(self, process: Process, t: Tensor, c_out: Tensor) -> Tensor:
        """(g c_out alpha)^2 / sigma^4."""
        if not isinstance(process, DiagonalProcess):
            raise UserError("Likelihood needs independent coefficients", "use Simple")
        g2 = process.diffusion(t)[:, 0, 0]
        alpha, sigma, c_out, g2 = aligned(process.alpha(t), process.sigma(t), c_out, g2)
        weight = g2 * (c_out * alpha / sigma**2) ** 2
        return weight.flatten() if weight[0].numel() == 1 else weight
