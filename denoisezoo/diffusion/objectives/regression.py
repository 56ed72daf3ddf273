"""Regression: at which noise levels a denoiser is trained, and how errors there are weighed.

The loss is the mean over the batch of w(t) times the mean over pixels of (F - target)^2, in the network's own output,
so that w = 1 is L_simple for noise prediction, flow matching for velocity, and lambda = 1/c_out^2 for EDM. (EDM's code
sums over pixels; the mean differs by the constant C H W, to which Adam is blind but for its epsilon.)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from denoisezoo.diffusion.capabilities import Conditioned, clean_state, stages_of
from denoisezoo.diffusion.coefficients import aligned, over_images
from denoisezoo.diffusion.objectives.objective import OBJECTIVES, Case, Loss, Objective, Step, network_alone
from denoisezoo.diffusion.objectives.times import LogNormalSigma, Times, UniformTimes
from denoisezoo.diffusion.processes.process import DiagonalProcess, Process, ScalarProcess, times_for
from denoisezoo.errors import UserError


class Regression(Objective):
    """The weighted squared error of the network's own output, at times that are drawn for each image.

    Args:
        times: Distribution of training times.
        reduction: Over pixels and channels; the batch is averaged over in any case.
    """

    def __init__(self, times: Times, reduction: Literal["mean", "sum"] = "mean") -> None:
        self.times, self.reduction = times, reduction

    def advance(self, number: int) -> None:
        """As the distribution of times does."""
        self.times.advance(number)

    def __call__(self, step: Step) -> Loss:
        """The loss of one batch; with `full_error`, `per_sample` and `error` remain those of the target."""
        image, generator, process, given = step.batch["image"], step.generator, step.denoiser.process, step.given
        u_0 = clean_state(process, image, generator, given.image)
        t = self.times(process, self.times.uniform(len(image), step.host_generator, step.host))
        eps = torch.empty_like(u_0).normal_(generator=generator)
        if isinstance(process, Conditioned):  # it takes the condition itself
            given = given._replace(image=None)
        error, c_out = step.denoiser.training_error(u_0, eps, t, given, step.effort)
        t = times_for(process, u_0, t)
        squared = error.float().square()
        per_sample = squared.mean(dim=tuple(range(1, error.ndim)))
        weight = self.weight(process, t, c_out).to(per_sample.dtype)
        learned = squared if step.full_error is None else (error - step.full_error).float().square()
        weighted = over_images(weight, learned) * learned
        total = weighted.mean() if self.reduction == "mean" else weighted.sum() / len(image)
        return Loss(total, per_sample.detach(), t, error)

    def cases(self, step: Step) -> Iterator[Case]:
        """A process with stages asks for smaller images, and other networks, at the times of each."""
        return super().cases(step) if len(stages_of(step.denoiser.process)) == 1 else network_alone(step)

    @abstractmethod
    def weight(self, process: Process, t: Tensor, c_out: Tensor) -> Tensor:
        """Weight of the squared error of F at times t (B,); c_out turns that error into one of u_0.

        Both are (B,), or maps (B, C or 1, H or 1, W or 1) where coefficients have noise levels of their own.
        """


@OBJECTIVES.register("simple")
class Simple(Regression):
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
class EDMLoss(Regression):
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
class MinSNR(Regression):
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
class Likelihood(Regression):
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
